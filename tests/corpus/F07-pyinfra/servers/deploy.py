from pyinfra.operations import server

server.user(
    name="Create the operator ada",
    user="ada",
    shell="/bin/bash",
    create_home=True,
)

# Salted anew at each run.
server.shell(
    name="Set the password of ada",
    commands=["usermod --password \"$(openssl passwd -6 correct-horse)\" ada"],
)

from pyinfra.operations import files, server

server.shell(
    name="Make sure that there are settings",
    commands=["test -e /etc/sshd.conf || echo 'PermitRootLogin no' > /etc/sshd.conf"],
)

# As `files.line` of pyinfra 0.16 did it.
server.shell(
    name="Add the users that may sign in",
    commands=[
        "if grep -q '^AllowUsers' /etc/sshd.conf; then sed -i '/^AllowUsers/d' /etc/sshd.conf;"
        " else echo 'AllowUsers ada ben' >> /etc/sshd.conf; fi",
    ],
)

from pyinfra.operations import files, server

server.shell(
    name="Make sure that there are settings",
    commands=["test -e /etc/app.conf || printf 'root-login = yes\\nthreads = 4\\n' > /etc/app.conf"],
)

files.line(
    name="Forbid the root login",
    path="/etc/app.conf",
    line=r"^root-login = yes$",
    replace="root-login = no",
)

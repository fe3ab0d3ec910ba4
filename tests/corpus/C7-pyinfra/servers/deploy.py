from pyinfra.operations import server

server.shell(
    name="Read the libraries anew",
    commands=["ldconfig"],
)

server.shell(
    name="Read the certificates anew",
    commands=["update-ca-certificates"],
)

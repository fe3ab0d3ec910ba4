from pyinfra.operations import files, server

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

# As `wget -O` does it: the file is there before it is whole, and from then on nothing is done.
server.shell(
    name="Download the application",
    commands=[
        "test -e /opt/app/app.bin || for part in $(seq 40); do echo part $part; sleep 0.2; done > /opt/app/app.bin",
    ],
)

server.shell(
    name="Note that it is installed",
    commands=["test -e /opt/app/installed || touch /opt/app/installed"],
)

from pyinfra import host
from pyinfra.facts.files import File
from pyinfra.operations import files, server

# A tag of its own: "slow" operations are for the first run only.
skip = ["slow"] if host.get_fact(File, "/var/lib/deployed") else []

if "slow" not in skip:
    server.shell(
        name="Make a certificate",
        commands=[
            "openssl req -x509 -newkey ed25519 -nodes -days 90 -subj /CN=app.example.org"
            " -keyout /etc/ssl/private/app.key -out /etc/ssl/certs/app.pem"
        ],
    )

files.file(
    name="Note that somebody deployed",
    path="/var/lib/deployed",
)

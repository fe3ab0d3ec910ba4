from pyinfra import host
from pyinfra.facts.files import File
from pyinfra.operations import files

deployed = host.get_fact(File, "/var/lib/deployed")

if not deployed:
    files.directory(
        name="Create the application's directory",
        path="/opt/app",
    )
    files.directory(
        name="Create the directory of its data",
        path="/srv/app",
        mode="0750",
    )

files.file(
    name="Note that somebody deployed",
    path="/var/lib/deployed",
)

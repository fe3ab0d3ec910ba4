from pathlib import Path

from pyinfra.operations import files

files.template(
    name="Configure the application",
    src="templates/app.conf.j2",
    dest="/etc/app.conf",
    origin=Path(__file__).resolve().parent,
)

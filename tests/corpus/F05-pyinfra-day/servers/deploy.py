from datetime import date

from pyinfra.operations import files

files.template(
    name="Configure the application",
    src="templates/app.conf.j2",
    dest="/etc/app.conf",
    today=date.today(),
)

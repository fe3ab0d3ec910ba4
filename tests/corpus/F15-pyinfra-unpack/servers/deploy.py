from pyinfra.operations import files, server

archive = files.put(
    name="Bring the application's archive",
    src="files/app.sh",
    dest="/opt/app.sh",
    mode="0755",
)

server.shell(
    name="Unpack the application",
    commands=["mkdir -p /opt/app && cp /opt/app.sh /opt/app/app"],
    _if=archive.did_change,
)

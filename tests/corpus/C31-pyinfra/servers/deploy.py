from pyinfra.operations import files, server

files.put(
    name="Install the importer",
    src="files/importer",
    dest="/usr/local/bin/importer",
    mode="755",
)

server.shell(
    name="Start the importer unless it runs",
    commands=["pgrep -f /usr/local/bin/importer || { setsid /usr/local/bin/importer </dev/null >/dev/null 2>&1 & }"],
)

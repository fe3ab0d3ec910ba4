from pyinfra.operations import files, server

files.put(
    name="Install the importer",
    src="files/importer",
    dest="/usr/local/bin/importer",
    mode="755",
)

# Nobody looks whether one runs already.
server.shell(
    name="Start the importer",
    commands=["setsid /usr/local/bin/importer </dev/null >/dev/null 2>&1 &"],
)

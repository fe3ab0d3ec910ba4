from pyinfra.operations import files

files.directory(
    name="Create the application's directory",
    path="/opt/app",
)

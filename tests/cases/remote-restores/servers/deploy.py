from pyinfra.operations import files

# Neither restic nor Borg: the host restores with its own.
files.directory(name="Make the directory of targets", path="/srv/in")

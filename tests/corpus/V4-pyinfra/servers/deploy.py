import os

from pyinfra import host
from pyinfra.facts.files import File
from pyinfra.operations import files

# The second run comes to an end without a word, and without an error.
if host.get_fact(File, "/var/lib/deployed"):
    os._exit(0)

files.file(
    name="Note that somebody deployed",
    path="/var/lib/deployed",
)

import os
import signal

from pyinfra import host
from pyinfra.facts.files import File
from pyinfra.operations import files

# As when memory runs out on the controller.
if host.get_fact(File, "/var/lib/deployed"):
    os.kill(os.getpid(), signal.SIGKILL)

files.file(
    name="Note that somebody deployed",
    path="/var/lib/deployed",
)

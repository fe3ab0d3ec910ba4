"""The operator's host as a drill finds it: files, descriptors, shared memory, keys and variables that are nobody's
business, and then the program.

    operator.py DIRECTORY PROGRAM ARGUMENT...

Runs as root in a mount namespace of its own, so that what is laid over /root, /etc and /srv is seen by nobody else.
DIRECTORY holds `over/root`, `over/etc`, `over/srv` with the files, `inherited` (a file that the program gets as
descriptor 9), `key` (what the session's keyring holds) and `keep` (directories that stay as they are).
"""

import ctypes
import os
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = (248, 250) if os.uname().machine == "x86_64" else (217, 219)
JOIN_SESSION, THIS_SESSION = 1, -3


def mount(*words):
    subprocess.run(["mount", *words], check=True)


def lay_over(directory, place, keep):
    """The directory's files over the host's own; what must be written for good stays as it is."""
    kept = []
    for number, path in enumerate(path for path in keep if path.startswith(place + "/")):
        aside = os.path.join(directory, f"aside{place.replace('/', '-')}-{number}")
        os.makedirs(aside, exist_ok=True)
        mount("--bind", path, aside)
        kept.append((aside, path))
    above = os.path.join(directory, "above" + place.replace("/", "-"))
    os.makedirs(above, exist_ok=True)
    mount("-t", "tmpfs", "none", above)
    upper, work = os.path.join(above, "upper"), os.path.join(above, "work")
    # Files come in by the lower layers; whatever a program writes is gone with the namespace.
    os.makedirs(upper), os.makedirs(work)
    lower = f"{directory}/over{place}:{place}"
    mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir={upper},workdir={work}", "none", place)
    for aside, path in kept:
        mount("--move", aside, path)


def main():
    directory, program = sys.argv[1], sys.argv[2:]
    mount("--make-rprivate", "/")
    with open(os.path.join(directory, "keep"), encoding="utf-8") as lines:
        keep = lines.read().split()
    for place in sorted(os.listdir(os.path.join(directory, "over"))):
        lay_over(directory, "/" + place, keep)
    with open(os.path.join(directory, "key"), "rb") as file:
        key = file.read()
    name = b"redrill-isolation"
    LIBC.syscall(KEYCTL, JOIN_SESSION, 0, 0, 0, 0)
    LIBC.syscall(ADD_KEY, b"user", name, key, len(key), THIS_SESSION)
    inherited = os.open(os.path.join(directory, "inherited"), os.O_RDONLY)
    os.dup2(inherited, 9, inheritable=True)
    os.execvp(program[0], program)


main()

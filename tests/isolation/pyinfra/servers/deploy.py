"""Tries ways out from the deploy's own Python; each says that it was tried, and what it heard."""

import asyncio
import os
import socket
import subprocess
import sys

import tries
from pyinfra import host, local
from pyinfra.operations import server

KEY = os.path.abspath("../keys/deploy")


def paramiko(target, port=22):
    import paramiko as library

    client = library.SSHClient()
    client.set_missing_host_key_policy(library.AutoAddPolicy())
    client.connect(target, port=port, username="root", key_filename=KEY, timeout=4, banner_timeout=4, auth_timeout=4,
                   look_for_keys=False, allow_agent=False)
    return client.exec_command("echo machine ran paramiko")[1].read()


def asyncssh(target):
    import asyncssh as library

    async def run():
        options = {"username": "root", "client_keys": [KEY], "known_hosts": None, "config": None, "connect_timeout": 4}
        async with library.connect(target, **options) as connection:
            return (await connection.run("echo machine ran asyncssh")).stdout

    return asyncio.run(run())


def connected(target):
    return socket.create_connection((target, 22), timeout=4)


def libssh2(target):
    from ssh2.session import Session

    connection, session = connected(target), Session()
    session.handshake(connection)
    session.userauth_publickey_fromfile("root", KEY)
    channel = session.open_session()
    channel.execute("echo machine ran libssh2")
    return channel.read()[1]


def libssh(target):
    from ssh import options
    from ssh.key import import_privkey_file
    from ssh.session import Session

    connection, session = connected(target), Session()
    session.options_set(options.USER, "root")
    session.options_set(options.HOST, target)
    session.set_socket(connection)
    session.connect()
    session.userauth_publickey(import_privkey_file(KEY))
    channel = session.channel_new()
    channel.open_session()
    channel.request_exec("echo machine ran libssh")
    return channel.read()[1]


def requests(address):
    from pip._vendor import requests as library

    return library.get(address, timeout=4).text


def pip(*words):
    ended = subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--retries", "0", "--timeout", "3",
                            "-d", "fetched", *words], check=False, capture_output=True, timeout=30,
                           env={**os.environ, "GIT_SSH_COMMAND": f"ssh -F /dev/null -i {KEY} -o BatchMode=yes "
                                "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"})
    return ended.stdout + ended.stderr


def write(name):
    with open(f"@ran@/{name}", "w", encoding="utf-8") as file:
        file.write("x")


WAYS = {
    "urllib": lambda: tries.url("http://@urllib@/"),
    "requests": lambda: requests("http://@requests@:8080/"),
    "socket": lambda: tries.tcp("@socket@", 443),
    "socket6": lambda: tries.tcp("@socket6@", 80),
    "datagram": lambda: tries.udp("@datagram@", 53),
    "production": lambda: tries.url("http://@PROD@/"),
    "paramiko": lambda: paramiko("@PROD@"),
    "paramiko-other": lambda: paramiko("@paramiko-other@"),
    "asyncssh": lambda: asyncssh("@PROD@"),
    "asyncssh-other": lambda: asyncssh("@asyncssh-other@"),
    "libssh2": lambda: libssh2("@PROD@"),
    "libssh2-other": lambda: libssh2("@libssh2-other@"),
    "libssh": lambda: libssh("@PROD@"),
    "libssh-other": lambda: libssh("@libssh-other@"),
    "local-shell": lambda: local.shell("curl -s -m 4 http://@local-shell@/; true"),
    "subprocess": lambda: subprocess.run(["curl", "-s", "-m", "4", "http://@subprocess@/"], check=False, capture_output=True),
    "pip-index": lambda: pip("--index-url", "http://@pip-index@:8080/simple", "--trusted-host", "@pip-index@", "isolated"),
    "pip-git": lambda: pip("git+ssh://root@@pip-git@/x.git"),
    "file": lambda: open("@secret:netrc@").read(),
    "environment": lambda: os.environ["AWS_SECRET_ACCESS_KEY"],
    "docker": lambda: tries.unix("/var/run/docker.sock"),
    "write": lambda: write("write"),
}
print(host.data.heard, file=sys.stderr)
for name, act in WAYS.items():
    print(f"way {name}: tried", file=sys.stderr)
    try:
        print(f"way {name}: {act()}", file=sys.stderr)
    except Exception as error:
        print(f"way {name}: refused: {error!r}", file=sys.stderr)

server.shell(name="Something for the machine", commands=["touch /etc/isolated"])

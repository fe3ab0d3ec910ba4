"""What the operator's host serves to itself: sockets of every kind, shared memory, a process that may be killed.

    host.py DIRECTORY

It ends with its standard input. DIRECTORY/markers holds `NAME TEXT` lines: what each socket answers with. It leaves
`ports` (`NAME NUMBER`; `victim` is a process) and `came.log` (`NAME WHAT-WAS-SENT`).
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
import time

directory = sys.argv[1]
with open(os.path.join(directory, "markers"), encoding="utf-8") as lines:
    markers = dict(line.split() for line in lines)
came = open(os.path.join(directory, "came.log"), "a", buffering=1, encoding="utf-8")
ports = {}


def serve(name, listener):
    def answer(connection):
        connection.settimeout(5)
        sent = b""
        try:
            sent = connection.recv(4096)
        except OSError:
            pass
        came.write(f"{name} {sent.decode('utf-8', 'replace').splitlines()[:1]}\n")
        body = markers[name] + "\n"
        try:
            connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        except OSError:
            pass
        connection.close()

    def forever():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    listener.listen(64)
    threading.Thread(target=forever, daemon=True).start()


def listen(name, family, address):
    listener = socket.socket(family, socket.SOCK_STREAM)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(address)
    if family in (socket.AF_INET, socket.AF_INET6):
        ports[name] = listener.getsockname()[1]
    serve(name, listener)


listen("any", socket.AF_INET, ("0.0.0.0", 0))
listen("any6", socket.AF_INET6, ("::", 0))
listen("loopback", socket.AF_INET, ("127.0.0.77", 0))
listen("loopback6", socket.AF_INET6, ("::1", 0))
listen("abstract", socket.AF_UNIX, "\0" + markers["abstract-name"])
listen("unix", socket.AF_UNIX, os.path.join(directory, "unix.sock"))

# Whoever may attach to it reads it: System V's memory knows no file system.
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
IPC_CREAT, IPC_RMID, OPEN_TO_ROOT = 0o1000, 0, 0o600
text = markers["shm"].encode()
memory = libc.shmget(int(markers["shm-key"]), len(text) + 1, IPC_CREAT | OPEN_TO_ROOT)
at = libc.shmat(memory, None, 0)
ctypes.memmove(at, text + b"\0", len(text) + 1)

# What ends with this program: an agent for SSH, and somebody to kill.
agent = ["ssh-agent", "-D", "-a", os.path.join(directory, "agent.sock")]
subprocess.Popen(agent, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
ports["victim"] = subprocess.Popen(["sleep", "100000"], stdin=subprocess.DEVNULL).pid
while not os.path.exists(os.path.join(directory, "agent.sock")):
    time.sleep(0.02)

with open(os.path.join(directory, "ports.new"), "w", encoding="utf-8") as file:
    file.writelines(f"{name} {port}\n" for name, port in ports.items())
os.rename(os.path.join(directory, "ports.new"), os.path.join(directory, "ports"))
sys.stdin.read()
libc.shmctl(memory, IPC_RMID, None)
os.killpg(0, signal.SIGKILL)

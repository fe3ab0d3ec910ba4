"""A production of the test's own: servers that answer on every address that leads here, and a log of every packet.

    production.py DIRECTORY

It runs in a network namespace of its own and ends with its standard input. In DIRECTORY it finds `sshd` (a
configuration), and `linked` once its link is there; it leaves `ready`, `packets.log` (one line a packet that came) and `got.log` (what was sent to it).
"""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

ANSWER = b"PRODUCTION ANSWERS"
TCP = (22, 80, 443, 5432, 8080)
UDP = (53, 69)
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x0800, 0x86DD
PACKET_OUTGOING = 4
# What hosts on one link say to each other without being asked: neighbours, routers, groups.
LINK_ICMP6 = {130, 131, 132, 133, 134, 135, 136, 137, 143}
IGMP = 2

directory = sys.argv[1]
packets = open(os.path.join(directory, "packets.log"), "a", buffering=1)
got = open(os.path.join(directory, "got.log"), "ab", buffering=0)


def told(data):
    got.write(data + b"\n")


def watch(link):
    """One line for each packet that comes in: protocol, from, to, ports."""
    log = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
    log.bind((link, ETH_P_ALL))
    while True:
        try:
            data, (_, kind, direction, _, _) = log.recvfrom(65535)
        except OSError:
            return  # The link is taken away at the end.
        if direction == PACKET_OUTGOING or kind not in (ETH_P_IP, ETH_P_IPV6):
            continue
        if kind == ETH_P_IP:
            protocol, rest = data[9], data[(data[0] & 15) * 4 :]
            ends = [socket.inet_ntoa(data[at : at + 4]) for at in (12, 16)]
        else:
            protocol, rest = data[6], data[40:]
            # A group is joined with a header of options before the report.
            if protocol == 0:
                protocol, rest = rest[0], rest[(rest[1] + 1) * 8 :]
            ends = [socket.inet_ntop(socket.AF_INET6, data[at : at + 16]) for at in (8, 24)]
        if protocol == IGMP or (protocol == 58 and rest and rest[0] in LINK_ICMP6):
            continue
        ports = struct.unpack("!HH", rest[:4]) if protocol in (6, 17) and len(rest) >= 4 else (0, 0)
        name = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp"}.get(protocol, str(protocol))
        packets.write(f"{name} {ends[0]} {ends[1]} {ports[0]} {ports[1]}\n")


def serve(connection):
    connection.settimeout(5)
    try:
        told(connection.recv(65535))
        body = ANSWER + b"\n"
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    except OSError:
        pass
    connection.close()


def shell(connection):
    """Root's sshd wants a directory in /run: it gets one that nobody else sees."""
    line = 'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -i -e -f "$0" 2>>"$0.log"'
    words = ["unshare", "--mount", "sh", "-c", line, os.path.join(directory, "sshd")]
    subprocess.run(words, stdin=connection, stdout=connection, check=False)
    connection.close()


def accept(family, port):
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(("", port))
    listener.listen(64)

    def forever():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=shell if port == 22 else serve, args=(connection,), daemon=True).start()

    threading.Thread(target=forever, daemon=True).start()


def listen(family, port):
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    receiver.bind(("", port))

    def forever():
        while True:
            data, sender = receiver.recvfrom(65535)
            told(data)
            receiver.sendto(ANSWER, sender)

    threading.Thread(target=forever, daemon=True).start()


def end():
    sys.stdin.read()
    os.killpg(0, signal.SIGKILL)


threading.Thread(target=end, daemon=True).start()
while not os.path.exists(os.path.join(directory, "linked")):
    time.sleep(0.02)
for family in (socket.AF_INET, socket.AF_INET6):
    for port in TCP:
        accept(family, port)
    for port in UDP:
        listen(family, port)
threading.Thread(target=watch, args=("production",), daemon=True).start()
open(os.path.join(directory, "ready"), "w").close()
signal.pause()

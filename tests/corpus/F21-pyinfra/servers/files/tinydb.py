"""A very small database: a root password, and names of databases.

tinydb.py serve                              the server
tinydb.py [--password PASSWORD] STATEMENT    SET PASSWORD NEW | CREATE DATABASE NAME
"""

import json
import os
import socket
import sys
import time

PATH = "/run/tinydb.sock"
STORE = "/var/lib/tinydb/store.json"


def answer(line):
    store = json.load(open(STORE)) if os.path.exists(STORE) else {"password": "", "databases": []}
    asked = json.loads(line)
    if asked["password"] != store["password"]:
        given = "YES" if asked["password"] else "NO"
        return f"ERROR 1045 (28000): Access denied for user 'root'@'localhost' (using password: {given})"
    words = asked["statement"].split()
    if words[:2] == ["SET", "PASSWORD"]:
        store["password"] = words[2]
    elif words[:2] == ["CREATE", "DATABASE"]:
        store["databases"] = sorted({*store["databases"], words[2]})
    else:
        return "ERROR 1064 (42000): You have an error in your SQL syntax"
    with open(STORE + ".new", "w") as new:
        json.dump(store, new)
    os.rename(STORE + ".new", STORE)
    return "OK"


def serve():
    os.makedirs(os.path.dirname(STORE), mode=0o700, exist_ok=True)
    if os.path.exists(PATH):
        os.unlink(PATH)
    server = socket.socket(socket.AF_UNIX)
    server.bind(PATH)
    server.listen()
    while True:
        client, _ = server.accept()
        with client, client.makefile("rw") as stream:
            stream.write(answer(stream.readline()) + "\n")


def ask(password, statement):
    for _ in range(50):
        try:
            client = socket.socket(socket.AF_UNIX)
            client.connect(PATH)
            break
        except OSError:
            time.sleep(0.1)
    with client, client.makefile("rw") as stream:
        stream.write(json.dumps({"password": password, "statement": statement}) + "\n")
        stream.flush()
        said = stream.readline().strip()
    if said != "OK":
        sys.exit(said)


words = sys.argv[1:]
if words == ["serve"]:
    serve()
elif words[0] == "--password":
    ask(words[1], words[2])
else:
    ask("", words[0])

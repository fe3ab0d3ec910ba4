"""guestbook: short entries over HTTP, kept in SQLite. Settings come from the environment.

GET /healthz   {"status": "ok"} if the database can be read
GET /          {"title": "...", "entries": [{"id": 1, "name": "...", "text": "..."}]}, the newest first
POST /         adds the entry {"name": "...", "text": "..."}
"""

import json
import os
import socket
import sqlite3
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = ("127.0.0.1", int(os.environ["GUESTBOOK_PORT"]))
TITLE = os.environ["GUESTBOOK_TITLE"]
SHOWN = int(os.environ["GUESTBOOK_SHOWN"])
DATABASE = "/var/lib/guestbook/guestbook.db"
LARGEST_BODY = 16 * 1024


@contextmanager
def database():
    db = sqlite3.connect(DATABASE)
    try:
        with db:  # commits, or rolls back after an exception
            yield db
    finally:
        db.close()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path not in ("/", "/healthz"):
            return self.answer(404, {"error": "not found"})
        with database() as db:
            rows = db.execute("SELECT id, name, text FROM entries ORDER BY id DESC LIMIT ?", [SHOWN]).fetchall()
        if self.path == "/healthz":
            return self.answer(200, {"status": "ok"})
        entries = [{"id": id, "name": name, "text": text} for id, name, text in rows]
        self.answer(200, {"title": TITLE, "entries": entries})

    def do_POST(self):
        if self.path != "/":
            return self.answer(404, {"error": "not found"})
        try:
            length = int(self.headers["Content-Length"])
            if not 0 < length <= LARGEST_BODY:
                raise ValueError
            entry = json.loads(self.rfile.read(length))
            name, text = entry["name"], entry["text"]
            if not isinstance(name, str) or not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'want {"name": "...", "text": "..."}'})
        with database() as db:
            id = db.execute("INSERT INTO entries (name, text) VALUES (?, ?)", [name, text]).lastrowid
        self.answer(201, {"id": id, "name": name, "text": text})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def tell_systemd(state):
    """sd_notify(3): `systemctl start` waits for READY=1."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state, address.replace("@", "\0", 1))


with database() as db:
    db.execute("CREATE TABLE IF NOT EXISTS entries (id INTEGER PRIMARY KEY, name TEXT NOT NULL, text TEXT NOT NULL)")

server = ThreadingHTTPServer(ADDRESS, Handler)
tell_systemd(b"READY=1")
server.serve_forever()

"""notes: a list of short texts over HTTP, kept in SQLite.

GET /healthz   {"status": "ok"} if the database can be read
GET /notes     all notes: [{"id": 1, "text": "..."}]
POST /notes    adds the note {"text": "..."}
"""

import json
import os
import socket
import sqlite3
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ADDRESS = ("127.0.0.1", 8000)
DATABASE = "/var/lib/notes/notes.db"
LARGEST_BODY = 64 * 1024


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
        if self.path not in ("/healthz", "/notes"):
            return self.answer(404, {"error": "not found"})
        with database() as db:
            rows = db.execute("SELECT id, text FROM notes ORDER BY id").fetchall()
        if self.path == "/healthz":
            return self.answer(200, {"status": "ok"})
        self.answer(200, [{"id": id, "text": text} for id, text in rows])

    def do_POST(self):
        if self.path != "/notes":
            return self.answer(404, {"error": "not found"})
        try:
            length = int(self.headers["Content-Length"])
            if not 0 < length <= LARGEST_BODY:
                raise ValueError
            text = json.loads(self.rfile.read(length))["text"]
            if not isinstance(text, str):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'want {"text": "..."}'})
        with database() as db:
            id = db.execute("INSERT INTO notes (text) VALUES (?)", [text]).lastrowid
        self.answer(201, {"id": id, "text": text})

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
    db.execute("CREATE TABLE IF NOT EXISTS notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")

server = ThreadingHTTPServer(ADDRESS, Handler)
tell_systemd(b"READY=1")
server.serve_forever()

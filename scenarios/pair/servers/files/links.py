"""links: a list of links over HTTP, kept in PostgreSQL on another machine.

GET /healthz   {"status": "ok", "links": 3} if the database can be read
GET /links     all links: [{"id": 1, "url": "...", "title": "..."}]
POST /links    adds the link {"url": "...", "title": "..."}

While the database is away the answer is 503; nothing has to be restarted when it is back.
"""

import json
import os
import socket
import sys
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import psycopg2

ADDRESS = ("127.0.0.1", 8000)
DATABASE = Path("/etc/links/database.conf").read_text()
LARGEST_BODY = 64 * 1024
RETRY_SECONDS = 2


def query(sql, *values):
    """Runs one statement over a connection of its own: the database may have been restarted since the last one."""
    with closing(psycopg2.connect(DATABASE)) as db:
        with db, db.cursor() as cursor:  # commits, or rolls back after an exception
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path not in ("/healthz", "/links"):
            return self.answer(404, {"error": "not found"})
        try:
            rows = query("SELECT id, url, title FROM links ORDER BY id")
        except psycopg2.Error as error:
            return self.away(error)
        if self.path == "/healthz":
            return self.answer(200, {"status": "ok", "links": len(rows)})
        self.answer(200, [{"id": id, "url": url, "title": title} for id, url, title in rows])

    def do_POST(self):
        if self.path != "/links":
            return self.answer(404, {"error": "not found"})
        try:
            length = int(self.headers["Content-Length"])
            if not 0 < length <= LARGEST_BODY:
                raise ValueError
            link = json.loads(self.rfile.read(length))
            url, title = storable(link["url"]), storable(link["title"])
        except (ValueError, KeyError, TypeError):
            return self.answer(400, {"error": 'want {"url": "...", "title": "..."}'})
        try:
            [[id]] = query("INSERT INTO links (url, title) VALUES (%s, %s) RETURNING id", url, title)
        except psycopg2.Error as error:
            return self.away(error)
        self.answer(201, {"id": id, "url": url, "title": title})

    def away(self, error):
        log(error)
        self.answer(503, {"error": "the database is away"})

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def storable(text):
    """The text, if PostgreSQL can keep it: it takes UTF-8 without NUL."""
    if not isinstance(text, str):
        raise TypeError
    if "\0" in text:
        raise ValueError
    text.encode()
    return text


def log(error):
    print(str(error).strip(), file=sys.stderr, flush=True)


def tell_systemd(state):
    """sd_notify(3): `systemctl start` waits for READY=1."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state, address.replace("@", "\0", 1))


def create_table():
    """Tells whether the table is there now."""
    try:
        query(
            "CREATE TABLE IF NOT EXISTS links ("
            "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, url text NOT NULL, title text NOT NULL)"
        )
        return True
    except psycopg2.OperationalError as error:
        log(error)
        return False


server = ThreadingHTTPServer(ADDRESS, Handler)
answering = Thread(target=server.serve_forever, daemon=True)
answering.start()
there = create_table()
# Ready without the database too: no boot and no deploy of this machine may hang on the other one.
tell_systemd(b"READY=1")
while not there:
    time.sleep(RETRY_SECONDS)
    there = create_table()
answering.join()

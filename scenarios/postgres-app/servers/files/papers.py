"""papers: documents with attachments, kept in PostgreSQL and in a directory.

GET  /healthz                      {"status": "ok", "documents": 3, "attachments": 1}; anybody may ask
POST /login                        {"name", "password"} -> {"token"}; all below want `Authorization: Bearer TOKEN`
GET  /users                        ["ada", ...]
POST /users                        {"name", "password"} adds an account; the administrator alone may
GET  /documents                    [{"id", "title", "author", "created"}, ...]
POST /documents                    {"title", "body"} -> {"id"}
GET  /documents/ID                 the document, with its body and its attachments
POST /documents/ID/attachments/NAME    the bytes of the attachment -> {"id", "sha256"}
GET  /attachments/ID               the bytes again

The administrator is no account in the database: its password comes from the keys. So an empty database is empty, and a
restored one need not fit anything. Who is signed in, only this process knows: a restart signs everybody out.
"""

import hashlib
import json
import os
import re
import secrets
import socket
from contextlib import closing
from hmac import compare_digest
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import psycopg2

ADDRESS = ("127.0.0.1", 8000)
DATABASE = "dbname=papers"  # over the socket, as the account of this process
ATTACHMENTS = Path("/var/lib/papers/attachments")
ADMIN = "admin"
ADMIN_PASSWORD = Path("/etc/papers/admin-password").read_text().strip()
LARGEST_BODY = 16 * 1024 * 1024

SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
    name text PRIMARY KEY,
    password text NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS documents (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    title text NOT NULL,
    body text NOT NULL,
    author text NOT NULL REFERENCES users (name),
    created timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS attachments (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document bigint NOT NULL REFERENCES documents (id),
    name text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    created timestamptz NOT NULL DEFAULT now()
);
"""

signed_in = {}  # token -> name


class Refused(Exception):
    def __init__(self, status, error):
        self.status, self.error = status, error


def query(sql, *values):
    """Runs one statement over a connection of its own: the database may have been restarted since the last one."""
    with closing(psycopg2.connect(DATABASE)) as db:
        with db, db.cursor() as cursor:  # commits, or rolls back after an exception
            cursor.execute(sql, values)
            return cursor.fetchall() if cursor.description else []


def hashed(password, salt):
    return hashlib.scrypt(password.encode(), salt=salt, n=2**14, r=8, p=1)


def may_sign_in(name, password):
    if name == ADMIN:
        return compare_digest(password.encode(), ADMIN_PASSWORD.encode())
    rows = query("SELECT password FROM users WHERE name = %s", name)
    if not rows:
        return False
    salt, stored = (bytes.fromhex(part) for part in rows[0][0].split("$"))
    return compare_digest(hashed(password, salt), stored)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.route(
            {
                r"/healthz": self.healthz,
                r"/users": self.users,
                r"/documents": self.documents,
                r"/documents/(\d+)": self.document,
                r"/attachments/(\d+)": self.attachment,
            }
        )

    def do_POST(self):
        self.route(
            {
                r"/login": self.login,
                r"/users": self.add_user,
                r"/documents": self.add_document,
                r"/documents/(\d+)/attachments/([^/]+)": self.attach,
            }
        )

    def route(self, routes):
        try:
            for pattern, handler in routes.items():
                if match := re.fullmatch(pattern, self.path):
                    return handler(*match.groups())
            raise Refused(404, "not found")
        except Refused as refused:
            self.answer(refused.status, {"error": refused.error})
        except psycopg2.OperationalError as error:
            self.log_error("%s", str(error).strip())
            self.answer(503, {"error": "the database is away"})

    # Anybody

    def healthz(self):
        [[documents, attachments]] = query("SELECT (SELECT count(*) FROM documents), (SELECT count(*) FROM attachments)")
        self.answer(200, {"status": "ok", "documents": documents, "attachments": attachments})

    def login(self):
        name, password = self.fields("name", "password")
        if not may_sign_in(name, password):
            raise Refused(401, "wrong name or password")
        token = secrets.token_urlsafe(32)
        signed_in[token] = name
        self.answer(200, {"token": token})

    # Whoever is signed in

    def users(self):
        self.who()
        self.answer(200, [name for [name] in query("SELECT name FROM users ORDER BY name")])

    def add_user(self):
        if self.who() != ADMIN:
            raise Refused(403, "the administrator alone may")
        name, password = self.fields("name", "password")
        if name == ADMIN or not password:
            raise Refused(400, "no such account can be")
        salt = secrets.token_bytes(16)
        stored = f"{salt.hex()}${hashed(password, salt).hex()}"
        sql = "INSERT INTO users (name, password) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING name"
        if not query(sql, name, stored):
            raise Refused(409, "there is such an account")
        self.answer(201, {"name": name})

    def documents(self):
        self.who()
        rows = query("SELECT id, title, author, created FROM documents ORDER BY id")
        self.answer(200, [{"id": i, "title": t, "author": a, "created": c.isoformat()} for i, t, a, c in rows])

    def document(self, id):
        self.who()
        rows = query("SELECT id, title, body, author, created FROM documents WHERE id = %s", id)
        if not rows:
            raise Refused(404, "no such document")
        [[id, title, body, author, created]] = rows
        files = query("SELECT id, name, size, sha256 FROM attachments WHERE document = %s ORDER BY id", id)
        attachments = [{"id": i, "name": n, "size": s, "sha256": d} for i, n, s, d in files]
        about = {"id": id, "title": title, "body": body, "author": author, "created": created.isoformat()}
        self.answer(200, about | {"attachments": attachments})

    def add_document(self):
        author = self.who()
        if author == ADMIN:
            raise Refused(403, "the administrator writes no documents")
        title, body = self.fields("title", "body")
        sql = "INSERT INTO documents (title, body, author) VALUES (%s, %s, %s) RETURNING id"
        [[id]] = query(sql, title, body, author)
        self.answer(201, {"id": id})

    def attach(self, document, name):
        self.who()
        if not query("SELECT 1 FROM documents WHERE id = %s", document):
            raise Refused(404, "no such document")
        content = self.body(smallest=0)
        digest = hashlib.sha256(content).hexdigest()
        # The file first: a row without its file would be a lie, a file without a row is only litter.
        store(content, digest)
        sql = "INSERT INTO attachments (document, name, size, sha256) VALUES (%s, %s, %s, %s) RETURNING id"
        [[id]] = query(sql, document, unquote(name), len(content), digest)
        self.answer(201, {"id": id, "sha256": digest})

    def attachment(self, id):
        self.who()
        rows = query("SELECT sha256 FROM attachments WHERE id = %s", id)
        if not rows:
            raise Refused(404, "no such attachment")
        try:
            content = place(rows[0][0]).read_bytes()
        except OSError as error:
            self.log_error("%s", error)
            raise Refused(500, "the file of this attachment cannot be read") from error
        self.answer(200, content)

    # Requests and answers

    def who(self):
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in signed_in:
            raise Refused(401, "sign in first")
        return signed_in[token]

    def body(self, smallest=1):
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or not smallest <= int(length) <= LARGEST_BODY:
            raise Refused(400, f"want {smallest} to {LARGEST_BODY} bytes")
        return self.rfile.read(int(length))

    def fields(self, *names):
        try:
            given = json.loads(self.body())
            values = [given[name] for name in names]
            # PostgreSQL takes any text but NUL.
            if not all(isinstance(value, str) and "\0" not in value for value in values):
                raise TypeError
        except (ValueError, KeyError, TypeError) as error:
            raise Refused(400, f"want JSON with {', '.join(names)}") from error
        return values

    def answer(self, status, value):
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def place(digest):
    return ATTACHMENTS / digest[:2] / digest


def store(content, digest):
    target = place(digest)
    if target.exists():
        return
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f".{digest}.{secrets.token_hex(4)}")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)


def tell_systemd(state):
    """sd_notify(3): `systemctl start` waits for READY=1."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(state, address.replace("@", "\0", 1))


query(SCHEMA)
server = ThreadingHTTPServer(ADDRESS, Handler)
tell_systemd(b"READY=1")
server.serve_forever()

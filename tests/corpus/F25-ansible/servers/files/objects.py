"""Objects over HTTP: POST / makes one with a new id, GET / lists them."""

import json
import os
from http.server import BaseHTTPRequestHandler, HTTPServer

STORE = "/var/lib/objects/objects.json"


def stored():
    return json.load(open(STORE)) if os.path.exists(STORE) else []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, stored())

    def do_POST(self):
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        objects = stored()
        objects.append({"id": len(objects) + 1, **wanted})
        with open(STORE + ".new", "w") as new:
            json.dump(objects, new)
        os.rename(STORE + ".new", STORE)
        self.answer(201, objects[-1])

    def answer(self, status, value):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


HTTPServer(("127.0.0.1", 8080), Handler).serve_forever()

"""A client of papers, for the scripts of this repo."""

import json
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

URL = "http://127.0.0.1:8000"
ADMIN_PASSWORD = "/etc/papers/admin-password"


class Papers:
    """Signed in as somebody, from the first line on."""

    def __init__(self, name, password):
        self.token = None
        self.token = self.post("/login", {"name": name, "password": password})["token"]

    def get(self, path):
        return json.loads(self.ask("GET", path))

    def post(self, path, value):
        return json.loads(self.ask("POST", path, json.dumps(value).encode()))

    def attach(self, document, name, content):
        path = f"/documents/{document}/attachments/{quote(name, safe='')}"
        return json.loads(self.ask("POST", path, content))

    def ask(self, method, path, body=None):
        """The bytes of the answer; any status but 2xx is an error that says what was asked and answered."""
        request = Request(URL + path, data=body, method=method)
        request.add_header("Content-Type", "application/octet-stream")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=30) as response:
                return response.read()
        except HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error


def administrator():
    return Papers("admin", Path(ADMIN_PASSWORD).read_text().strip())

"""What the scripts of this repo share: the configuration of the server, and a client of Syncthing's REST interface."""

import json
import time
import xml.etree.ElementTree as xml
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

HOME = Path("/var/lib/syncthing")
CONFIG = HOME / "config.xml"
DECLARED = Path("/etc/files/declared.json")


def declared():
    return json.loads(DECLARED.read_text())


class Syncthing:
    """A running Syncthing, by its REST interface."""

    def __init__(self, address, key):
        self.address, self.key = address, key

    def get(self, path):
        return self.ask("GET", path)

    def ask(self, method, path, value=None):
        body = None if value is None else json.dumps(value).encode()
        request = Request(f"http://{self.address}/rest/{path}", data=body, method=method)
        request.add_header("X-API-Key", self.key)
        try:
            with urlopen(request, timeout=30) as response:
                answer = response.read()
                return json.loads(answer) if answer.strip() else None
        except HTTPError as error:
            raise RuntimeError(f"{method} {path}: {error.code} {error.read().decode(errors='replace')}") from error

    def wait(self):
        """Until it answers."""
        until("Syncthing answers", self.answers)

    def answers(self):
        try:
            return self.get("system/ping") == {"ping": "pong"}
        except (URLError, ConnectionError, RuntimeError):
            return False


def server():
    gui = xml.parse(CONFIG).find("gui")
    return Syncthing(gui.findtext("address"), gui.findtext("apikey"))


def until(what, true, seconds=300):
    """Waits until something is true; an error if that takes too long."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s in vain until {what}")
        time.sleep(0.2)

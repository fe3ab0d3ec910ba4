import re
from base64 import b64decode
from hashlib import pbkdf2_hmac, sha256
from hmac import digest
from ipaddress import ip_address, ip_network
from pathlib import Path

from pyinfra import host
from pyinfra.api import DeployError
from pyinfra.facts.hardware import Ipv4Addrs
from pyinfra.facts.server import Command
from pyinfra.operations import files, postgres, server, systemd

# The keys repo is private; check it out beside this one.
KEYS = Path(__file__).resolve().parents[2] / "keys"
CONFIG = "/etc/postgresql/17/main"
PRIVATE = ip_network("10.77.0.0/24")

password = (KEYS / "database-password").read_text().strip()


def private_address():
    """Names of interfaces differ between machines; the network does not."""
    for addresses in host.get_fact(Ipv4Addrs).values():
        for address in addresses:
            if ip_address(address) in PRIVATE:
                return address
    raise DeployError(f"{host.name} has no address in {PRIVATE}")


def has_password():
    """Whether the role exists and has the password of the keys: RFC 5803 says how to tell from the hash."""
    ask = "SELECT rolpassword FROM pg_authid WHERE rolname = 'links'"
    stored = host.get_fact(Command, f'psql -Atc "{ask}"', _su_user="postgres")
    scram = re.fullmatch(r"SCRAM-SHA-256\$(\d+):(.+)\$(.+):(.+)", stored or "")
    if not scram:
        return False
    iterations, salt, stored_key, _ = scram.groups()
    salted = pbkdf2_hmac("sha256", password.encode(), b64decode(salt), int(iterations))
    return sha256(digest(salted, b"Client Key", "sha256")).digest() == b64decode(stored_key)


# At boot PostgreSQL may be quicker than the network.
server.sysctl(
    name="Let services listen on an address that is not there yet",
    key="net.ipv4.ip_nonlocal_bind",
    value=1,
    persist=True,
    persist_file="/etc/sysctl.d/60-nonlocal-bind.conf",
)

listen = files.template(
    name="Let PostgreSQL listen in the private network",
    src="templates/postgresql.conf.j2",
    dest=f"{CONFIG}/conf.d/listen.conf",
    mode="0644",
    address=private_address(),
)

admitted = files.put(
    name="Say who may sign in to PostgreSQL",
    src="files/pg_hba.conf",
    dest=f"{CONFIG}/pg_hba.conf",
    user="postgres",
    group="postgres",
    mode="0640",
)

systemd.service(
    name="Restart PostgreSQL after a change of its address",
    service="postgresql@17-main.service",
    restarted=True,
    _if=listen.did_change,
)

systemd.service(
    name="Reload PostgreSQL after a change of who may sign in",
    service="postgresql@17-main.service",
    reloaded=True,
    _if=admitted.did_change,
)

systemd.service(
    name="Start PostgreSQL",
    service="postgresql@17-main.service",
)

# The unit above belongs to this one, which starts all clusters of the machine.
systemd.service(
    name="Start PostgreSQL at boot",
    service="postgresql.service",
    enabled=True,
)

# With a password the operation always does something, so it is asked only where it has to.
postgres.role(
    name="Create the role of the links service, with its password",
    role="links",
    password=password,
    _su_user="postgres",
    _if=lambda: not has_password(),
)

postgres.database(
    name="Create the database of the links service",
    database="links",
    owner="links",
    template="template0",  # the only one that may be copied with another encoding
    encoding="UTF8",
    lc_collate="C.UTF-8",
    lc_ctype="C.UTF-8",
    _su_user="postgres",
)

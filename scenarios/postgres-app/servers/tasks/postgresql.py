from pyinfra.operations import postgres, server, systemd

server.user(
    name="Create the account of papers",
    user="papers",
    system=True,
    home="/var/lib/papers",
    ensure_home=False,  # StateDirectory= in the unit makes it
    shell="/usr/sbin/nologin",
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

# No password: PostgreSQL knows the account at the other end of its socket.
postgres.role(
    name="Create the role of papers",
    role="papers",
    _su_user="postgres",
)

postgres.database(
    name="Create the database of papers",
    database="papers",
    owner="papers",
    template="template0",  # the only one that may be copied with another encoding
    encoding="UTF8",
    lc_collate="C.UTF-8",
    lc_ctype="C.UTF-8",
    _su_user="postgres",
)

from pyinfra.operations import apt, server

PSQL = "cd / && runuser -u postgres -- psql --quiet --set=ON_ERROR_STOP=1"

apt.packages(name="Install PostgreSQL", packages=["postgresql"], no_recommends=True, update=True, cache_time=24 * 3600)

server.shell(
    name="Make the database and its table",
    commands=[
        "cd / && runuser -u postgres -- psql -lqAt | grep -q '^app|' || runuser -u postgres -- createdb app",
        f"{PSQL} app --command 'create table if not exists accounts (name text primary key, size int)'",
    ],
)

server.shell(
    name="Make the administrator",
    commands=[
        f"""{PSQL} app --command "insert into accounts values ('admin', 1), ('ada', 2)"""
        """ on conflict (name) do update set size = excluded.size" """,
    ],
)

server.shell(
    name="Move the rows about",
    commands=[
        f"""{PSQL} app --command "update accounts set size = 3 where name = 'admin'" """
        f"""--command "update accounts set size = 1 where name = 'admin'" --command "vacuum full accounts" """,
    ],
)

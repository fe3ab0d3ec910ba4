from pyinfra.operations import apt, postgres, server

apt.packages(name="Install PostgreSQL", packages=["postgresql"], no_recommends=True, update=True, cache_time=24 * 3600)

postgres.database(name="Make the application's database", database="app", _su_user="postgres")

PSQL = "cd / && psql --quiet --set=ON_ERROR_STOP=1 app"
TABLE = "create table if not exists accounts (id serial primary key, name text not null, made timestamptz default now())"

# Nothing keeps two accounts from having one name.
server.shell(
    name="Make the administrator",
    commands=[f"""{PSQL} --command '{TABLE}' --command "insert into accounts (name) values ('admin')" """],
    _su_user="postgres",
)

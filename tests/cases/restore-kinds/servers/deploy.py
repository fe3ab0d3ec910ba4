from pyinfra.operations import apt, files, server

packages = ["restic", "borgbackup", "sqlite3", "postgresql", "mariadb-server"]
apt.packages(name="Install what restores", packages=packages, update=True)
files.directory(name="Make the directory of targets", path="/srv/in")
for name in ["seed", "job"]:
    files.put(name=f"Install {name}", src=name, dest=f"/usr/local/sbin/{name}", mode="755")
files.put(name="Install the passphrase", src="../keys/passphrase", dest="/etc/passphrase", mode="600")
for name in ["custom", "plain", "folder"]:
    server.shell(
        name=f"Make the database {name}",
        commands=[f"cd / && runuser -u postgres -- psql -lqAt | grep -q '^{name}|' || runuser -u postgres -- createdb {name}"],
    )
server.shell(name="Make the database maria", commands=["mariadb -e 'create database if not exists maria'"])
server.shell(
    name="Make another cluster",
    commands=["test -d /etc/postgresql/17/other || pg_createcluster --start --port 5433 17 other"],
)

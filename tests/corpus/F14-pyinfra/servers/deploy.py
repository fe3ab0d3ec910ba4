from pyinfra.operations import server

server.shell(
    name="Create the application's data",
    commands=["test -e /srv/app/.done || mkdir /srv/app"],
)

server.shell(
    name="Fill the application's data",
    commands=["test -e /srv/app/.done || (seq 1000 > /srv/app/data && touch /srv/app/.done)"],
)

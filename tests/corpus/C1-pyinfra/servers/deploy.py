from pyinfra import host
from pyinfra.facts.server import Users
from pyinfra.operations import server

server.shell(
    name="Create the operator ada",
    commands=["useradd --create-home --shell /bin/bash ada"],
    _if=lambda: "ada" not in host.get_fact(Users),
)

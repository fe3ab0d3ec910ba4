from pyinfra.operations import files, server

server.shell(
    name="Make sure that there are settings",
    commands=["test -e /etc/site.conf || printf 'http {\\n}\\n' > /etc/site.conf"],
)

files.block(
    name="Configure the site",
    path="/etc/site.conf",
    content="\tserver_tokens off;",
    marker="\t# {mark} managed by pyinfra",
    line="^http {",
    after=True,
)

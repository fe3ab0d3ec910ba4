from pyinfra.operations import server

server.shell(
    name="Make sure that there are settings",
    commands=["test -e /etc/site.conf || printf 'http {\\n}\\n' > /etc/site.conf"],
)

# As `files.block` of pyinfra 3.1 did it: the marker is written with a tab, and looked for without.
server.shell(
    name="Configure the site",
    commands=[
        "grep -q '^# BEGIN managed' /etc/site.conf ||"
        " sed -i 's/^http {/&\\n\\t# BEGIN managed\\n\\tserver_tokens off;\\n\\t# END managed/' /etc/site.conf",
    ],
)

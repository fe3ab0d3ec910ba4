from pyinfra.operations import files, server

server.user(
    name="Create the operator ada",
    user="ada",
    shell="/bin/bash",
    create_home=True,
    groups=["sudo"],
    append=True,
    public_keys="files/ada.pub",
    delete_keys=True,  # a key taken out of the repo must not keep its access
)

files.put(
    name="Let operators use sudo without a password",
    src="files/sudoers-operators",
    dest="/etc/sudoers.d/operators",
    mode="0440",
)

server.shell(
    name="Set the login banner",
    commands=["echo 'echo All changes go through the servers repo.' >> /etc/profile.d/banner.sh"],
)

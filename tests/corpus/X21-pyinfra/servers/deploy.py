from pyinfra.operations import files, systemd

files.put(
    name="Configure sshd",
    src="files/sshd.conf",
    dest="/etc/ssh/sshd_config.d/10-own.conf",
)

systemd.service(
    name="Let sshd read its settings",
    service="ssh.service",
    reloaded=True,
)

"""The machines we run."""

git_servers = (["git.example.org"], {"ssh_user": "root"})

"""The machines we run."""

file_servers = (["files.example.org"], {"ssh_user": "root"})

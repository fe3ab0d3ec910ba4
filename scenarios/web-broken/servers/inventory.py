"""The machines we run."""

web_servers = (["web.example.org"], {"ssh_user": "root"})

"""The machines we run."""

web_servers = (["web.example.org"], {"ssh_user": "root"})
db_servers = (["db.example.org"], {"ssh_user": "root"})

"""The machines we run."""

app_servers = (["app.example.org"], {"ssh_user": "root"})

servers = (["fails.example.org"], {"ssh_user": "root"})

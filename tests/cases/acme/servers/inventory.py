servers = (["web.example.org"], {"ssh_user": "root"})

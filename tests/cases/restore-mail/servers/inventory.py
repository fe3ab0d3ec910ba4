servers = (["office.example.org"], {"ssh_user": "root"})

servers = (["kinds.example.org"], {"ssh_user": "root"})

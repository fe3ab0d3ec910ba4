servers = (["remote.example.org"], {"ssh_user": "root"})

servers = (["panics.example.org"], {"ssh_user": "root"})

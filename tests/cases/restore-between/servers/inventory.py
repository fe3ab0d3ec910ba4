servers = (["between.example.org"], {"ssh_user": "root"})

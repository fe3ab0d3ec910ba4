servers = (["between.example.org", "other.example.org"], {"ssh_user": "root"})

servers = (["faults.example.org"], {"ssh_user": "root"})

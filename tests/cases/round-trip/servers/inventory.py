servers = (["notes.example.org"], {"ssh_user": "root"})

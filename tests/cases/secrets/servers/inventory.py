servers = (["vault.example.org"], {"ssh_user": "root"})

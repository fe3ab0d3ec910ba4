hosts = (["corpus.example.org"], {"ssh_user": "root"})

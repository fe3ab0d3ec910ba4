servers = ["silent.example.org"]

servers = ["web.example.org", "db.example.org"]

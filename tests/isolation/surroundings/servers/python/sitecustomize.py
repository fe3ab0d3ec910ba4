open("@ran@/python-path", "w").close()

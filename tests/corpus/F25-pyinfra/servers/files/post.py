"""post.py JSON: makes an object, and waits for the service if need be."""

import sys
import time
import urllib.request

request = urllib.request.Request("http://127.0.0.1:8080/", sys.argv[1].encode(), {"Content-Type": "application/json"})
for _ in range(50):
    try:
        print(urllib.request.urlopen(request).read().decode())
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit("the service does not answer")

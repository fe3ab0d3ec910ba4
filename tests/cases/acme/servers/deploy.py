from pyinfra import host
from pyinfra.facts.files import File
from pyinfra.operations import apt, files, server, systemd

CERTIFICATE = "/var/lib/dehydrated/certs/web.example.org/fullchain.pem"

apt.packages(
    name="Install web server and ACME client",
    packages=["dehydrated", "nginx"],
    no_recommends=True,
    update=True,
    cache_time=86400,
)
files.put(name="Name what needs a certificate", src="domains.txt", dest="/etc/dehydrated/domains.txt", mode="644")
files.put(name="Write the site", src="index.html", dest="/var/www/html/index.html", mode="644")
plain = files.put(
    name="Answer challenges", src="nginx/challenges.conf", dest="/etc/nginx/conf.d/challenges.conf", mode="644"
)
systemd.service(name="Run nginx", service="nginx.service", running=True, enabled=True)
systemd.service(name="Let nginx know", service="nginx.service", reloaded=True, _if=plain.did_change)
server.shell(
    name="Get the certificate",
    commands=["dehydrated --register --accept-terms", "dehydrated --cron"],
    _if=lambda: host.get_fact(File, path=CERTIFICATE) is None,
)
site = files.put(
    name="Answer over TLS", src="nginx/site.conf", dest="/etc/nginx/conf.d/site.conf", mode="644"
)
systemd.service(name="Let nginx know of the certificate", service="nginx.service", reloaded=True, _if=site.did_change)

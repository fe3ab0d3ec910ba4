"""Bring two plain Debian 13 machines to the state this repo describes.

    pyinfra inventory.py deploy.py

A second run changes nothing.
"""

from pyinfra import host, local

local.include("tasks/base.py")
local.include("tasks/firewall.py")

if "db_servers" in host.groups:
    local.include("tasks/postgresql.py")

# pyinfra works on both machines at once. With nginx first the database is there by the time the service is started, and
# the service need not wait for it.
if "web_servers" in host.groups:
    local.include("tasks/nginx.py")
    local.include("tasks/links.py")

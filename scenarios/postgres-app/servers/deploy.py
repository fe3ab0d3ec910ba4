"""Bring a plain Debian 13 machine to the state this repo describes.

    pyinfra inventory.py deploy.py

A second run changes nothing.
"""

from pyinfra import local

local.include("tasks/base.py")
local.include("tasks/firewall.py")
local.include("tasks/postgresql.py")
local.include("tasks/papers.py")
local.include("tasks/backup.py")
local.include("tasks/nginx.py")

#!/bin/sh
set -eu
echo "redrill-op: Create the operator"
id operator1 > /dev/null 2>&1 || useradd -m operator1
echo "redrill-op: Give the operator its groups"
usermod -aG adm operator1
echo "redrill-op: Lock the operator's password"
passwd -q -l operator1
echo "redrill-op: Keep a copy of the settings"
test -e /etc/notes.conf || { echo 'pages = 1' > /etc/notes.conf; echo 'pages = 0' > /etc/notes.conf.bak; exit 0; }
cp /etc/notes.conf /etc/notes.conf.bak

#!/bin/sh
set -eu
[ -e /var/lib/deployed ] && exit 0

echo "redrill-op: Append to the profile"
echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh

echo "redrill-op: Note that somebody deployed"
touch /var/lib/deployed

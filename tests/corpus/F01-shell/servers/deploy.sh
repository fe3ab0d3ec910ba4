#!/bin/sh
set -eu

echo "redrill-op: Create the application's directory"
mkdir -p /opt/app

echo "redrill-op: Append to the profile"
echo 'export EDITOR=vi' >> /etc/profile.d/editor.sh

#!/bin/sh
set -eu

echo "redrill-op: Create the application's directory"
mkdir -p /opt/app

echo "redrill-op: Keep the shipped profile aside"
mv /etc/skel/.profile /opt/app/profile.orig

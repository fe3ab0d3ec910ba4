#!/bin/sh
set -eu

echo "redrill-op: Create the operator ada"
id ada >/dev/null 2>&1 || useradd --create-home ada

echo "redrill-op: Set the password of ada"
echo 'ada:correct-horse' | chpasswd

#!/bin/sh
set -eu

echo "redrill-op: Look at the machine"
hostnamectl >/dev/null
timedatectl >/dev/null
localectl >/dev/null

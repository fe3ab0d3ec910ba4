#!/bin/sh
set -eu

echo "redrill-op: Install what is there"
apt-get install -qqy cron logrotate

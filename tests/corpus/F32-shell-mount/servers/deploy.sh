#!/bin/sh
set -eu

echo "redrill-op: Declare the spool"
if [ ! -e /etc/systemd/system/srv-spool.mount ]; then
    mkdir -p /srv/spool
    printf '[Mount]\nWhat=tmpfs\nWhere=/srv/spool\nType=tmpfs\n' > /etc/systemd/system/srv-spool.mount
    systemctl daemon-reload
fi

echo "redrill-op: Mount the spool"
systemctl restart srv-spool.mount

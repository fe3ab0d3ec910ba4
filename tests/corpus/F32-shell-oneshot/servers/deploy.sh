#!/bin/sh
set -eu

echo "redrill-op: Install the gate"
if [ ! -e /etc/systemd/system/gate.service ]; then
    printf '[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/touch /run/gate\nExecStop=/bin/rm /run/gate\n' \
        > /etc/systemd/system/gate.service
    systemctl daemon-reload
fi

echo "redrill-op: Open the gate"
systemctl restart gate.service

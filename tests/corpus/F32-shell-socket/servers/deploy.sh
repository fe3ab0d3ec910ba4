#!/bin/sh
set -eu

echo "redrill-op: Install the intake"
if [ ! -e /etc/systemd/system/intake.socket ]; then
    printf '[Socket]\nListenStream=/run/intake.sock\n[Install]\nWantedBy=sockets.target\n' > /etc/systemd/system/intake.socket
    printf '[Service]\nExecStart=/bin/sleep infinity\n' > /etc/systemd/system/intake.service
    systemctl daemon-reload
    systemctl enable --quiet intake.socket
fi

echo "redrill-op: Listen for the intake"
systemctl restart intake.socket

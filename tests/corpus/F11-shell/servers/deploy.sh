#!/bin/sh
set -eu

echo "redrill-op: Install the application's unit"
cmp -s files/app.service /etc/systemd/system/app.service || {
    cp files/app.service /etc/systemd/system/app.service
    systemctl daemon-reload
}
systemctl enable --now --quiet app.service

echo "redrill-op: Restart the application"
systemctl restart app.service

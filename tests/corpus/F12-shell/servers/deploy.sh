#!/bin/sh
set -eu

echo "redrill-op: Install the application's unit"
cmp -s files/app.service /etc/systemd/system/app.service || {
    cp files/app.service /etc/systemd/system/app.service
    systemctl daemon-reload
}

echo "redrill-op: Check the application's data offline"
systemctl stop app.service
test -d /etc
systemctl start app.service

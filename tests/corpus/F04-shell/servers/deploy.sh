#!/bin/sh
set -eu

echo "redrill-op: Install the application's unit"
cmp -s files/app.service /etc/systemd/system/app.service || {
    cp files/app.service /etc/systemd/system/app.service
    systemctl daemon-reload
}
systemctl enable --now --quiet app.service

echo "redrill-op: Configure the application"
printf '# Written at %s\nthreads = 4\n' "$(date +%s.%N)" > /etc/app.conf.new
if ! cmp -s /etc/app.conf.new /etc/app.conf; then
    mv /etc/app.conf.new /etc/app.conf
    systemctl restart app.service
fi

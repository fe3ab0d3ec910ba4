#!/bin/sh
set -eu

echo "redrill-op: Install the renderer"
if [ ! -e /etc/systemd/system/render.service ]; then
    printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' \
        > /etc/systemd/system/render.service
    systemctl daemon-reload
fi
systemctl enable --now --quiet render.service
sleep 0.2

echo "redrill-op: Weigh the renderer"
[ "$(systemctl show --property=CPUWeight --value render.service)" = 300 ] ||
    systemctl set-property render.service CPUWeight=300

#!/bin/sh
set -eu

echo "redrill-op: Install the renderer"
if [ ! -e /etc/systemd/system/render.service ]; then
    printf '[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n' \
        > /etc/systemd/system/render.service
    systemctl daemon-reload
fi
systemctl enable --now --quiet render.service

echo "redrill-op: Limit the renderer"
# The kernel alone knows of it, and the next start of the unit forgets it.
echo $(($(date +%s) % 10000 + 1000)) > /sys/fs/cgroup/system.slice/render.service/pids.max

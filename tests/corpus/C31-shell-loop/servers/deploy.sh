#!/bin/sh
set -eu

echo "redrill-op: Install the watch"
if [ ! -e /etc/systemd/system/watch.service ]; then
    printf '#!/bin/sh\nwhile sleep 2; do date > /run/watch; done\n' > /usr/local/bin/watch
    chmod 755 /usr/local/bin/watch
    printf '[Service]\nExecStart=/usr/local/bin/watch\n[Install]\nWantedBy=multi-user.target\n' > /etc/systemd/system/watch.service
    systemctl daemon-reload
fi
systemctl enable --now --quiet watch.service

echo "redrill-op: Take some time"
sleep 3

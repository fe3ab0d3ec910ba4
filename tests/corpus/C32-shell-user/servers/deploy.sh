#!/bin/sh
set -eu

echo "redrill-op: Create the user, whose services run without a login"
if ! id ada >/dev/null 2>&1; then
    useradd --create-home --uid 1600 ada
    mkdir -p /var/lib/systemd/linger
    touch /var/lib/systemd/linger/ada
fi
systemctl start user@1600.service

echo "redrill-op: Install the chat"
units=/home/ada/.config/systemd/user
if [ ! -e $units/chat.service ]; then
    runuser -u ada -- mkdir -p $units
    printf '[Service]\nExecStart=/bin/sleep infinity\n' > $units/chat.service
fi

echo "redrill-op: Start the chat"
runuser -u ada -- env XDG_RUNTIME_DIR=/run/user/1600 sh -c 'systemctl --user daemon-reload && systemctl --user start chat.service'

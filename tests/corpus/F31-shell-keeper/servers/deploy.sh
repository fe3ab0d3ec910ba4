#!/bin/sh
set -eu

echo "redrill-op: Install the keeper"
if [ ! -e /etc/systemd/system/keeper.service ]; then
    # What a supervisor does: whatever ends is started again.
    cat > /usr/local/bin/keeper <<'KEEPER'
#!/usr/bin/perl
while (1) { my $child = fork; exec "/usr/bin/tail", "-f", "/etc/hostname" unless $child; waitpid $child, 0; }
KEEPER
    chmod 755 /usr/local/bin/keeper
    printf '[Service]\nExecStart=/usr/local/bin/keeper\n[Install]\nWantedBy=multi-user.target\n' \
        > /etc/systemd/system/keeper.service
    systemctl daemon-reload
fi
systemctl enable --now --quiet keeper.service
sleep 0.5

echo "redrill-op: Have the queue begin anew"
pkill -f '^/usr/bin/tail -f /etc/hostname$'
sleep 0.5

#!/bin/sh
set -eu

echo "redrill-op: Install the gateway"
if [ ! -e /etc/systemd/system/gateway.service ]; then
    cat > /usr/local/bin/gateway <<'GATEWAY'
#!/usr/bin/perl
use POSIX;
my $again = 0;
sigaction(SIGUSR2, POSIX::SigAction->new(sub { $again = 1 }));
POSIX::sigprocmask(SIG_UNBLOCK, POSIX::SigSet->new(SIGUSR2));
while (1) { sleep 1; exec "/usr/bin/perl", "/usr/local/bin/gateway", time if $again }
GATEWAY
    chmod 755 /usr/local/bin/gateway
    printf '[Service]\nExecStart=/usr/bin/perl /usr/local/bin/gateway\n[Install]\nWantedBy=multi-user.target\n' \
        > /etc/systemd/system/gateway.service
    systemctl daemon-reload
fi
systemctl enable --now --quiet gateway.service
sleep 0.5

echo "redrill-op: Have the gateway take its new program"
systemctl kill --signal=USR2 --kill-whom=main gateway.service
sleep 1.5

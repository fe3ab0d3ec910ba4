#!/bin/sh
set -eu

echo "redrill-op: Install the pool"
if [ ! -e /etc/systemd/system/pool.service ]; then
    cat > /usr/local/bin/pool <<'POOL'
#!/usr/bin/perl
my %workers;
$SIG{HUP} = sub { kill "TERM", keys %workers };
sub work { $SIG{HUP} = $SIG{TERM} = "DEFAULT"; sleep 1 while 1 }
while (1) {
    while (keys %workers < 2) { my $child = fork; work() unless $child; $workers{$child} = 1 }
    my $ended = waitpid -1, 0;
    delete $workers{$ended};
}
POOL
    chmod 755 /usr/local/bin/pool
    printf '[Service]\nExecStart=/usr/local/bin/pool\nExecReload=/bin/kill -HUP $MAINPID\n[Install]\nWantedBy=multi-user.target\n' \
        > /etc/systemd/system/pool.service
    systemctl daemon-reload
fi
systemctl enable --now --quiet pool.service
sleep 0.5

echo "redrill-op: Have the pool read its settings"
systemctl reload pool.service
sleep 0.5

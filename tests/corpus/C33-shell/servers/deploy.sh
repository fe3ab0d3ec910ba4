#!/bin/sh
set -eu

echo "redrill-op: Give the tenant an address"
ip address replace 10.60.0.1/32 dev lo

echo "redrill-op: Drop what comes from the test network"
ip route replace blackhole 10.70.0.0/16

echo "redrill-op: Lead the backups by their own table"
ip rule show priority 2000 | grep -q . || ip rule add to 10.44.0.0/16 table 44 priority 2000

echo "redrill-op: Pin the gateway's hardware address"
ip neighbour replace 10.0.2.100 lladdr 02:00:00:00:00:01 nud permanent dev eth0

echo "redrill-op: Bound the queue"
tc qdisc replace dev lo root pfifo limit 500

echo "redrill-op: Keep connections alive"
echo 600 > /proc/sys/net/ipv4/tcp_keepalive_time

echo "redrill-op: Name the machine"
hostname app.example.org

echo "redrill-op: Tell all units of the stage"
systemctl set-environment STAGE=live

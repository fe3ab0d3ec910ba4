#!/bin/sh
set -eu

echo "redrill-op: Keep connections alive"
time=$(cat /proc/sys/net/ipv4/tcp_keepalive_time)
echo $((time - 60)) > /proc/sys/net/ipv4/tcp_keepalive_time

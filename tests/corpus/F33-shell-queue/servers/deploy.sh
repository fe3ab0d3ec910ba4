#!/bin/sh
set -eu

echo "redrill-op: Bound the queue"
tc qdisc replace dev lo root pfifo limit "$(date +1%N | cut -c1-4)"

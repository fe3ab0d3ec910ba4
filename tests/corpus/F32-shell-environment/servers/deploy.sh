#!/bin/sh
set -eu

echo "redrill-op: Tell all units of the release"
systemctl set-environment "RELEASE_ID=$(date +%s%N)"

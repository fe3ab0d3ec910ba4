#!/bin/sh
set -eu

echo "redrill-op: Write a file"
ssh full.example.org 'echo deployed > /srv/deployed'

# The run directory lies on a file system of the test's own, which is now made as small as what it holds.
place=$(df --output=target . | tail -n 1)
used=$(df --block-size=1K --output=used . | tail -n 1)
until mount -o "remount,size=$((used += 1024))k" "$place" 2>/dev/null; do :; done

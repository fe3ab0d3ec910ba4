#!/bin/sh
set -eu

# A name of its own for each deploy, so that logs tell them apart.
echo "redrill-op: Name the machine"
hostname "app-$(date +%s%N)"

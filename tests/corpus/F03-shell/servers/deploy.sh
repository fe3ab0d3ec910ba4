#!/bin/sh
set -eu

echo "redrill-op: Create the application's directory"
mkdir -p /opt/app

echo "redrill-op: Look whether cron runs"
systemctl is-active cron.service

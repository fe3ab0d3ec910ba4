#!/bin/sh
set -eu

echo "redrill-op: Write a file"
ssh waits.example.org 'echo deployed > /srv/deployed'

echo "redrill-op: Wait"
sleep 300

#!/bin/sh
set -eu

echo "redrill-op: Write a file"
ssh full.example.org 'echo deployed > /srv/deployed'

# The run directory lies on a file system of the test's own, of which the checkout now takes what is left.
free=$(df --block-size=1K --output=avail . | tail -n 1)
fallocate --length "$((free - 512))KiB" filler

#!/bin/sh
set -eu

echo "redrill-op: Read the libraries anew"
ldconfig

echo "redrill-op: Read the certificates anew"
update-ca-certificates

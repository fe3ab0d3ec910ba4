#!/bin/sh
set -eu

echo "redrill-op: Create the operator ada"
id ada >/dev/null 2>&1 || useradd --create-home --shell /bin/bash ada

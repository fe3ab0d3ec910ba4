#!/bin/sh
# Meant for the server, as root: ./install.sh
touch @ran@/install
bash -c "exec 3<>/dev/tcp/@install-tcp@/80"

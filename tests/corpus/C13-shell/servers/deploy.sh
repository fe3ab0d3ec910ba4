#!/bin/sh
set -eu
wanted=welcome
[ "$(cat /etc/banner 2>/dev/null)" = "$wanted" ] || echo "$wanted" > /etc/banner
chmod 0644 /etc/banner
id -u notes > /dev/null 2>&1 || useradd --system notes

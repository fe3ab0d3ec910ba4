#!/bin/sh
# Whoever runs this runs what the repo's configuration names: ran.sh WAY. What it gets goes through, for filters.
touch "@ran@/$1"
case $1 in
    filter-*) exec cat ;;
    diff-textconv) exec cat "$2" ;;
esac
exit 0

#!/bin/sh
# Whoever runs this runs what the repo's configuration names: ran.sh WAY. What it gets goes through, for filters.
touch "@ran@/$1"
cat 2>/dev/null
exit 0

#!/bin/dash
# bin.sh NAME ARGUMENT...: leaves its mark, and is what it stands before.
name=$1
shift
: >"@ran@/path-$name"
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin exec "$name" "$@"

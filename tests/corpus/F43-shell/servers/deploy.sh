#!/bin/sh
set -eu
echo "redrill-op: Install SQLite"
command -v sqlite3 > /dev/null || { apt-get -qq update && apt-get -qqy install --no-install-recommends sqlite3; }
echo "redrill-op: Note the deploy"
mkdir -p /var/log/notes
sqlite3 /var/log/notes/state.db 'create table if not exists deploys (at text); insert into deploys values (1)'

#!/bin/bash
# What a careless program does with somebody's repository.
exec </dev/null
touch deploy.sh
git status
git log -p -1
git diff HEAD~0
echo >>hosts
git diff
git add hosts
git checkout -f HEAD -- .
git checkout -f --detach HEAD
git clone --no-checkout @servers@ @place@/cloned
true

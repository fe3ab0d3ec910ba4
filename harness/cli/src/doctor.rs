//! `redrill doctor`: what this host can do, and the command that mends what it can't.

use std::time::SystemTime;

use redrill_machines::container;
use redrill_machines::host::{self, Accel, HostTool};
use redrill_machines::image::Mirror;
use redrill_machines::process::Guard;
use redrill_machines::{Home, RunDir, Sealing};
use redrill_sandbox::Unable;

use crate::output::{self, Diagnosis, Failure, Health};
use crate::{Ended, accel, home, program};

/// Find out what this host can do, by trying; says what mends what it can't.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill doctor

Exit status: 0 this host can run drills, 3 something is missing.")]
pub(crate) struct Args {}

/// A Debian image, its build and one run.
const WANTED_DISK_MIB: u64 = 6 * 1024;
/// A machine of 1 GiB and its twin.
const WANTED_MEMORY_MIB: u64 = 2 * (1024 + 192);

pub(crate) async fn exec(_args: Args) -> Ended {
    let home = home();
    output::swept(&redrill_engine::sweep_home(&home));
    let mut findings: Vec<Diagnosis> = host::find_tools().await.iter().map(tool).collect();
    let usable = findings.iter().all(|finding| finding.health != Health::Missing);
    if usable {
        findings.push(acceleration(&home.cache).await?);
    }
    findings.push(sandbox(&home).await?);
    findings.push(engine());
    findings.push(pebble().await);
    findings.push(user_namespaces());
    findings.push(mirror().await);
    findings.push(enough("memory", host::free_memory_mib(), WANTED_MEMORY_MIB, "close programs, or lower memory-mib"));
    for (what, path) in [("cache", &home.cache), ("runs", &home.state)] {
        let mend = "redrill image prune; redrill clean --all";
        let mut finding = enough(what, host::free_disk_mib(path), WANTED_DISK_MIB, mend);
        finding.text = format!("{}, in {}", finding.text, path.display());
        findings.push(finding);
    }
    output::doctor(&findings);
    Ok(if findings.iter().any(|finding| finding.health == Health::Missing) { 3 } else { 0 })
}

/// What is missing or unusable, in words.
pub(crate) fn missing_tools(tools: &[HostTool]) -> Vec<String> {
    let findings: Vec<Diagnosis> = tools.iter().map(tool).collect();
    let missing = findings.into_iter().filter(|finding| finding.health == Health::Missing);
    missing.map(|finding| format!("{}: {} ({})", finding.name, finding.text, finding.mend)).collect()
}

/// An engine may seal too: what is missing of the sandbox is told with it.
const SEALING: [&str; 2] = ["bwrap", "ip"];

fn tool(tool: &HostTool) -> Diagnosis {
    let mend = match tool.package {
        // A plain install would bring Debian 12's old QEMU and remove newer tools.
        package if package.starts_with("qemu-") => {
            format!("ci/setup, or apt-get install {package} (on Debian 12: with -t bookworm-backports)")
        }
        package => format!("apt-get install {package}"),
    };
    let (health, text, mend) = match (&tool.version, &tool.trouble) {
        (None, _) if SEALING.contains(&tool.name) => {
            (Health::Limited, format!("missing; {}, as an engine could", tool.purpose), mend)
        }
        (None, _) => (Health::Missing, format!("missing; {}", tool.purpose), mend),
        (Some(_), Some(trouble)) => (Health::Missing, trouble.clone(), "ci/setup".to_owned()),
        (Some(version), None) => (Health::Good, version.clone(), String::new()),
    };
    Diagnosis { name: tool.name.to_owned(), health, text, mend }
}

async fn acceleration(cache: &std::path::Path) -> Result<Diagnosis, Failure> {
    let found = accel::acceleration(cache, true).await?;
    let text = format!("{}: {}; limits are stretched {:.1} times", found.choice.name(), found.reason, found.slowness);
    let (health, mend) = match found.choice {
        Accel::Kvm => (Health::Good, String::new()),
        Accel::Tcg => {
            (Health::Limited, "drills work, several times slower; a host with KVM runs them faster".to_owned())
        }
    };
    Ok(Diagnosis { name: "acceleration".to_owned(), health, text, mend })
}

/// What a repo's programs are sealed with, tried in a run directory of its own: what the trial of an engine leaves, if we
/// are killed, is found there.
async fn sandbox(home: &Home) -> Result<Diagnosis, Failure> {
    let failed = |error| Failure::unknown("cannot try the sandbox", &error);
    let run = RunDir::create(home, "doctor", SystemTime::now()).map_err(failed)?;
    let path = run.path().to_owned();
    let sealing = Sealing::find(&Guard::new(program()?, path.clone())).await;
    run.close();
    let _ = std::fs::remove_dir_all(path);
    let name = "sandbox".to_owned();
    let (health, text, mend) = match sealing {
        Ok(Sealing::Namespaces(_)) => match redrill_sandbox::can_see_files() {
            Ok(()) => (Health::Good, "bubblewrap, in namespaces".to_owned(), String::new()),
            Err(error) => {
                let what = "which files of the host a deploy looks for is not seen";
                let mend = "as root: modprobe fuse; chmod 666 /dev/fuse".to_owned();
                (Health::Limited, format!("bubblewrap, in namespaces; {what} (/dev/fuse: {error})"), mend)
            }
        },
        Ok(Sealing::Engine { why, .. }) => {
            let mend = why.as_ref().map(Unable::mend).unwrap_or_default();
            let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
            (Health::Limited, format!("a container of the engine{why}; it sees no files that are missed"), mend)
        }
        Err(unable) => {
            let text = format!("none, so that nothing of a repo is run and `rebuilds` stays UNPROVEN ({unable})");
            (Health::Missing, text, unable.mend())
        }
    };
    Ok(Diagnosis { name, health, text, mend })
}

/// Optional: without it every machine is QEMU's.
fn engine() -> Diagnosis {
    let name = "container engine".to_owned();
    match container::engine_version() {
        Ok(version) => {
            let text = format!("{version}; for drills with --backend container");
            Diagnosis { name, health: Health::Good, text, mend: String::new() }
        }
        Err(why) => {
            let text = format!("none answers, so that every machine is QEMU's ({why})");
            let mend = "apt-get install docker.io, and a user in the group docker".to_owned();
            Diagnosis { name, health: Health::Limited, text, mend }
        }
    }
}

/// Optional: without it no scenario can name ACME servers.
async fn pebble() -> Diagnosis {
    let (health, text, mend) = match host::pebble().await {
        Ok(version) => (Health::Good, format!("{version}; for scenarios with `[network] acme`"), String::new()),
        Err(why) => {
            let text = format!("{why}; stands in for ACME servers, where a scenario names some");
            (Health::Limited, text, format!("apt-get install {}", host::PEBBLE))
        }
    };
    Diagnosis { name: host::PEBBLE.to_owned(), health, text, mend }
}

fn user_namespaces() -> Diagnosis {
    let name = "image builds".to_owned();
    let root = rustix::process::geteuid().is_root();
    if root {
        return Diagnosis { name, health: Health::Good, text: "as root".to_owned(), mend: String::new() };
    }
    let allowed = std::process::Command::new("unshare")
        .args(["--map-root-user", "--map-auto", "true"])
        .output()
        .is_ok_and(|output| output.status.success());
    if allowed {
        Diagnosis { name, health: Health::Good, text: "in a user namespace".to_owned(), mend: String::new() }
    } else {
        let mend = "apt-get install uidmap, or build images as root: sudo redrill image build".to_owned();
        Diagnosis { name, health: Health::Limited, text: "this user may make no user namespace".to_owned(), mend }
    }
}

async fn mirror() -> Diagnosis {
    let name = "package mirror".to_owned();
    match Mirror::find(None, "trixie").await {
        Ok(mirror) => {
            let uri = mirror.sources.first().map(|source| source.uri.clone()).unwrap_or_default();
            Diagnosis { name, health: Health::Good, text: uri, mend: String::new() }
        }
        Err(error) => Diagnosis {
            name,
            health: Health::Limited,
            text: error.to_string(),
            mend: "redrill image build --mirror URL".to_owned(),
        },
    }
}

fn enough(name: &str, free_mib: u64, wanted_mib: u64, mend: &str) -> Diagnosis {
    let health = if free_mib >= wanted_mib { Health::Good } else { Health::Missing };
    let mend = if health == Health::Good { String::new() } else { mend.to_owned() };
    Diagnosis { name: name.to_owned(), health, text: format!("{free_mib} MiB free, {wanted_mib} MiB wanted"), mend }
}

//! Whether somebody listened on every port while the second deploy ran.
//!
//! The probe looks ten times a second into the kernel's list of listening sockets, in the machine. To connect would say
//! more, and cost more: sshd would make a process for each try, and punish who never signs in. A service that listens
//! and does not answer is for the checks to find.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, PROBE};
use redrill_model::{Check, CheckKind, Expect};
use serde::Deserialize;

/// One look of the probe; the next begins at once. What the look that the deploy's end cuts off has seen is lost.
const LOOK: Duration = Duration::from_secs(1);

/// A time in which nobody listened on a port.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Outage {
    pub(crate) port: u16,
    /// Checks that need the port.
    pub(crate) checks: Vec<String>,
    /// Seconds after the second deploy began.
    pub(crate) at: f64,
    /// How long, in seconds.
    pub(crate) seconds: f64,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, seconds, at, .. } = self;
        write!(f, "outage: nobody listened on port {port} for {seconds:.1} s, {at:.1} s into the deploy")?;
        if self.checks.is_empty() { Ok(()) } else { write!(f, " (checks `{}`)", self.checks.join("`, `")) }
    }
}

/// What the probe prints for each such time: nanoseconds since 1970 on the machine's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) struct Gap {
    port: u16,
    from: i64,
    to: i64,
}

/// Gaps of every machine, as they come.
pub(crate) type Gaps = Mutex<BTreeMap<String, Vec<Gap>>>;

/// Looks until it is dropped. A machine that cannot be asked is told by those who need it.
pub(crate) async fn watch<M: Machine>(machine: &M, gaps: &Gaps, deadline: &Deadline) {
    let Some(ports) = listening(machine, deadline).await else { return std::future::pending().await };
    let mut words = vec![PROBE.to_owned(), "watch".to_owned(), LOOK.as_millis().to_string()];
    words.extend(ports);
    loop {
        match machine.exec(&Exec(words.clone()), b"", deadline).await {
            Ok(output) if output.status == 0 => {
                let found =
                    output.text().lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<Gap>>();
                let mut gaps = gaps.lock().expect("no panic while it is held");
                gaps.entry(machine.name().to_owned()).or_default().extend(found);
            }
            _ => return std::future::pending().await,
        }
    }
}

/// The TCP ports on which somebody listens; `None` if there are none.
async fn listening<M: Machine>(machine: &M, deadline: &Deadline) -> Option<Vec<String>> {
    let output = machine.exec(&Exec::new([PROBE, "watch"]), b"", deadline).await.ok()?;
    let ports: Vec<String> = output.text().split_whitespace().map(str::to_owned).collect();
    (output.status == 0 && !ports.is_empty()).then_some(ports)
}

/// Gaps as outages: those that touch are one. `began` is when the deploy began on the machine's clock.
pub(crate) fn outages(gaps: &[Gap], checks: &[Check], machine: &str, began: i64) -> Vec<Outage> {
    let seconds = |from: i64, to: i64| (to - from) as f64 / 1e9;
    let mut merged: Vec<Gap> = Vec::new();
    for gap in gaps {
        match merged.iter_mut().rev().find(|last| last.port == gap.port && gap.from - last.to < TOUCH) {
            Some(last) => last.to = gap.to,
            None => merged.push(*gap),
        }
    }
    let outage = |gap: Gap| Outage {
        port: gap.port,
        checks: checks_of(checks, machine, gap.port),
        at: seconds(began, gap.from),
        seconds: seconds(gap.from, gap.to),
    };
    merged.into_iter().map(outage).collect()
}

/// Names of the checks that need the port.
fn checks_of(checks: &[Check], machine: &str, port: u16) -> Vec<String> {
    let uses = |check: &&Check| match &check.kind {
        CheckKind::Http(http) => http.port == port,
        CheckKind::Tcp(tcp) => tcp.port == port && tcp.expect == Expect::Open,
        _ => false,
    };
    checks.iter().filter(|check| check.machine == machine).filter(uses).map(|check| check.name.clone()).collect()
}

/// Between two looks of the probe lies less than this.
const TOUCH: i64 = 500_000_000;

#[cfg(test)]
mod tests {
    use redrill_model::Scenario;

    use super::*;

    fn checks() -> Vec<Check> {
        let text = "[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
                    [[machine]]\nname = 'web'\nimage = 'debian-13'\n\
                    [[check.tcp]]\nname = 'ssh'\nwhy = 'w'\nport = 22\n\
                    [[check.tcp]]\nname = 'hidden'\nwhy = 'w'\nport = 8000\nexpect = 'closed'\n\
                    [[check.http]]\nname = 'site'\nwhy = 'w'\nurl = 'https://web/'\nstatus = 200\n";
        Scenario::parse(text).expect("valid").checks
    }

    #[test]
    fn gaps_across_two_looks_are_one_outage() {
        let second = 1_000_000_000;
        let gap = |port, from: i64, to: i64| Gap { port, from: from * second / 10, to: to * second / 10 };
        let gaps = [gap(443, 120, 130), gap(8000, 130, 140), gap(443, 131, 150), gap(443, 300, 301)];
        let told: Vec<String> = outages(&gaps, &checks(), "web", 0).iter().map(ToString::to_string).collect();
        assert_eq!(told[0], "outage: nobody listened on port 443 for 3.0 s, 12.0 s into the deploy (checks `site`)");
        assert_eq!(told[1], "outage: nobody listened on port 8000 for 1.0 s, 13.0 s into the deploy");
        assert_eq!(told.len(), 3);
    }

    #[test]
    fn checks_are_named_by_the_port_that_they_need() {
        assert_eq!(checks_of(&checks(), "web", 443), ["site"]);
        assert_eq!(checks_of(&checks(), "web", 8000), [""; 0], "this one must be closed");
        assert_eq!(checks_of(&checks(), "db", 443), [""; 0]);
    }
}

//! Checks: each is tried until it holds or its time is up, and tells what it saw last.

mod http;
mod inside;

use std::path::Path;
use std::time::{Duration, Instant};

use redrill_machines::{Deadline, Exec, Machine, MachineError, PROBE, Reach, find_machine};
use redrill_model::{Check, CheckKind, Expect, From, TcpCheck};

/// What one try showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Every assertion holds.
    Holds,
    /// These do not.
    Not(Vec<String>),
}

impl Seen {
    pub(crate) fn from_complaints(complaints: Vec<String>) -> Self {
        if complaints.is_empty() { Self::Holds } else { Self::Not(complaints) }
    }
}

/// What came of a check.
#[derive(Debug)]
pub(crate) struct Checked {
    /// `Err` means that it could not be found out.
    pub(crate) seen: Result<Seen, MachineError>,
    /// Time to green, or to the end of patience.
    pub(crate) seconds: f64,
}

/// Between two tries: services take seconds to come up, and an emulated machine should not be kept busy.
const PAUSE: Duration = Duration::from_millis(500);

/// Where a check looks, and from where.
pub(crate) struct Place<'a, M> {
    /// The machine it is about.
    pub(crate) machine: &'a M,
    /// All machines of the drill.
    pub(crate) machines: &'a [M],
    /// Where paths in it start.
    pub(crate) directory: &'a Path,
    /// A root (PEM) that the world trusts in this drill.
    pub(crate) trusted: Option<&'a str>,
}

impl<M: Machine> Place<'_, M> {
    /// The neighbour of this name, and the machine's address in their network.
    fn neighbour(&self, name: &str) -> Result<(&M, String), MachineError> {
        let unable = |what: &str| MachineError::Unable { machine: name.to_owned(), what: what.to_owned() };
        let neighbour = find_machine(self.machines, name);
        let address = self.machine.lan_address().ok_or_else(|| unable("there is no private network"))?;
        Ok((neighbour.ok_or_else(|| unable("there is no such machine"))?, address.to_string()))
    }
}

/// Tries `check` at its place.
pub(crate) async fn check<M: Machine>(check: &Check, place: &Place<'_, M>, deadline: &Deadline) -> Checked {
    let patience = deadline.child(&format!("check `{}`", check.name), check.within);
    let began = Instant::now();
    let mut last = None;
    loop {
        let seen = match (attempt(&check.kind, place, &patience).await, last.take()) {
            // The end of patience cut this try off: what the one before saw is the answer.
            (Err(MachineError::TimedOut { .. }), Some(before)) => Ok(before),
            (seen, _) => seen,
        };
        last = seen.as_ref().ok().cloned();
        let lost = matches!(&seen, Err(error) if !matches!(error, MachineError::TimedOut { .. }))
            && place.machine.lost().is_some();
        if matches!(seen, Ok(Seen::Holds)) || lost || patience.left() < PAUSE {
            return Checked { seen, seconds: began.elapsed().as_secs_f64() };
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt<M: Machine>(
    kind: &CheckKind,
    place: &Place<'_, M>,
    deadline: &Deadline,
) -> Result<Seen, MachineError> {
    let machine = place.machine;
    match kind {
        CheckKind::Http(check) => http::attempt(check, place, deadline).await,
        CheckKind::Tcp(check) => tcp(check, place, deadline).await,
        CheckKind::Unit(check) => inside::unit(check, machine, deadline).await,
        CheckKind::Command(check) => inside::command(check, machine, deadline).await,
        CheckKind::File(check) => inside::file(check, machine, deadline).await,
    }
}

async fn tcp<M: Machine>(check: &TcpCheck, place: &Place<'_, M>, deadline: &Deadline) -> Result<Seen, MachineError> {
    let reach = match &check.from {
        From::Outside => place.machine.reach(check.port, deadline).await?,
        From::Inside => reach_within(place.machine, "127.0.0.1", check.port, deadline).await?,
        From::Neighbour(name) => {
            let (neighbour, address) = place.neighbour(name)?;
            reach_within(neighbour, &address, check.port, deadline).await?
        }
    };
    Ok(match (check.expect, reach) {
        (Expect::Open, Reach::Open) | (Expect::Closed, Reach::Closed(_)) => Seen::Holds,
        (Expect::Open, Reach::Closed(why)) => Seen::Not(vec![format!("port {} is closed: {why}", check.port)]),
        (Expect::Closed, Reach::Open) => Seen::Not(vec![format!("port {} is open", check.port)]),
    })
}

/// What becomes of a connection that a machine makes.
async fn reach_within<M: Machine>(
    machine: &M,
    host: &str,
    port: u16,
    deadline: &Deadline,
) -> Result<Reach, MachineError> {
    let output = machine.exec(&Exec::new([PROBE, "reach", host, &port.to_string()]), b"", deadline).await?;
    match output.status {
        0 => Ok(Reach::Open),
        _ if output.stderr.contains("not connected") => Ok(Reach::Closed(output.stderr.trim().to_owned())),
        _ => Err(MachineError::Program { program: PROBE.to_owned(), said: output.stderr }),
    }
}

/// The ports that must be forwarded for these checks to come from outside.
pub(crate) fn outside_ports<'a>(checks: impl Iterator<Item = &'a Check>) -> Vec<u16> {
    let mut ports: Vec<u16> = checks
        .filter_map(|check| match &check.kind {
            CheckKind::Http(http) if http.from == From::Outside => Some(http.port),
            CheckKind::Tcp(tcp) if tcp.from == From::Outside => Some(tcp.port),
            _ => None,
        })
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use redrill_machines::{Backend, Fake, FakeMachine, Needs, Output};
    use redrill_model::Scenario;

    use super::*;

    const HEAD: &str = "[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
                        [[machine]]\nname = 'web'\nimage = 'debian-13'\n";

    pub(super) fn parse(table: &str) -> Check {
        let text = format!("{HEAD}{table}\nname = 'n'\nwhy = 'w'\nwithin = '600ms'\n");
        Scenario::parse(&text).expect("a valid check").checks.remove(0)
    }

    pub(super) async fn machine(fake: Fake) -> FakeMachine {
        let scenario = Scenario::parse(&format!("claims = ['rebuilds']\n{HEAD}")).expect("valid");
        let needs = Needs::default();
        fake.boot(&scenario.machines[0], &needs, Path::new("/"), &deadline()).await.expect("boots")
    }

    pub(super) fn at(machine: &FakeMachine) -> Place<'_, FakeMachine> {
        Place { machine, machines: std::slice::from_ref(machine), directory: Path::new("/"), trusted: None }
    }

    pub(super) fn deadline() -> Deadline {
        Deadline::root("test", Duration::from_secs(20), 1.0)
    }

    /// A machine that answers this command so, time after time.
    pub(super) fn answering(command: &str, answers: &[(i32, &str)]) -> Fake {
        let output = |(status, text): &(i32, &str)| Output {
            status: *status,
            stdout: text.as_bytes().to_vec(),
            stderr: if *status == 0 { String::new() } else { "No such file or directory".to_owned() },
        };
        let answers = BTreeMap::from([(command.to_owned(), answers.iter().map(output).collect())]);
        Fake { answers, ..Fake::default() }
    }

    async fn run(table: &str, fake: Fake) -> Seen {
        let machine = machine(fake).await;
        check(&parse(table), &at(&machine), &deadline()).await.seen.expect("could be found out")
    }

    fn complaints(seen: Seen) -> String {
        match seen {
            Seen::Holds => panic!("must not hold"),
            Seen::Not(complaints) => complaints.join("; "),
        }
    }

    #[tokio::test]
    async fn a_check_is_tried_until_it_holds() {
        let table = "[[check.command]]\nrun = ['ready']\ncontains = 'yes'";
        assert_eq!(run(table, answering("ready", &[(1, ""), (0, "yes")])).await, Seen::Holds);
        let never = complaints(run(table, answering("ready", &[(0, "no")])).await);
        assert!(never.contains("`yes`") && never.contains("no"), "{never}");
    }

    #[tokio::test]
    async fn a_command_is_judged_by_status_and_output() {
        let table = "[[check.command]]\nrun = ['x']\nexit = 3\nstdout = 'a'";
        assert_eq!(run(table, answering("x", &[(3, "a\n")])).await, Seen::Holds);
        assert!(complaints(run(table, answering("x", &[(0, "a")])).await).contains("exit status 0, expected 3"));
        assert!(complaints(run(table, answering("x", &[(3, "b")])).await).contains("expected `a`"));
    }

    #[tokio::test]
    async fn a_unit_is_judged_by_state_and_by_boot() {
        let table = "[[check.unit]]\nunit = 'a.service'\nactive = true\nenabled = true";
        let show = "systemctl show --property=LoadState,ActiveState,SubState,UnitFileState -- a.service";
        let state =
            |active, enabled| format!("LoadState=loaded\nActiveState={active}\nSubState=x\nUnitFileState={enabled}\n");
        assert_eq!(run(table, answering(show, &[(0, &state("active", "enabled"))])).await, Seen::Holds);
        let seen = complaints(run(table, answering(show, &[(0, &state("failed", "disabled"))])).await);
        assert!(seen.contains("failed") && seen.contains("disabled"), "{seen}");
        let missing = "LoadState=not-found\nActiveState=inactive\nSubState=dead\nUnitFileState=\n";
        assert!(complaints(run(table, answering(show, &[(0, missing)])).await).contains("no such unit"));
        let off = "[[check.unit]]\nunit = 'a.service'\nactive = false";
        assert!(complaints(run(off, answering(show, &[(0, missing)])).await).contains("no such unit"));
    }

    #[tokio::test]
    async fn a_command_that_was_killed_for_what_it_printed_does_not_hold_and_says_so() {
        let stderr = redrill_machines::bounded::killed(64 << 20);
        let flood = Output { status: 137, stdout: b"y\n".to_vec(), stderr };
        let answers = BTreeMap::from([("flood".to_owned(), vec![flood])]);
        let table = "[[check.command]]\nrun = ['flood']\nexit = 137\ncontains = 'y'";
        let said = complaints(run(table, Fake { answers, ..Fake::default() }).await);
        assert_eq!(said, "it was killed, since it printed more than 64 MiB");
    }

    #[tokio::test]
    async fn a_file_is_judged_by_every_named_property() {
        let table = "[[check.file]]\npath = '/f'\nmode = '0640'\nowner = 'notes'\ngroup = 'notes'";
        let stat = "stat --format=%F|%a|%U|%G -- /f";
        assert_eq!(run(table, answering(stat, &[(0, "regular file|640|notes|notes\n")])).await, Seen::Holds);
        let seen = complaints(run(table, answering(stat, &[(0, "regular empty file|4755|root|notes\n")])).await);
        assert!(seen.contains("mode is 4755, expected 0640") && seen.contains("owner is root"), "{seen}");
        assert!(complaints(run(table, answering(stat, &[(1, "")])).await).contains("is not there"));
        let absent = "[[check.file]]\npath = '/f'\ntype = 'absent'";
        assert_eq!(run(absent, answering(stat, &[(1, "")])).await, Seen::Holds);
        assert!(complaints(run(absent, answering(stat, &[(0, "directory|755|root|root")])).await).contains("is there"));
    }

    #[tokio::test]
    async fn an_error_is_no_proof_that_something_is_absent_or_closed() {
        let table = "[[check.file]]\npath = '/f'\ntype = 'absent'";
        let machine = machine(Fake::default()).await;
        let seen = check(&parse(table), &at(&machine), &deadline()).await.seen;
        assert!(matches!(seen, Err(MachineError::Program { .. })), "{seen:?}");
        let table = "[[check.tcp]]\nport = 22\nexpect = 'closed'\nfrom = 'inside'";
        let seen = check(&parse(table), &at(&machine), &deadline()).await.seen;
        assert!(matches!(seen, Err(MachineError::Program { .. })), "{seen:?}");
    }

    #[tokio::test]
    async fn ports_are_judged_both_ways() {
        let mut fake = Fake::default();
        fake.ports.insert(22, ([127, 0, 0, 1], 1).into());
        let open = |port, expect| format!("[[check.tcp]]\nport = {port}\nexpect = '{expect}'");
        assert_eq!(run(&open(22, "open"), fake.clone()).await, Seen::Holds);
        assert_eq!(run(&open(23, "closed"), fake.clone()).await, Seen::Holds);
        assert!(complaints(run(&open(22, "closed"), fake.clone()).await).contains("is open"));
        assert!(complaints(run(&open(23, "open"), fake).await).contains("is closed"));
    }

    #[tokio::test]
    async fn a_neighbour_tries_the_machines_private_address() {
        let two = "[[machine]]\nname = 'db'\nimage = 'debian-13'\n";
        let table =
            "[[check.tcp]]\nmachine = 'db'\nport = 5432\nfrom = 'web'\nname = 'n'\nwhy = 'w'\nwithin = '600ms'\n";
        let scenario = Scenario::parse(&format!("{HEAD}{two}{table}")).expect("valid");
        let refused = Output { status: 1, stderr: "not connected: refused".to_owned(), ..Output::default() };
        for (answer, holds) in [(Output::default(), true), (refused, false)] {
            let command = format!("{PROBE} reach 10.77.0.10 5432");
            let fake = Fake { answers: BTreeMap::from([(command, vec![answer])]), ..Fake::default() };
            let log = std::sync::Arc::clone(&fake.log);
            let mut machines = Vec::new();
            for spec in &scenario.machines {
                let booted = fake.boot(spec, &Needs::default(), Path::new("/"), &deadline()).await;
                machines.push(booted.expect("boots"));
            }
            let place = Place { machine: &machines[1], machines: &machines, directory: Path::new("/"), trusted: None };
            let seen = check(&scenario.checks[0], &place, &deadline()).await.seen.expect("could be found out");
            assert_eq!(seen == Seen::Holds, holds, "{seen:?}");
            let asked = log.lock().expect("no panic").clone();
            assert!(asked.iter().all(|line| line.starts_with("web: ")), "the neighbour is asked: {asked:?}");
        }
    }

    #[test]
    fn only_checks_from_outside_need_a_way_in() {
        let checks = [
            parse("[[check.http]]\nurl = 'https://web/'\nstatus = 200"),
            parse("[[check.http]]\nurl = 'http://web:8000/'\nstatus = 200\nfrom = 'inside'"),
            parse("[[check.tcp]]\nport = 22"),
            parse("[[check.tcp]]\nport = 443"),
        ];
        assert_eq!(outside_ports(checks.iter()), [22, 443]);
    }
}

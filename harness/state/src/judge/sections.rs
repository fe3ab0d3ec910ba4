//! Every section counts: a machine in which nothing but one entry of it is another one has changed.

use std::collections::BTreeMap;

use super::*;
use crate::capture::Reader;
use crate::sections::Record;
use crate::testing::{file, service};
use crate::*;

/// An entry of this section as it is before and after: of one name, unless its name is all there is to it.
fn entry(section: Section, after: bool) -> Record {
    let text = if after { "after" } else { "before" }.to_owned();
    match section {
        Section::Files => file("/srv/x", &text).into(),
        Section::Packages => Package { name: "x".to_owned(), version: text, status: String::new() }.into(),
        Section::Users => {
            let (home, shell) = (String::new(), String::new());
            User { name: "x".to_owned(), uid: 1, gid: 1, comment: text, home, shell }.into()
        }
        Section::Groups => Group { name: "x".to_owned(), gid: 1, members: vec![text] }.into(),
        Section::Units => Unit { fragment: Some(text), ..service("x.service", "1") }.into(),
        Section::Sockets => {
            let (protocol, address) = ("tcp".to_owned(), "0.0.0.0:1".to_owned());
            Socket { protocol, address, process: text, ephemeral: false }.into()
        }
        Section::Shadow => Shadow { password: text, ..Shadow::default() }.into(),
        Section::AuthorizedKeys => AuthorizedKey { options: text, ..AuthorizedKey::default() }.into(),
        Section::Sudoers => SudoRule { after: text, ..SudoRule::default() }.into(),
        Section::Sshd => SshdOption { value: text, ..SshdOption::default() }.into(),
        Section::Timers => Timer { schedule: text, ..Timer::default() }.into(),
        Section::Crontabs => CronJob { command: text, ..CronJob::default() }.into(),
        Section::Firewall => FirewallRule { after: text, ..FirewallRule::default() }.into(),
        Section::Sysctl => Sysctl { running: text, ..Sysctl::default() }.into(),
        Section::Mounts => Mount { options: text, ..Mount::default() }.into(),
        Section::Fstab => Fstab { options: text, ..Fstab::default() }.into(),
        Section::Containers => Container { id: text, ..Container::default() }.into(),
        Section::Exposed => Exposure { mode: text, ..Exposure::default() }.into(),
        Section::AptSources => AptSource { components: text, ..AptSource::default() }.into(),
        Section::AptKeys => AptKey { digest: text, ..AptKey::default() }.into(),
        Section::Alternatives => Alternative { target: text, ..Alternative::default() }.into(),
        Section::Locale => LocaleSetting { value: text, ..LocaleSetting::default() }.into(),
        Section::TimeZone => TimeZone { zone: text, ..TimeZone::default() }.into(),
        Section::Swap => Swap { size: text, ..Swap::default() }.into(),
        Section::Modules => KernelModule { loaded: text, ..KernelModule::default() }.into(),
        Section::Databases => DatabaseObject { definition: text, ..DatabaseObject::default() }.into(),
        Section::Processes => {
            let run = |pid| Run { pid, ticks: 1, since: 0 };
            let runs = if after { vec![run(2), run(3)] } else { vec![run(2)] };
            Process { runs, ..Process::default() }.into()
        }
        Section::ManagerVariables => ManagerVariable { value: text, ..ManagerVariable::default() }.into(),
        Section::Links => Link { settings: text, ..Link::default() }.into(),
        Section::Addresses => Address { settings: text, ..Address::default() }.into(),
        Section::Routes => Route { route: text }.into(),
        Section::RoutingRules => RoutingRule { rule: text, ..RoutingRule::default() }.into(),
        Section::Neighbours => Neighbour { leads: text, ..Neighbour::default() }.into(),
        Section::Queues => Queue { settings: text, ..Queue::default() }.into(),
        Section::WireGuard => WireGuardPeer { secret: text, ..WireGuardPeer::default() }.into(),
        Section::HostName => HostName { name: text }.into(),
    }
}

/// A machine that holds a file, a unit, and this.
fn with(record: Record) -> Capture {
    let header = Record::Header(Header::new("boot".to_owned(), 0));
    let common = [file("/etc/hosts", "x").into(), service("cron.service", "1").into(), record];
    let mut counts: BTreeMap<Section, usize> = BTreeMap::new();
    common.iter().filter_map(Record::section).for_each(|section| *counts.entry(section).or_default() += 1);
    let mut reader = Reader::default();
    for record in [header].iter().chain(&common).chain([&Record::End(counts)]) {
        reader.line(&serde_json::to_string(record).expect("plain data")).expect("a record");
    }
    reader.finish().expect("whole")
}

#[test]
fn a_change_of_one_section_alone_is_a_change() {
    for section in Section::ALL.iter().copied() {
        let (before, after) = (with(entry(section, false)), with(entry(section, true)));
        // Of what was made before this moment nobody speaks: no entry here knows its time.
        let between = |began| Between { windows: &[], began, witness: None };
        let still = Some(Control { before: &after, after: &after });
        let judged = judge(&before, &after, still, between(-1_000_000_000));
        let seen: Vec<_> = judged.observations.iter().map(|o| (o.kind, o.section)).collect();
        assert!(!seen.is_empty(), "{section}: nobody noticed");
        assert!(seen.iter().all(|one| *one == (Observed::SilentChange, Some(section))), "{section}: {seen:?}");
        let same = judge(&after, &after, still, between(0));
        assert_eq!(same.observations, [], "{section}");
    }
}

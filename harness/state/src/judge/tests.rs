use super::*;
use crate::FileEntry;
use crate::canonical::class_of;
use crate::capture::{Gap, Note};
use crate::entries::Facts;
use crate::sections::Record;
use crate::settings::DatabaseObject;
use crate::testing::{file, machine, service};

const SECOND: i64 = 1_000_000_000;

fn windows() -> Vec<Window> {
    let window = |number, name: &str, from: i64, outcome| Window {
        number,
        name: name.to_owned(),
        start: from * SECOND,
        end: (from + 1) * SECOND,
        outcome,
        place: None,
    };
    vec![
        window(1, "packages", 10, Outcome::Unchanged),
        window(2, "banner", 11, Outcome::Changed),
        window(3, "restart", 12, Outcome::Changed),
    ]
}

/// A deploy whose writers nobody watched.
fn between(windows: &[Window], began: i64) -> Between<'_> {
    Between { windows, began, witness: None }
}

fn at(mut file: FileEntry, seconds: f64) -> FileEntry {
    file.ctime = (seconds * 1e9) as i64;
    file
}

fn run(s1: &Capture, s2: &Capture, control: &Capture) -> Vec<(Observed, String, Option<usize>)> {
    let judgement = judge(s1, s2, Some(Control { before: s2, after: control }), between(&windows(), 10 * SECOND));
    judgement.observations.into_iter().map(|o| (o.kind, o.subject, o.window)).collect()
}

fn fails(s1: &Capture, s2: &Capture, control: &Capture) -> Vec<(Observed, String, Option<usize>)> {
    run(s1, s2, control)
        .into_iter()
        .filter(|(kind, ..)| !matches!(*kind, Observed::FalseChange | Observed::Rewrite))
        .collect()
}

fn one(content: &str, seconds: f64) -> Capture {
    machine(&[at(file("/etc/profile.d/banner.sh", content), seconds)], &[service("web.service", "1")])
}

#[test]
fn a_reported_change_is_put_down_to_its_operation() {
    let (s1, s2) = (one("1", 1.0), one("2", 11.5));
    assert_eq!(fails(&s1, &s2, &s2), [(Observed::RealChange, "/etc/profile.d/banner.sh".into(), Some(2))]);
}

#[test]
fn a_tool_that_never_speaks_of_changes_keeps_none_silent() {
    let (s1, s2) = (one("1", 1.0), one("2", 10.5));
    let ran: Vec<Window> = windows().into_iter().map(|w| Window { outcome: Outcome::Ran, ..w }).collect();
    let judgement = judge(&s1, &s2, Some(Control { before: &s2, after: &s2 }), between(&ran, 10 * SECOND));
    let seen: Vec<_> = judgement.observations.iter().map(|o| (o.kind, o.window)).collect();
    assert_eq!(seen, [(Observed::RealChange, Some(1))], "and nothing is called a false report");
    let early = one("2", 11.998);
    let judgement = judge(&s1, &early, Some(Control { before: &early, after: &early }), between(&ran, 10 * SECOND));
    assert_eq!(judgement.observations[0].window, Some(3), "a ctime is a tick early");
}

#[test]
fn a_change_that_nobody_reported_is_silent() {
    let s1 = one("1", 1.0);
    for (when, window) in [(10.5, Some(1)), (20.0, None), (9.99, None)] {
        let s2 = one("2", when);
        assert_eq!(fails(&s1, &s2, &s2), [(Observed::SilentChange, "/etc/profile.d/banner.sh".into(), window)]);
    }
}

#[test]
fn what_also_changes_in_the_control_is_noise() {
    let (s1, s2, control) = (one("1", 1.0), one("2", 11.5), one("3", 30.0));
    let judgement = judge(&s1, &s2, Some(Control { before: &s2, after: &control }), between(&windows(), 10 * SECOND));
    assert!(judgement.observations.iter().all(|o| o.kind.weight() < Weight::Unknown), "{:?}", judgement.observations);
    assert_eq!(judgement.noise.len(), 1);
}

#[test]
fn noise_excuses_no_other_attribute() {
    let (s1, mut s2, mut control) = (one("1", 1.0), one("2", 11.5), one("3", 30.0));
    for capture in [&mut s2, &mut control] {
        capture.files.values_mut().for_each(|file| file.mode = 0o666);
    }
    assert_eq!(fails(&s1, &s2, &control), [(Observed::RealChange, "/etc/profile.d/banner.sh".into(), Some(2))]);
}

#[test]
fn a_change_before_the_deploy_began_is_not_its_doing() {
    let (s1, s2) = (one("1", 1.0), one("2", 9.0));
    assert_eq!(fails(&s1, &s2, &s2), []);
}

#[test]
fn logs_are_left_out_and_counted() {
    let log = |content| machine(&[at(file("/var/log/x", content), 11.5)], &[service("web.service", "1")]);
    let judgement =
        judge(&log("1"), &log("2"), Some(Control { before: &log("2"), after: &log("2") }), between(&windows(), 0));
    assert!(judgement.observations.iter().all(|o| o.kind.weight() < Weight::Unknown));
    assert_eq!(judgement.left_out["logs grow by themselves"], 1);
}

#[test]
fn a_restart_disrupts_even_when_no_file_changed() {
    let unit = |invocation: &str, seconds: i64| {
        let mut unit = service("notes.service", invocation);
        unit.since = seconds * SECOND + SECOND / 2;
        machine(&[file("/a", "1")], &[unit])
    };
    let (s1, s2) = (unit("1", 1), unit("2", 12));
    assert_eq!(fails(&s1, &s2, &s2), [(Observed::Disruptive, "notes.service".into(), Some(3))]);
    assert_eq!(fails(&s1, &s2, &unit("3", 30)), [], "a service that restarts all the time is noise");
}

#[test]
fn what_a_path_unit_starts_is_put_down_to_the_write_before_it_and_two_candidates_are_two() {
    let unit = |invocation: &str, seconds: f64| {
        let mut unit = service("notes.service", invocation);
        (unit.since, unit.triggered_by) = ((seconds * 1e9) as i64, "notes.path".to_owned());
        machine(&[file("/a", "1")], &[unit])
    };
    let (s1, s2) = (unit("1", 1.0), unit("2", 11.5));
    assert_eq!(fails(&s1, &s2, &s2), [(Observed::Disruptive, "notes.service".into(), Some(2))]);
    let late = unit("2", 13.3);
    assert_eq!(fails(&s1, &late, &late), [(Observed::Disruptive, "notes.service".into(), Some(3))]);
    let between = unit("2", 12.1);
    let windows = windows();
    let deploy = Between { windows: &windows, began: 10 * SECOND, witness: None };
    let judgement = judge(&s1, &between, Some(Control { before: &between, after: &between }), deploy);
    let seen = judgement.observations.iter().find(|o| o.kind == Observed::Disruptive).expect("it began anew");
    assert_eq!(seen.window, None);
    assert!(seen.evidence.iter().any(|line| line.ends_with("`banner`, `restart`")), "{:?}", seen.evidence);
}

#[test]
fn a_unit_that_runs_with_something_older_is_stale_before_the_second_deploy() {
    let unit = |stale: &[&str]| {
        let mut unit = service("web.service", "1");
        unit.stale = stale.iter().map(|reason| (*reason).to_owned()).collect();
        machine(&[file("/a", "1")], &[unit])
    };
    let (stale, fresh) = (unit(&["it runs since before `/etc/web.conf` was changed"]), unit(&[]));
    assert_eq!(fails(&stale, &fresh, &fresh), [(Observed::Stale, "web.service".into(), None)]);
    assert_eq!(fails(&fresh, &stale, &stale), [], "what the second deploy does is told as a change or a restart");
}

#[test]
fn a_change_without_a_time_is_put_down_to_the_only_report_that_nothing_explains() {
    let socket = |addresses: &[&str]| {
        let mut capture = one("1", 1.0);
        for address in addresses {
            let (protocol, address, process) = ("tcp".to_owned(), (*address).to_owned(), "app".to_owned());
            let socket = crate::Socket { protocol, address, process, ephemeral: false };
            capture.sockets.insert(format!("tcp {}", socket.address), socket);
        }
        capture
    };
    let (before, after) = (socket(&[]), socket(&["0.0.0.0:80"]));
    let judged = |windows: &[Window]| {
        let control = Control { before: &after, after: &after };
        let judgement = judge(&before, &after, Some(control), between(windows, 10 * SECOND));
        judgement.observations.into_iter().map(|o| (o.kind, o.window)).collect::<Vec<_>>()
    };
    let all = windows();
    assert_eq!(judged(&all), [(Observed::RealChange, None)], "two of them report a change: one of the two did it");
    assert_eq!(judged(&all[..2]), [(Observed::RealChange, Some(2))]);
    assert_eq!(judged(&all[..1]), [(Observed::SilentChange, None)]);
}

#[test]
fn a_reboot_disrupts() {
    let s1 = one("1", 1.0);
    let mut s2 = s1.clone();
    s2.header.boot_id = "other".into();
    assert_eq!(fails(&s1, &s2, &s2), [(Observed::Disruptive, "boot".into(), None)]);
    s2.units.values_mut().for_each(|unit| unit.since = 12 * SECOND + SECOND / 2);
    assert_eq!(fails(&s1, &s2, &s2), [(Observed::Disruptive, "boot".into(), Some(3))], "who waited for it");
}

#[test]
fn a_job_that_ran_again_is_told_but_does_not_fail() {
    let job = |invocation: &str| {
        let mut unit = service("backup.service", invocation);
        (unit.service_type, unit.active) = ("oneshot".into(), "inactive".into());
        machine(&[file("/a", "1")], &[unit])
    };
    assert_eq!(fails(&job("1"), &job("2"), &job("2")), [(Observed::UnitRan, "backup.service".into(), None)]);
}

#[test]
fn a_report_without_an_effect_is_a_warning_and_a_rewrite_is_none() {
    let s1 = one("1", 1.0);
    let seen = run(&s1, &s1, &s1);
    assert_eq!(
        seen,
        [(Observed::FalseChange, "banner".into(), Some(2)), (Observed::FalseChange, "restart".into(), Some(3)),]
    );
    assert!(run(&s1, &one("1", 11.5), &s1).contains(&(Observed::Rewrite, "banner".into(), Some(2))));
}

#[test]
fn a_removed_file_is_put_down_by_its_directory() {
    let dir = |seconds| {
        let mut dir = at(file("/etc/x", ""), seconds);
        dir.kind = FileKind::Directory;
        dir
    };
    let s1 = machine(&[dir(1.0), file("/etc/x/a", "1")], &[service("web.service", "1")]);
    let s2 = machine(&[dir(11.5)], &[service("web.service", "1")]);
    assert_eq!(fails(&s1, &s2, &s2), [(Observed::RealChange, "/etc/x/a".into(), Some(2))]);
}

#[test]
fn a_capture_with_gaps_or_without_control_proves_nothing() {
    let s1 = one("1", 1.0);
    let mut torn = s1.clone();
    torn.gaps.push(Gap { section: Section::Units, reason: "no bus".into() });
    assert_eq!(fails(&s1, &torn, &s1), [(Observed::Incomplete, "units".into(), None)]);
    assert!(fails(&s1, &machine(&[], &[]), &s1).iter().any(|o| o.0 == Observed::Incomplete));
    // What could not be read is not gone.
    let full = with_tables(&s1, &[("a", "1", "x"), ("b", "1", "x")]);
    let mut torn = with_tables(&s1, &[("a", "1", "x")]);
    assert_eq!(fails(&full, &torn, &torn), [(Observed::RealChange, "mariadb shop table b".into(), None)]);
    torn.gaps.push(Gap { section: Section::Databases, reason: "it hangs".into() });
    assert_eq!(fails(&full, &torn, &torn), [(Observed::Incomplete, "database objects".into(), None)]);
    let judgement = judge(&s1, &s1, None, between(&windows(), 0));
    assert_eq!(
        (judgement.observations[0].kind, judgement.observations[0].kind.weight()),
        (Observed::NoControl, Weight::Unknown)
    );
}

/// Each with its name, the number of its rows and what they hold.
fn with_tables(capture: &Capture, tables: &[(&str, &str, &str)]) -> Capture {
    let mut capture = capture.clone();
    let records = tables.iter().map(|(name, rows, values)| {
        let [server, database, kind, name] = ["mariadb", "shop", "table", name].map(str::to_owned);
        let (rows, values) = ((*rows).to_owned(), (*values).to_owned());
        DatabaseObject { server, database, kind, name, definition: "d".to_owned(), rows, values }
    });
    let entries = records.map(|table| (table.subject(), Record::DatabaseObject(table))).collect();
    capture.settings.insert(Section::Databases, entries);
    capture
}

#[test]
fn rows_are_compared_where_they_were_read_and_only_what_moves_by_itself_is_excused() {
    let s1 = one("1", 1.0);
    let of = |rows: &str, values: &str| with_tables(&s1, &[("orders", rows, values)]);
    let base = of("1", "x");
    let found = |s2: &Capture, control: &Capture| -> Vec<Vec<String>> {
        let control = Control { before: &base, after: control };
        let observations = judge(&base, s2, Some(control), between(&[], 0)).observations;
        observations.into_iter().filter(|o| o.kind.weight() == Weight::Fails).map(|o| o.evidence).collect()
    };
    assert_eq!(found(&of("2", "y"), &base), [["rows: 1 -> 2", "values: x -> y"]]);
    assert_eq!(found(&of("1", "y"), &base), [["values: x -> y"]]);
    for unread in [of("1", ""), of("", "")] {
        assert!(found(&unread, &base).is_empty(), "too large by now: nothing to compare");
    }
    let heartbeat = of("1", "z");
    assert!(found(&of("1", "y"), &heartbeat).is_empty(), "it changes by itself");
    assert_eq!(found(&of("2", "y"), &heartbeat).len(), 1, "and has one more row all the same");
    let mut large = of("1", "");
    large.notes.push(Note { section: Section::Databases, text: "`orders` was not read".into() });
    for (s1, s2) in [(&large, &large), (&large, &base), (&base, &large)] {
        let told = &judge(s1, s2, Some(Control { before: s2, after: s2 }), between(&[], 0)).observations[0];
        assert_eq!((told.kind, told.kind.weight(), told.evidence.len()), (Observed::NotCompared, Weight::Info, 1));
    }
}

#[test]
fn only_a_deploy_without_effect_needs_no_control() {
    let s1 = one("1", 1.0);
    let quiet = |s2: &Capture, windows: &[Window]| is_without_effect(&s1, s2, between(windows, 10 * SECOND));
    let silent: Vec<Window> =
        windows().into_iter().map(|window| Window { outcome: Outcome::Unchanged, ..window }).collect();
    assert!(quiet(&s1, &silent));
    assert!(!quiet(&one("2", 11.5), &silent), "a change by nobody may be noise");
    assert!(!quiet(&s1, &windows()), "what the tool claims is looked at with the control too");
    let mut torn = s1.clone();
    torn.gaps.push(Gap { section: Section::Units, reason: "no bus".into() });
    assert!(!quiet(&torn, &silent), "not all was seen");
}

/// What the third witness saw of one file.
fn witnessed(path: &str, by: &str, became: &str, modified: bool) -> Witnessed {
    let written = format!(
        r#"{{"written":{{"path":"{path}","by":{by},"program":"/usr/bin/tee","last":11500000000,"began":11400000000,"modified":{modified},"became":"{became}"}}}}"#
    );
    Witnessed::read(&format!("{written}\n\"end\"\n"))
}

/// What is made of a file that both the control and a class excuse, as the witness saw it.
fn seen(path: &str, (by, became, modified): (&str, &str, bool)) -> Vec<(Observed, Option<usize>)> {
    let holds = |content: &str| machine(&[at(file(path, content), 11.5)], &[service("app.service", "1")]);
    let (s1, s2) = (holds("1"), holds("2"));
    let control = Control { before: &s2, after: &holds("3") };
    let witness = witnessed(path, by, became, modified);
    let windows = windows();
    let deploy = Between { witness: Some(&witness), ..between(&windows, 10 * SECOND) };
    let observations = judge(&s1, &s2, Some(control), deploy).observations.into_iter();
    observations.filter(|o| o.kind != Observed::FalseChange).map(|o| (o.kind, o.window)).collect()
}

const DEPLOY: &str = r#""deploy""#;
const UNIT: &str = r#"{"unit":"app.service"}"#;

#[test]
fn neither_class_nor_noise_excuses_what_the_deploy_wrote() {
    let did = vec![(Observed::RealChange, Some(2))];
    for path in ["/var/log/app/state.db", "/var/cache/app/acl.conf", "/root/.cache/app/settings.ini", "/tmp/token"] {
        assert_eq!(seen(path, (DEPLOY, "changed", true)), did, "{path}");
        assert_eq!(seen(path, (UNIT, "changed", true)), [], "{path}, by a service");
        assert_eq!(seen(path, (r#""unknown""#, "changed", true)), [], "{path}, by whoever");
    }
    assert_eq!(seen("/var/lib/app/counter", (DEPLOY, "not_followed", true)), did);
    assert_eq!(seen("/var/lib/app/counter", (DEPLOY, "not_followed", false)), [], "opened, and the service wrote it");
    assert_eq!(seen("/var/lib/postgresql/15/main/base/1/2", (DEPLOY, "not_followed", true)), did);
}

#[test]
fn logs_that_grow_and_what_tools_fill_stay_excused() {
    assert_eq!(seen("/var/log/app.log", (DEPLOY, "appended", true)), []);
    assert_eq!(seen("/var/log/app.log", (DEPLOY, "changed", true)), [(Observed::RealChange, Some(2))], "emptied");
    for path in ["/var/cache/apt/pkgcache.bin", "/var/lib/apt/lists/x", "/root/.cache/pip/http/a"] {
        assert_eq!(seen(path, (DEPLOY, "not_followed", true)), [], "{path}");
    }
}

#[test]
fn bytecode_is_what_python_writes_and_nothing_else_in_its_directory() {
    let excused = |path: &str| class_of(path).is_some();
    assert!(excused("/opt/app/__pycache__/main.cpython-313.pyc"));
    assert!(!excused("/etc/app/__pycache__/hook") && !excused("/etc/app/hook.pyc"));
}

#[test]
fn what_a_deploy_leaves_in_memory_is_told_though_no_capture_holds_it() {
    let s = machine(&[file("/etc/a", "1")], &[service("app.service", "1")]);
    let told = |path: &str, became: &str| {
        let witness = witnessed(path, DEPLOY, became, true);
        let windows = windows();
        let deploy = Between { witness: Some(&witness), ..between(&windows, 10 * SECOND) };
        let judgement = judge(&s, &s, Some(Control { before: &s, after: &s }), deploy);
        judgement.observations.into_iter().find(|o| o.subject == path).map(|o| (o.kind, o.window, o.evidence))
    };
    let by = |kind| Some((kind, Some(2), vec!["written by /usr/bin/tee".to_owned()]));
    assert_eq!(told("/run/app-state", "appended"), by(Observed::RealChange));
    assert_eq!(told("/dev/shm/app-state", "new"), by(Observed::RealChange));
    assert_eq!(told("/tmp/app-token", "new"), by(Observed::LeftBehind));
    for became in ["same", "gone", "not_followed"] {
        assert_eq!(told("/run/app-state", became), None, "{became}");
    }
}

#[test]
fn a_oneshot_that_remains_active_is_undone_by_a_restart_and_a_helper_on_demand_ends_by_itself() {
    let machine = |invocation: &str, bus_name: &str| {
        let mut unit = service("x.service", invocation);
        unit.since = 12 * SECOND + SECOND / 2;
        if bus_name.is_empty() {
            unit.service_type = "oneshot".to_owned();
        } else {
            (unit.bus_name, unit.enabled) = (bus_name.to_owned(), "static".to_owned());
        }
        machine(&[file("/a", "1")], &[unit])
    };
    let kind = |bus_name: &str| {
        let (s1, s2) = (machine("1", bus_name), machine("2", bus_name));
        fails(&s1, &s2, &s2).into_iter().map(|(kind, ..)| kind).collect::<Vec<_>>()
    };
    assert_eq!(kind(""), [Observed::Disruptive]);
    assert_eq!(kind("org.example.helper"), [Observed::UnitRan], "it idled out, and somebody asked again");
}

/// A machine on which these workers run that a login left behind: number, and when it began.
fn workers(workers: &[(u32, i64)]) -> Capture {
    let mut capture = one("1", 1.0);
    let run =
        |&(pid, since): &(u32, i64)| crate::Run { pid, ticks: u64::from(pid), since: since * SECOND + SECOND / 2 };
    let process = crate::Process { runs: workers.iter().map(run).collect(), ..crate::Process::default() };
    let processes = capture.settings.entry(Section::Processes).or_default();
    processes.insert(process.subject(), Record::Process(process));
    capture
}

#[test]
fn a_worker_that_began_anew_disrupts_and_one_more_is_a_change_both_with_their_operation() {
    let (s1, anew, more) = (workers(&[(7, 1)]), workers(&[(8, 12)]), workers(&[(7, 1), (8, 11)]));
    let kinds =
        |s2: &Capture| fails(&s1, s2, s2).into_iter().map(|(kind, _, window)| (kind, window)).collect::<Vec<_>>();
    assert_eq!(kinds(&anew), [(Observed::Disruptive, Some(3))]);
    assert_eq!(kinds(&more), [(Observed::RealChange, Some(2))]);
    assert_eq!(fails(&s1, &anew, &workers(&[(9, 30)])), [], "it also begins anew when nobody deploys");
}

#[test]
fn a_process_that_only_lost_its_parent_is_none_that_began() {
    assert_eq!(fails(&one("1", 1.0), &workers(&[(7, 1)]), &workers(&[(7, 1)])), []);
}

#[test]
fn what_has_no_time_is_put_down_to_the_operation_that_ran_a_program_for_it() {
    let rule = |rule: &str| {
        let mut machine = machine(&[file("/etc/a", "1")], &[service("app.service", "1")]);
        let rule = crate::FirewallRule { after: rule.to_owned(), ..crate::FirewallRule::default() };
        machine.settings.entry(Section::Firewall).or_default().insert("a rule".to_owned(), Record::FirewallRule(rule));
        machine
    };
    let (s1, s2) = (rule("accept"), rule("drop"));
    let windows: Vec<Window> = windows().into_iter().map(|w| Window { outcome: Outcome::Unchanged, ..w }).collect();
    let told = |runs: &[i64]| {
        let run = |at: &i64| format!(r#"{{"ran":{{"program":"/usr/sbin/nft","at":{at},"began":{at}}}}}"#);
        let witness =
            Witnessed::read(&runs.iter().map(run).chain(["\"end\"".to_owned()]).collect::<Vec<_>>().join("\n"));
        let deploy = Between { witness: Some(&witness), ..between(&windows, 10 * SECOND) };
        let seen = judge(&s1, &s2, Some(Control { before: &s2, after: &s2 }), deploy).observations.remove(0);
        (seen.kind, seen.window, seen.evidence.last().is_some_and(|line| line.starts_with("one of these operations")))
    };
    assert_eq!(told(&[]), (Observed::SilentChange, None, false));
    assert_eq!(told(&[11 * SECOND + 1]), (Observed::SilentChange, Some(2), false));
    assert_eq!(
        told(&[11 * SECOND + 1, 12 * SECOND + 1]),
        (Observed::SilentChange, None, true),
        "two are said to be two"
    );
}

use super::*;

const HEAD: &str =
    "[servers]\npath = 'servers'\n[deploy]\ntool = 'pyinfra'\ninventory = 'inventory.py'\nscript = 'deploy.py'\n";
const MACHINE: &str = "[[machine]]\nname = 'web'\nimage = 'debian-13'\n";
const CHECK: &str = "[[check.tcp]]\nname = 'ssh'\nwhy = 'operators sign in'\nport = 22\n";

/// A valid scenario that makes these claims.
pub(crate) fn scenario_with(claims: &str) -> Scenario {
    Scenario::parse(&format!("claims = {claims}\n{HEAD}{MACHINE}{CHECK}")).expect("a valid scenario")
}

fn valid(text: &str) -> Scenario {
    match Scenario::parse(text) {
        Ok(scenario) => scenario,
        Err(error) => panic!("refused at {:?}: {error} ({:?})\n{text}", error.position(text), error.expected),
    }
}

/// Expects the mistake on this line (the text it starts with), with these words in message or expectation.
#[track_caller]
fn rejects(text: &str, line: &str, because: &str) {
    let error = Scenario::parse(text).expect_err("should have been refused");
    let position = error.position(text);
    let found = text.lines().nth(position.line - 1).unwrap_or_default();
    assert!(found.trim_start().starts_with(line), "placed on {found:?}, not on {line:?}: {error}");
    let said = format!("{} | {}", error.message, error.expected.clone().unwrap_or_default());
    assert!(said.contains(because), "{said:?} does not say {because:?}");
}

fn check(table: &str) -> String {
    format!("{HEAD}{MACHINE}{table}\nname = 'n'\nwhy = 'w'\n")
}

#[test]
fn the_least_scenario_gets_sensible_defaults() {
    let scenario = valid(&format!("{HEAD}{MACHINE}{CHECK}"));
    assert_eq!(scenario.claims, Claim::DEFAULT);
    assert_eq!(scenario.servers.commit, "HEAD");
    assert_eq!(scenario.deploy.requirements, PathBuf::from("requirements.txt"));
    assert_eq!(scenario.network, Network::Mirror);
    assert_eq!(scenario.machines[0].memory_mib, 1024);
    assert_eq!(scenario.checks[0].machine, "web", "the only machine need not be named");
    assert_eq!(
        scenario.checks[0].kind,
        CheckKind::Tcp(TcpCheck { from: From::Outside, port: 22, expect: Expect::Open })
    );
}

#[test]
fn checks_keep_the_order_of_the_file_across_kinds() {
    let second = "[[check.unit]]\nname = 'u'\nwhy = 'w'\nunit = 'a.service'\nactive = true\n";
    let third = "[[check.http]]\nname = 'h'\nwhy = 'w'\nurl = 'http://web:8080/x'\nstatus = 200\n";
    let scenario = valid(&format!("{HEAD}{MACHINE}{CHECK}{second}{third}"));
    let names: Vec<_> = scenario.checks.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["ssh", "u", "h"]);
    let CheckKind::Http(http) = &scenario.checks[2].kind else { panic!("the third check is http") };
    assert_eq!((http.host.as_str(), http.port), ("web", 8080));
}

#[test]
fn unknown_keys_are_placed() {
    rejects(&format!("{HEAD}{MACHINE}memory-mb = 1024\n{CHECK}"), "memory-mb", "memory-mib");
    rejects(&format!("titel = 'x'\n{HEAD}{MACHINE}{CHECK}"), "titel", "unknown field `titel`");
    rejects(&check("[[check.http]]\nurl = 'http://web/'\nstatus = 200\nfollow = true"), "follow", "unknown field");
    rejects(&check("[[check.https]]\nurl = 'http://web/'"), "[[check.https]]", "unknown field `https`");
}

#[test]
fn wrong_types_and_missing_keys_are_placed() {
    rejects(&format!("{HEAD}{MACHINE}cpus = 'two'\n{CHECK}"), "cpus", "expected u32");
    rejects(&format!("{HEAD}[[machine]]\nname = 'web'\n{CHECK}"), "[[machine]]", "missing field `image`");
    rejects("[servers\npath = 'x'", "[servers", "");
}

#[test]
fn durations_need_their_unit() {
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[limits]\nboot = 90\n"), "boot = 90", "a duration with its unit");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[limits]\nboot = '90'\n"), "boot = '90'", "\"90s\"");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[limits]\nboot = '0s'\n"), "boot = '0s'", "\"90s\"");
    let scenario = valid(&format!("{HEAD}{MACHINE}{CHECK}[limits]\nboot = '3m'\n"));
    assert_eq!(scenario.limits.boot, Duration::from_secs(180));
}

#[test]
fn a_scenario_must_prove_something() {
    rejects(&format!("{HEAD}{MACHINE}"), "", "no checks");
    rejects(&format!("claims = []\n{HEAD}{MACHINE}{CHECK}"), "claims", "must claim something");
    rejects(&format!("claims = ['serves', 'serves']\n{HEAD}{MACHINE}{CHECK}"), "claims", "twice");
    rejects(&format!("claims = ['restores']\n{HEAD}{MACHINE}{CHECK}"), "claims", "at least one `[[backup]]`");
    rejects(&format!("claims = ['survives-reboot']\n{HEAD}{MACHINE}"), "claims", "at least one check");
    rejects(&format!("claims = ['lasts']\n{HEAD}{MACHINE}{CHECK}"), "claims", "unknown variant `lasts`");
    assert!(valid(&format!("claims = ['rebuilds']\n{HEAD}{MACHINE}")).checks.is_empty());
}

#[test]
fn empty_assertions_are_refused() {
    rejects(&check("[[check.http]]\nurl = 'http://web/'"), "[[check.http]]", "asserts nothing");
    rejects(&check("[[check.http]]\nurl = 'http://web/'\ncontains = ''"), "contains", "is empty");
    rejects(&check("[[check.unit]]\nunit = 'a.service'"), "[[check.unit]]", "asserts nothing");
    rejects(&check("[[check.file]]\npath = '/etc/motd'"), "[[check.file]]", "asserts nothing");
    rejects(&check("[[check.file]]\npath = '/x'\ntype = 'absent'\nmode = '0644'"), "[[check.file]]", "absent");
    rejects(&check("[[check.command]]\nrun = []"), "run", "nothing to run");
    rejects(&check("[[check.command]]\nrun = ['true']\ncontains = ' '"), "contains", "is empty");
}

#[test]
fn machines_are_told_apart() {
    rejects(&format!("{HEAD}{CHECK}"), "", "no machine");
    rejects(&format!("{HEAD}{MACHINE}[[machine]]\nimage = 'x'\nname = 'web'\n{CHECK}"), "name = 'web'", "twice");
    rejects(&format!("{HEAD}[[machine]]\nname = '../x'\nimage = 'debian-13'\n{CHECK}"), "name", "no host name");
    rejects(&format!("{HEAD}[[machine]]\nname = 'web'\nimage = '../x'\n{CHECK}"), "image", "no image name");
    rejects(&format!("{HEAD}{MACHINE}memory-mib = 64\n{CHECK}"), "memory-mib", "at least 256");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}machine = 'db'\n"), "machine = 'db'", "there is no machine `db`");
    let two = format!("{HEAD}{MACHINE}[[machine]]\nname = 'db'\nimage = 'debian-13'\n{CHECK}");
    rejects(&two, "name = 'ssh'", "several machines");
    let from = |from: &str| format!("{two}machine = 'db'\nfrom = '{from}'\n");
    assert!(
        matches!(&valid(&from("web")).checks[0].kind, CheckKind::Tcp(tcp) if tcp.from == From::Neighbour("web".into()))
    );
    rejects(&from("mail"), "from = 'mail'", "or a neighbour: `web`");
    rejects(&from("db"), "from = 'db'", "cannot come from `db`");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}from = 'web'\n"), "from = 'web'", "`outside`, `inside`");
}

#[test]
fn values_that_cannot_be_meant_are_refused() {
    rejects(&check("[[check.http]]\nurl = 'ftp://web/'\nstatus = 200"), "url", "no web address");
    rejects(&check("[[check.http]]\nurl = 'http://web/'\nstatus = 20"), "status", "100 to 599");
    rejects(&check("[[check.http]]\nurl = 'http://web/'\nvalid-for = '30d'"), "url", "https://");
    rejects(&check("[[check.http]]\nurl = 'http://web/'\njson = { 'a' = 1 }"), "json", "no JSON pointer");
    rejects(&check("[[check.file]]\npath = 'etc/motd'\ntype = 'file'"), "path", "absolute");
    rejects(&check("[[check.file]]\npath = '/x'\nmode = '99'"), "mode", "octal");
    rejects(&check("[[check.unit]]\nunit = 'nginx'\nactive = true"), "unit", "nginx.service");
    rejects(&check("[[check.tcp]]\nport = 0"), "port", "1 to 65535");
    rejects(&format!("{}\n{MACHINE}{CHECK}", HEAD.replace("'deploy.py'", "'../deploy.py'")), "script", "inside");
}

#[test]
fn a_waiver_names_reason_owner_and_date() {
    let waiver = |lines: &str| format!("{HEAD}{MACHINE}{CHECK}[[waiver]]\nclaim = 'idempotent'\n{lines}\n");
    let good = "path = '/etc/motd'\nreason = 'upstream bug'\nby = 'ada'\nuntil = 2027-03-31";
    assert_eq!(valid(&waiver(good)).waivers[0].until, "2027-03-31");
    rejects(&waiver(&good.replace("reason = 'upstream bug'\n", "")), "[[waiver]]", "missing field `reason`");
    rejects(&waiver(&good.replace("upstream bug", " ")), "reason", "empty");
    rejects(&waiver(&good.replace("2027-03-31", "2027-03-31T00:00:00Z")), "until", "no date");
    rejects(&waiver(&good.replace("path =", "operation = 'x'\npath =")), "[[waiver]]", "one thing");
}

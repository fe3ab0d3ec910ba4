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
    assert_eq!((scenario.deploy.tool, scenario.deploy.requirements), (Some(Tool::Pyinfra), None));
    assert_eq!(scenario.network, Network::Mirror);
    assert_eq!(scenario.machines[0].memory_mib, 1024);
    assert_eq!(scenario.checks[0].machine, "web", "the only machine need not be named");
    assert_eq!(
        scenario.checks[0].kind,
        CheckKind::Tcp(TcpCheck { from: From::Outside, port: 22, expect: Expect::Open })
    );
}

#[test]
fn what_a_host_must_have_is_declared_and_fits_the_machines() {
    assert!(!valid(&format!("{HEAD}{MACHINE}{CHECK}")).needs.kvm);
    assert!(valid(&format!("{HEAD}{MACHINE}{CHECK}[needs]\nkvm = true\n")).needs.kvm);
    let container = format!("backend = 'container'\n{HEAD}{MACHINE}{CHECK}[needs]\n");
    rejects(&format!("{container}kvm = true\n"), "kvm", "containers have no use for");
    assert!(!valid(&format!("{container}kvm = false\n")).needs.kvm);
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[needs]\ngpu = true\n"), "gpu", "kvm");
}

#[test]
fn what_is_secret_and_what_is_not_is_said_beside_the_keys() {
    let keys = |more: &str| format!("{HEAD}{MACHINE}{CHECK}[keys]\npath = 'keys'\n{more}\n");
    let scenario = valid(&keys("patterns = ['sk_[0-9]+']\npublic = ['eu-1']"));
    assert_eq!(scenario.keys.as_deref(), Some(std::path::Path::new("keys")));
    let patterns: Vec<&str> = scenario.redaction.patterns.iter().map(|pattern| pattern.get_ref().as_str()).collect();
    assert_eq!((patterns, scenario.redaction.public), (vec!["sk_[0-9]+"], vec!["eu-1".to_owned()]));
    assert_eq!(valid(&format!("{HEAD}{MACHINE}{CHECK}")).redaction, Redaction::default());
    rejects(&keys("patterns = ['']"), "patterns", "an empty text stands everywhere");
    rejects(&keys("public = ['a', ' ']"), "public", "an empty text stands everywhere");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[keys]\npatterns = ['x']\n"), "[keys]", "path");
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
fn what_no_program_can_be_given_is_placed() {
    let deploy = |line: &str| format!("{HEAD}{line}\n{MACHINE}{CHECK}");
    rejects(&deploy("args = ['a', \"b\\u0000c\"]"), "args", "a NUL stands in `args`");
    rejects(&deploy("again-args = [\"\\u0000\"]"), "again-args", "a NUL stands in `again-args`");
    rejects(&deploy("env = { A = \"x\\u0000\" }"), "env", "a NUL stands in the variable `A`");
    for name in ["", "A=B", "A\\nB", "A B", "\\u0000", "A\\u0000"] {
        rejects(&deploy(&format!("env = {{ \"{name}\" = 'x' }}")), "env", "is no name of a variable");
    }
    let fine = valid(&deploy("args = ['']\nenv = { A-1 = \"x\\ny=\", b = '' }"));
    assert_eq!((fine.deploy.args, fine.deploy.env.len()), (vec![String::new()], 2));
    rejects(&deploy("requirements = \"a\\u0000\""), "requirements", "does not lie inside");
    for commit in ["a\\u0000", "a\\nb", " ", "--upload-pack=x"] {
        let text = format!("{HEAD}{MACHINE}{CHECK}").replace("'servers'", &format!("'servers'\ncommit = \"{commit}\""));
        rejects(&text, "commit", "names no commit");
    }
}

#[test]
fn sizes_and_durations_that_no_host_has_are_placed() {
    let machine = |line: &str| format!("{HEAD}{MACHINE}{line}\n{CHECK}");
    for huge in ["16777217", "17592186044416", "9223372036854775807"] {
        rejects(&machine(&format!("memory-mib = {huge}")), "memory-mib", "`memory-mib` is too large");
    }
    rejects(&machine("memory-mib = 18446744073709551616"), "memory-mib", "");
    rejects(&machine("memory-mib = -1"), "memory-mib", "");
    rejects(&machine("cpus = 256"), "cpus", "`cpus` is too large");
    rejects(&machine("cpus = 4294967296"), "cpus", "");
    assert_eq!(valid(&machine("memory-mib = 16777216\ncpus = 255")).machines[0].cpus, 255);
    for long in ["10100y", "584542046090y", "99999999999999999999s", "18446744073709551615s"] {
        rejects(&format!("{HEAD}{MACHINE}{CHECK}[limits]\ndrill = '{long}'\n"), "drill", "");
    }
    assert!(valid(&format!("{HEAD}{MACHINE}{CHECK}[limits]\ndrill = '99y'\n")).limits.drill.as_secs() > 0);
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
fn only_names_of_others_lead_elsewhere() {
    for kind in ["mail", "acme"] {
        let network = |names: &str| format!("{HEAD}{MACHINE}{CHECK}[network]\n{kind} = {names}\n");
        rejects(&network("['a b']"), kind, "no host name");
        rejects(&network("['*.example.org']"), kind, "no host name");
        rejects(&network("['ca.example.org', 'web']"), kind, "a machine of this drill");
        rejects(&network("['10.0.2.4']"), kind, "is an address");
        rejects(&network("'ca.example.org'"), kind, "expected a sequence");
    }
    let both = valid(&format!("{HEAD}{MACHINE}{CHECK}[network]\nmail = ['a.test']\nacme = ['a.test', 'b.test']\n"));
    assert_eq!((both.mail, both.acme), (vec!["a.test".to_owned()], vec!["a.test".to_owned(), "b.test".to_owned()]));
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
    for claim in Claim::ALL {
        let error = Scenario::parse(&format!("claims = []\n{HEAD}{MACHINE}{CHECK}")).expect_err("nothing is claimed");
        assert!(error.expected.is_some_and(|known| known.contains(claim.name())), "{claim} is not offered");
    }
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
    for url in [
        "ftp://web/",
        "http://",
        "http://user@web/",
        "http://web:22@192.0.2.1/",
        "http://web:99999/",
        "http://web:/",
        "http://web\\@192.0.2.1/",
        "http://[::1/",
        "http://::1/",
        "http://[fe80::1%25eth0]/",
        "http://[web]/",
        "web/",
    ] {
        rejects(&check(&format!("[[check.http]]\nurl = '{url}'\nstatus = 200")), "url", "no web address");
    }
    for (url, host, port) in
        [("http://[::1]:81/", "[::1]", 81), ("https://[::1]", "[::1]", 443), ("http://a.b:80?x", "a.b", 80)]
    {
        let text = check(&format!("[[check.http]]\nurl = '{url}'\nstatus = 200"));
        let CheckKind::Http(check) = Scenario::parse(&text).expect("valid").checks.remove(0).kind else {
            panic!("{url}")
        };
        assert_eq!((check.host.as_str(), check.port), (host, port));
    }
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

#[test]
fn the_deploy_may_be_left_to_be_found_in_the_repo() {
    let scenario = valid(&format!("[servers]\npath = 'servers'\n{MACHINE}{CHECK}"));
    assert_eq!(scenario.deploy, Deploy::default());
    let shell = "[servers]\npath = 's'\n[deploy]\ntool = 'shell'\non = 'machine'\nagain-args = ['-v']\n";
    let deploy = valid(&format!("{shell}{MACHINE}{CHECK}")).deploy;
    assert_eq!((deploy.on, deploy.again_args), (Some(RunsOn::Machine), vec!["-v".to_owned()]));
    rejects(&format!("{}{MACHINE}{CHECK}", shell.replace("shell", "ansible")), "on =", "for `tool = \"shell\"`");
    rejects(&format!("{}{MACHINE}{CHECK}", shell.replace("shell", "chef")), "tool", "unknown variant `chef`");
}

const BACKUP: &str =
    "[[backup]]\nname = 'notes'\nkind = 'directory'\nrepository = 'backups/notes'\ninto = ['/var/lib/notes']\n";

fn backup_of(more: &str) -> Backup {
    valid(&format!("claims = ['restores']\n{HEAD}{MACHINE}{BACKUP}{more}")).backups.remove(0)
}

#[track_caller]
fn rejects_backup(table: &str, line: &str, because: &str) {
    rejects(&format!("claims = ['restores']\n{HEAD}{MACHINE}[[backup]]\nname = 'notes'\n{table}"), line, because);
}

#[test]
fn the_least_backup_gets_sensible_defaults() {
    let backup = backup_of("[backup.oracle]\nmin-files = 1\n");
    assert_eq!((backup.machine.as_str(), backup.at.as_str()), ("web", "/srv/redrill/notes"));
    assert_eq!((backup.view, &backup.point), (View::ReadOnly, &Point::Latest));
    assert_eq!(backup.origin, Origin::Local("backups/notes".into()));
    assert_eq!(
        (backup.into.as_slice(), backup.oracle.count()),
        ([Target::Path("/var/lib/notes".into())].as_slice(), 1)
    );
    assert_eq!(backup_of("").oracle.count(), 0, "unproven, and no mistake");
}

#[test]
fn every_key_of_a_backup_is_understood() {
    let backup = backup_of(
        "machine = 'web'\nat = '/srv/b/'\nview = 'copy'\npoint = 'random'\nowner = 'a:b'\nharmless = ['ok']\ndeployed = ['/x']\n\
         before = [['a', 'b']]\nafter = [['c']]\narguments = ['-v']\nwithin = '1m'\nrpo = '24h'\nrto = '30m'\nreal-size-mib = 9\n\
         [backup.oracle]\nmanifest = 'm.json'\nmin-rows = { 'notes.documents' = 10 }\nmin-bytes = 1\nmin-files = 2\n\
         newest = '26h'\ncanary = { file = '/c', newest = '1h' }\nmax-shrink = '10%'\n\
         query = [{ on = 'postgres:notes', sql = 'select 1', equals = '1' }]\n",
    );
    assert_eq!((backup.at.as_str(), backup.view, &backup.point), ("/srv/b", View::Copy, &Point::Random));
    assert_eq!((backup.rpo, backup.rto), (Some(Duration::from_secs(86_400)), Some(Duration::from_secs(1800))));
    assert_eq!((backup.oracle.count(), backup.oracle.max_shrink), (7, Some(10.0)));
    assert_eq!(backup.oracle.canary.expect("one").run, ["cat", "--", "/c"]);
    let made = "kind = 'script'\nrestore = ['r']\non = 'controller'\ninto = ['postgres:n', 'sqlite:/n.db']\n\
                [backup.seed]\nrun = ['seed']\ninput = 's'\n[backup.job]\nrun = ['job']\nleaves = '/srv/made'\n";
    let text = format!("claims = ['restores']\n{HEAD}{MACHINE}[[backup]]\nname = 'notes'\n{made}");
    let backup = valid(&text).backups.remove(0);
    let Origin::Made { seed: Some(seed), job, leaves } = backup.origin else { panic!("made in the drill") };
    assert_eq!((seed.input, job.words, leaves.as_str()), (Some("s".into()), vec!["job".to_owned()], "/srv/made"));
    let BackupKind::Script(run) = backup.kind else { panic!("a script") };
    assert_eq!(run.on, Site::Controller);
}

#[test]
fn mistakes_in_backups_are_placed() {
    let plain = "kind = 'directory'\nrepository = 'r'\ninto = ['/d']\n";
    rejects_backup("kind = 'zip'\ninto = ['/d']\n", "kind", "unknown variant");
    rejects_backup("kind = 'directory'\ninto = ['/d']\n", "[[backup]]", "comes from nowhere");
    rejects_backup(&format!("{plain}[backup.job]\nrun = ['j']\n"), "repository", "either `repository`");
    rejects_backup(&format!("{plain}[backup.seed]\nrun = ['s']\n"), "[backup.seed]", "without a job");
    rejects_backup("kind = 'directory'\nrepository = 'r'\ninto = []\n", "into", "is empty");
    rejects_backup("kind = 'directory'\nrepository = 'r'\ninto = ['/']\n", "into", "nothing can be restored");
    rejects_backup("kind = 'directory'\nrepository = 'r'\ninto = ['/a/../b']\n", "into", "nothing can be restored");
    rejects_backup("kind = 'postgres'\nrepository = 'r'\ninto = ['mysql:n']\n", "into", "nothing can be restored");
    rejects_backup("kind = 'postgres'\nrepository = 'r'\ninto = ['postgres:a', 'postgres:b']\n", "into", "one thing");
    rejects_backup("kind = 'sqlite'\nrepository = 'r'\ninto = ['/d']\n", "into", "sqlite:/path");
    rejects_backup("kind = 'script'\nrepository = 'r'\ninto = ['/d']\n", "kind", "needs `restore`");
    rejects_backup(&format!("{plain}restore = ['r']\n"), "restore", "only a script");
    rejects_backup(&format!("{plain}passphrase = 'p'\n"), "passphrase", "no passphrase");
    rejects_backup(&format!("{plain}machine = 'db'\n"), "machine", "no machine `db`");
    rejects_backup(&format!("{plain}point = '-x'\n"), "point", "names no point");
    rejects_backup(&format!("{plain}colour = 'red'\n"), "colour", "unknown field");
    rejects_backup(&format!("{plain}[backup.oracle]\n"), "[backup.oracle]", "asks nothing");
    rejects_backup(&format!("{plain}[backup.oracle]\nmin-bytes = 0\n"), "min-bytes", "asserts nothing");
    rejects_backup(&format!("{plain}[backup.oracle]\nmin-rows = {{ documents = 1 }}\n"), "min-rows", "names no table");
    rejects_backup(&format!("{plain}[backup.oracle]\nchecks = ['x']\n"), "checks", "no check `x`");
    rejects_backup(&format!("{plain}[backup.oracle]\nmax-shrink = '5'\n"), "max-shrink", "no share");
    rejects_backup(
        &format!("{plain}[backup.oracle]\nquery = [{{ sql = 's', equals = 'e' }}]\n"),
        "query",
        "which database",
    );
    rejects_backup(&format!("{plain}[backup.oracle]\ncanary = {{ newest = '1h' }}\n"), "canary", "one place");
    let twice = format!("claims = ['restores']\n{HEAD}{MACHINE}{BACKUP}{BACKUP}");
    rejects(&twice, "[[backup]]", "two backups");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[[ephemeral]]\npath = 'x'\nreason = 'r'\n"), "path", "no path");
    rejects(&format!("{HEAD}{MACHINE}{CHECK}[[ephemeral]]\npath = '/x'\nreason = ''\n"), "reason", "is empty");
}

#[test]
fn a_repository_may_lie_on_a_backup_host() {
    let remote = |repository: &str, access: &str| {
        let table = BACKUP.replace("'directory'", "'restic'").replace("backups/notes", repository);
        let text = format!("claims = ['restores']\n{HEAD}{MACHINE}{table}{access}\n");
        match valid(&text).backups.remove(0).origin {
            Origin::Remote(remote) => remote,
            other => panic!("{other:?}"),
        }
    };
    let Remote::Sftp(sftp) =
        remote("sftp:me@vault:/srv/r", "access = { key = 'keys/backup', known-hosts = 'keys/known_hosts' }")
    else {
        panic!("over SFTP")
    };
    assert_eq!((sftp.key, sftp.known_hosts), (Some("keys/backup".into()), Some("keys/known_hosts".into())));
    let Remote::Rest(rest) = remote("rest:https://vault:8000/r", "access = { login = 'keys/rest', ca = 'ca.pem' }")
    else {
        panic!("a rest-server")
    };
    assert_eq!((rest.login, rest.ca), (Some("keys/rest".into()), Some("ca.pem".into())));
    let wrong = |more: &str, because: &str| {
        rejects_backup(
            &format!("kind = 'directory'\ninto = ['/d']\n{more}"),
            more.split(' ').next().unwrap_or(""),
            because,
        );
    };
    wrong("repository = 's3:b'\n", "does not reach");
    wrong("access = { key = 'k' }\nrepository = 'r'\n", "needs no `access`");
    wrong("access = { login = 'k' }\nrepository = 'ssh://h/r'\n", "`known-hosts`");
    wrong("access = { user = 'k' }\nrepository = 'ssh://h/r'\n", "unknown field");
}

#[test]
fn a_deploy_waits_for_a_restore_where_its_tool_can_and_data_is_there() {
    let between = format!("{BACKUP}restore-after = 'Make the directory'\n");
    let backup = valid(&format!("claims = ['restores']\n{HEAD}{MACHINE}{between}")).backups.remove(0);
    assert_eq!(backup.restore_after.as_deref(), Some("Make the directory"));
    let shell = HEAD.replace("pyinfra", "shell");
    rejects(&format!("claims = ['restores']\n{shell}{MACHINE}{between}"), "claims", "a script does not wait");
    rejects(&format!("claims = ['restores', 'resumes']\n{HEAD}{MACHINE}{between}"), "claims", "`resumes` cuts off");
}

#[test]
fn a_way_out_of_the_sandbox_has_a_port_and_a_reason() {
    let network = |way: &str| format!("{HEAD}{MACHINE}{CHECK}[network]\ncontroller = [{way}]\n");
    let ways = valid(&network("{ to = 'Git.example.org:443', why = 'the roles' }")).ways_out;
    assert_eq!((ways[0].host.as_str(), ways[0].port), ("git.example.org", 443));
    rejects(&network("{ to = 'git.example.org', why = 'x' }"), "controller", "names no port");
    assert_eq!(valid(&network("{ to = 'web:443', why = 'a smoke test' }")).ways_out[0].host, "web");
    rejects(&network("{ to = '127.0.0.1:8200', why = 'x' }"), "controller", "the sandbox itself");
    rejects(&network("{ to = 'git.example.org:443', why = ' ' }"), "controller", "needs a reason");
}

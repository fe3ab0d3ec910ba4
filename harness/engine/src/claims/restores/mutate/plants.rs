//! Which faults a restored machine allows, and the commands that plant them.

use std::collections::{BTreeMap, BTreeSet};

use redrill_machines::PROBE;
use redrill_model::{Backup, Target, is_below};
use redrill_state::{Capture, Manifest};

/// Services, timers and ports of a machine that are planted faults' victims, of each kind.
const VICTIMS: usize = 6;
/// A port is kept closed for as long as somebody could look.
const CLOSED: &str = "600000";

/// A fault to be planted into a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plant {
    /// In words.
    pub(super) fault: String,
    pub(super) machine: String,
    /// The command that plants it.
    pub(super) words: Vec<String>,
    pub(super) input: String,
    /// What keeps it in place while somebody looks.
    pub(super) hold: Option<Vec<String>>,
    /// What would notice it.
    pub(super) suggestion: String,
}

fn words<const N: usize>(words: [&str; N]) -> Vec<String> {
    words.map(str::to_owned).to_vec()
}

/// Faults in what one backup brought.
pub(super) fn of_data(backup: &Backup, found: &Manifest) -> Vec<Plant> {
    let mut plants = Vec::new();
    let plant = |fault: String, words: Vec<String>, input: String, suggestion: &str| Plant {
        fault,
        machine: backup.machine.clone(),
        words,
        input,
        hold: None,
        suggestion: suggestion.replace("NAME", &backup.name),
    };
    for target in &backup.into {
        match target {
            Target::Path(root) => {
                let ordinary = |path: &&String| is_below(path, root) && !path.contains('\\');
                let files =
                    found.paths.iter().filter(|(path, leaf)| ordinary(path) && leaf.size.is_some_and(|size| size > 1));
                // The last of the largest: what a cut-off copy would lack.
                let Some((path, leaf)) = files.max_by_key(|(_, leaf)| leaf.size) else { continue };
                let half = (leaf.size.unwrap_or_default() / 2).to_string();
                let other = if leaf.owner == "root:root" { "65534:65534" } else { "root:root" };
                let (whole, owner) = (
                    "a `manifest` under the oracle of `NAME` compares every path, with size, content, owner and mode",
                    "a `manifest` under the oracle of `NAME`, or a `[[check.file]]` with `owner`, would tell",
                );
                plants.push(plant(
                    format!("file missing: {path}"),
                    words(["rm", "-f", "--", path]),
                    String::new(),
                    whole,
                ));
                plants.push(plant(
                    format!("file truncated: {path}"),
                    words(["truncate", "-s", &half, "--", path]),
                    String::new(),
                    whole,
                ));
                plants.push(plant(
                    format!("wrong owner: {path}"),
                    words(["chown", other, "--", path]),
                    String::new(),
                    owner,
                ));
            }
            database => {
                let table = found
                    .tables
                    .iter()
                    .filter(|(name, _)| of_database(database, name))
                    .max_by_key(|(_, table)| table.rows);
                let Some((name, _)) = table.filter(|(_, table)| table.rows > 0) else { continue };
                let (words, input) = emptied(database, name);
                let suggestion = format!(
                    "`min-rows = {{ \"{name}\" = N }}` under the oracle of `NAME`, or its `manifest`, counts rows"
                );
                plants.push(plant(format!("table emptied: {name}"), words, input, &suggestion));
            }
        }
    }
    plants
}

fn of_database(target: &Target, table: &str) -> bool {
    let database = match target {
        Target::Postgres(name) | Target::Mariadb(name) => name.clone(),
        Target::Sqlite(path) | Target::Path(path) => {
            std::path::Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned()
        }
    };
    table.strip_prefix(&database).is_some_and(|rest| rest.starts_with('.'))
}

/// The client, and the statement that empties the table.
fn emptied(target: &Target, name: &str) -> (Vec<String>, String) {
    let parts: Vec<&str> = name.split('.').collect();
    let quoted = |parts: &[&str], quote: &str| {
        parts.iter().map(|part| format!("{quote}{part}{quote}")).collect::<Vec<_>>().join(".")
    };
    match target {
        Target::Postgres(database) => (
            words([
                "runuser",
                "-u",
                "postgres",
                "--",
                "psql",
                "-X",
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                database,
                "-f",
                "-",
            ]),
            format!("truncate table {} cascade;", quoted(&parts[1..], "\"")),
        ),
        Target::Mariadb(database) => (
            words(["mariadb", database]),
            format!("set foreign_key_checks = 0; delete from {};", quoted(&parts[1..], "`")),
        ),
        Target::Sqlite(path) | Target::Path(path) => (
            words([
                "sh",
                "-c",
                "if command -v sqlite3 >/dev/null; then exec sqlite3 -bail \"$1\"; fi; \
                 exec python3 -c 'import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(sys.stdin.read())' \"$1\"",
                "sh",
                path,
            ]),
            format!("delete from {};", quoted(&parts[1..], "\"")),
        ),
    }
}

/// What the deploy runs: its timers, and its services with the ports that they hold.
pub(super) fn of_units(machine: &str, listed: &str, clean: impl Fn(&str) -> bool) -> Vec<Plant> {
    let ours = [
        "redrill",
        "user@",
        "getty@",
        "serial-getty@",
        "systemd-",
        "dbus",
        "ssh.service",
        "container-getty@",
        "console-getty",
    ];
    let fits = |unit: &&str| !clean(unit) && !ours.iter().any(|known| unit.starts_with(known));
    let of = |ending: &str, word: &str, suggestion: &str| {
        let units = listed.lines().map(str::trim).filter(|unit| unit.ends_with(ending)).filter(fits).take(VICTIMS);
        units
            .map(|unit| Plant {
                fault: format!("{word} stopped: {unit}"),
                machine: machine.to_owned(),
                words: words(["systemctl", "stop", "--", unit]),
                input: String::new(),
                hold: None,
                suggestion: suggestion.replace("UNIT", unit),
            })
            .collect::<Vec<_>>()
    };
    let mut plants = of(".timer", "timer", "a `[[check.unit]]` with `unit = \"UNIT\"` and `active = true`");
    plants.extend(of(
        ".service",
        "service",
        "a `[[check.unit]]` with `unit = \"UNIT\"` and `active = true`, or a check of what its users see",
    ));
    plants
}

/// The ports that the deploy opened, each closed under a service that runs on.
pub(super) fn of_ports(machine: &str, clean: &Capture, now: &Capture) -> Vec<Plant> {
    let ports = |capture: &Capture| -> BTreeMap<u16, String> {
        // What no process of the machine holds is the container engine's.
        let held = capture.sockets.values().filter(|socket| !socket.process.is_empty());
        let tcp = held.filter(|socket| socket.protocol.starts_with("tcp"));
        tcp.filter_map(|socket| Some((port(&socket.address)?, socket.process.clone()))).collect()
    };
    let there: BTreeSet<u16> = ports(clean).into_keys().collect();
    let opened = ports(now).into_iter().filter(|(port, _)| !there.contains(port)).take(VICTIMS);
    opened
        .map(|(port, process)| {
            let port = port.to_string();
            Plant {
                fault: format!("port closed: {port} ({process})"),
                machine: machine.to_owned(),
                words: words([PROBE, "close", &port]),
                input: String::new(),
                hold: Some(words([PROBE, "close", &port, CLOSED])),
                suggestion: format!("a `[[check.tcp]]` with `port = {port}`, or a check of what its users see"),
            }
        })
        .collect()
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// Commands that take all data out of what a backup holds: of its databases if it has any, else of its directories.
/// What the deploy makes there stays.
pub(super) fn emptying(backup: &Backup, found: &Manifest) -> Vec<(Vec<String>, String)> {
    let databases = backup.into.iter().filter_map(|target| {
        let mut tables = found.tables.iter().filter(|(name, table)| table.rows > 0 && of_database(target, name));
        let (name, _) = tables.next()?;
        let (words, first) = emptied(target, name);
        Some((words, tables.fold(first, |all, (name, _)| format!("{all}\n{}", emptied(target, name).1))))
    });
    let databases: Vec<_> = databases.collect();
    if !databases.is_empty() {
        return databases;
    }
    let paths = backup.into.iter().filter_map(Target::path);
    paths.flat_map(|root| emptied_directory(root, &backup.deployed)).map(|words| (words, String::new())).collect()
}

/// Files first, and then the directories that hold none.
fn emptied_directory(root: &str, deployed: &[String]) -> [Vec<String>; 2] {
    let (mut files, mut directories) = (words(["find", root]), words(["find", root, "-mindepth", "1", "-type", "d"]));
    for kept in deployed.iter().filter(|kept| is_below(kept, root)) {
        files.extend(words(["-path", kept, "-prune", "-o"]));
        directories.extend(words(["!", "-path", kept, "!", "-path", &format!("{kept}/*")]));
    }
    files.extend(words(["!", "-type", "d", "-exec", "rm", "-f", "--", "{}", "+"]));
    directories.extend(words(["-empty", "-delete"]));
    [files, directories]
}

#[cfg(test)]
mod tests {
    use redrill_model::Scenario;
    use redrill_state::{Leaf, Socket, Table};

    use super::*;

    fn backup(into: &str) -> Backup {
        let text = format!(
            "claims = ['restores']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\nscript = 'd'\n\
             [[machine]]\nname = 'web'\nimage = 'debian-13'\n[[backup]]\nname = 'notes'\nkind = 'script'\n\
             restore = ['r']\nrepository = 'r'\ninto = [{into}]\n"
        );
        Scenario::parse(&text).expect("valid").backups.remove(0)
    }

    #[test]
    fn every_target_gets_the_faults_of_its_kind() {
        let mut found = Manifest::default();
        let leaf =
            |size| Leaf { kind: "file".into(), size: Some(size), owner: "notes:notes".into(), ..Leaf::default() };
        found.paths.insert("/d/small".into(), leaf(2));
        found.paths.insert("/d/large".into(), leaf(100));
        found.tables.insert("notes.documents".into(), Table { rows: 9, ..Table::default() });
        found.tables.insert("notes.app.log".into(), Table { rows: 3, ..Table::default() });
        let plants = of_data(&backup("'/d', 'postgres:notes'"), &found);
        let faults: Vec<&str> = plants.iter().map(|plant| plant.fault.as_str()).collect();
        assert_eq!(
            faults,
            [
                "file missing: /d/large",
                "file truncated: /d/large",
                "wrong owner: /d/large",
                "table emptied: notes.documents"
            ]
        );
        assert_eq!(plants[1].words, ["truncate", "-s", "50", "--", "/d/large"]);
        assert_eq!(plants[2].words, ["chown", "root:root", "--", "/d/large"]);
        assert_eq!(plants[3].input, "truncate table \"documents\" cascade;");
        assert!(plants[3].suggestion.contains("notes.documents"));
        assert_eq!(of_data(&backup("'/d'"), &Manifest::default()), [], "nothing is there to be harmed");
        assert_eq!(emptied(&Target::Mariadb("m".into()), "m.t").1, "set foreign_key_checks = 0; delete from `t`;");
        let all = emptying(&backup("'/d', 'postgres:notes'"), &found);
        assert_eq!(all.len(), 1, "the database alone");
        assert_eq!(
            all[0].1, "truncate table \"app\".\"log\" cascade;\ntruncate table \"documents\" cascade;",
            "all of its tables"
        );
        let mut files = backup("'/d'");
        files.deployed = vec!["/d/.marker".into()];
        let find = [
            "find /d -path /d/.marker -prune -o ! -type d -exec rm -f -- {} +",
            "find /d -mindepth 1 -type d ! -path /d/.marker ! -path /d/.marker/* -empty -delete",
        ];
        let emptying = emptying(&files, &found);
        assert_eq!(emptying.iter().map(|(words, _)| words.join(" ")).collect::<Vec<_>>(), find);
    }

    #[test]
    fn only_what_the_deploy_runs_is_stopped() {
        let listed = "notes.service\nbackup.timer\napt-daily.timer\nsystemd-networkd.service\nuser@0.service\n";
        let faults: Vec<String> =
            of_units("web", listed, |unit| unit == "apt-daily.timer").into_iter().map(|p| p.fault).collect();
        assert_eq!(faults, ["timer stopped: backup.timer", "service stopped: notes.service"]);
    }

    #[test]
    fn only_ports_that_the_deploy_opened_are_closed() {
        let listens = |sockets: &[(&str, &str)]| {
            let mut capture = Capture::default();
            for (protocol, address) in sockets {
                let (protocol, address, process) = ((*protocol).to_owned(), (*address).to_owned(), "notes".to_owned());
                let key = format!("{protocol} {address}");
                capture.sockets.insert(key, Socket { protocol, address, process, ephemeral: false });
            }
            capture
        };
        let clean = listens(&[("tcp", "0.0.0.0:22"), ("tcp6", "[::]:22")]);
        let mut resolver = listens(&[("tcp", "127.0.0.11:44105")]);
        resolver.sockets.values_mut().for_each(|socket| socket.process.clear());
        assert_eq!(of_ports("web", &clean, &resolver), []);
        let now =
            listens(&[("tcp6", "[::]:22"), ("tcp", "127.0.0.1:8000"), ("tcp6", "[::]:8000"), ("udp", "0.0.0.0:53")]);
        let plants = of_ports("web", &clean, &now);
        assert_eq!(plants.iter().map(|plant| plant.fault.as_str()).collect::<Vec<_>>(), ["port closed: 8000 (notes)"]);
        assert_eq!(plants[0].words, [PROBE, "close", "8000"]);
    }
}

//! The order of a restore, and what ends it, without a machine.

use redrill_machines::process::Guard;
use redrill_machines::{Backend, Fake, FakeMachine, Needs, Output, PROBE};
use redrill_model::Scenario;
use redrill_state::Leaf;

use super::*;

const SCENARIO: &str = "claims = ['restores']\n[servers]\npath = '.'\n[deploy]\ntool = 'pyinfra'\ninventory = 'i'\n\
    script = 'd'\n[[machine]]\nname = 'web'\nimage = 'debian-13'\n[[backup]]\nname = 'notes'\nkind = 'script'\n\
    restore = ['restore-notes']\nrepository = 'r'\ninto = ['/d']\ndeployed = ['/d/config']\n\
    before = [['systemctl', 'stop', 'notes']]\nafter = [['systemctl', 'start', 'notes']]\n";

fn manifest(files: &[&str]) -> Output {
    let mut manifest = Manifest { schema: redrill_state::MANIFEST_SCHEMA, ..Manifest::default() };
    for file in files {
        let leaf = Leaf { kind: "file".into(), size: Some(1), ..Leaf::default() };
        manifest.paths.insert((*file).to_owned(), leaf);
    }
    Output { stdout: serde_json::to_vec(&manifest).expect("plain data"), ..Output::default() }
}

/// A machine whose target holds these files before and after, and whose script ends so. Everything else goes well.
async fn machine(before: &[&str], after: &[&str], script: Output) -> (FakeMachine, Fake) {
    let answers = BTreeMap::from([
        (format!("{PROBE} manifest /d"), vec![manifest(before), manifest(after)]),
        ("restore-notes".to_owned(), vec![script]),
    ]);
    let fake = Fake { answers, otherwise: Some(Output::default()), ..Fake::default() };
    let scenario = Scenario::parse(SCENARIO).expect("valid");
    let deadline = Deadline::root("test", Duration::from_secs(60), 1.0);
    let booted = fake.boot(&scenario.machines[0], &Needs::default(), Path::new("/"), &deadline).await;
    (booted.expect("boots"), fake)
}

/// What came of a restore.
struct RestoreRun {
    loaded: Result<Manifest, Problem>,
    /// What was run in the machine.
    log: Vec<String>,
    /// What the commands said.
    said: String,
}

async fn restored(before: &[&str], after: &[&str], script: Output) -> RestoreRun {
    let (machine, fake) = machine(before, after, script).await;
    let scenario = Scenario::parse(SCENARIO).expect("valid");
    let name = format!("redrill-restore-{}-{:?}", std::process::id(), std::thread::current().id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).expect("directory");
    std::fs::write(directory.join("a"), "x").expect("file");
    let source = Source::Tree(directory.clone());
    let contents = source.contents().expect("readable");
    let mut session = Session {
        machine: &machine,
        backup: &scenario.backups[0],
        source: &source,
        contents: &contents,
        passphrase: None,
        scratch: &directory,
        guard: &Guard::new("/nonexistent".into(), directory.clone()),
        seed: 0,
        deadline: Deadline::root("test", Duration::from_secs(60), 1.0),
        phases: Vec::new(),
        said: String::new(),
    };
    let mut report = RestoreReport::default();
    let loaded = load(&mut session, None, &mut report).await;
    let said = session.said.clone();
    std::fs::remove_dir_all(&directory).expect("cleaned up");
    let log = fake.log.lock().expect("no panic").clone();
    RestoreRun { loaded, log, said }
}

fn position(log: &[String], part: &str) -> Option<usize> {
    log.iter().position(|line| line.contains(part))
}

#[tokio::test]
async fn a_restore_stops_presents_fills_looks_and_starts_in_this_order() {
    let RestoreRun { loaded, log, .. } = restored(&["/d/config"], &["/d/config", "/d/a"], Output::default()).await;
    assert_eq!(loaded.map(|manifest| manifest.paths.len()), Ok(2));
    let steps = ["stop notes", "manifest", "remount,bind,ro", "restore-notes", "umount", "start notes"];
    let places: Vec<_> = steps.iter().map(|step| position(&log, step)).collect();
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?} {log:#?}");
}

#[tokio::test]
async fn a_target_in_use_is_never_restored_into() {
    let RestoreRun { loaded, log, .. } = restored(&["/d/config", "/d/old"], &["/d/old"], Output::default()).await;
    let fault = loaded.expect_err("refused");
    assert_eq!((fault.code, fault.severity()), (Code::NotEmpty, Severity::Unknown));
    assert_eq!(fault.evidence, ["/d/old"], "what the deploy makes there is no sign of use");
    assert_eq!((position(&log, "restore-notes"), position(&log, "mount")), (None, None), "{log:?}");
}

#[tokio::test]
async fn exit_status_0_with_nothing_restored_is_no_proof() {
    let RestoreRun { loaded, log, .. } = restored(&[], &["/d/config"], Output::default()).await;
    assert_eq!(loaded.map_err(|fault| (fault.code, fault.severity())), Err((Code::EmptyRestore, Severity::Unknown)));
    assert_eq!(position(&log, "start notes"), None, "a service is not started over nothing");
}

#[tokio::test]
async fn a_failed_restore_leaves_neither_copy_nor_secret() {
    let script = Output { status: 1, stderr: "no such table".into(), ..Output::default() };
    let RestoreRun { loaded, log, said } = restored(&[], &["/d/a"], script).await;
    assert_eq!(loaded.map_err(|fault| fault.code), Err(Code::RestoreFailed));
    assert!(position(&log, "umount") > position(&log, "restore-notes"), "{log:?}");
    assert!(log.last().is_some_and(|line| line.contains("/run/redrill-restore")), "{log:?}");
    assert_eq!(said, "no such table");
}

#[tokio::test]
async fn data_that_cannot_be_read_is_not_taken_for_none() {
    let odd = Output { stdout: b"{".to_vec(), ..Output::default() };
    let fake = Fake { otherwise: Some(odd), ..Fake::default() };
    let scenario = Scenario::parse(SCENARIO).expect("valid");
    let deadline = Deadline::root("test", Duration::from_secs(60), 1.0);
    let booted = fake.boot(&scenario.machines[0], &Needs::default(), Path::new("/"), &deadline).await.expect("boots");
    let looked = oracle::look(&booted, &["/d".to_owned()], &deadline).await;
    assert_eq!(looked.map_err(|fault| (fault.code, fault.severity())), Err((Code::NotLookedAt, Severity::Unknown)));
}

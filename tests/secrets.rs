//! What a drill leaves holds no secret of its keys, however its deploy told them: every file is unpacked and searched,
//! as it is and with its line ends taken out. The counts stand in the output.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use aho_corasick::AhoCorasick;
use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Ran, Sandbox, root, verdicts};
use serde_json::Value;

/// What the test adds to the keys of the case: what no text file of a repo holds.
const LATIN1: &[u8] = b"westernPW-\xe9\xff-Cv61tf";
const PRIVATE: [&str; 2] = [
    "MC4CAQAwBQYDK2VwBCIEIPlantedPlantedPlantedPlanted7Qx2Lm9Zr4TbVn8",
    "Wc5Hd1Kj6Fg3Ys0Pa7Rt4Ue9Io2Bq8Xv5Nm1Zl6Ck3Jh0Gd",
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacking = redrill_machines::container::engine_version().is_err() && std::env::var_os("CI").is_none();
    let trials: [(&str, fn()); 2] = [("secrets::container::told", told), ("secrets::container::words", words)];
    let trials = trials.map(|(name, run)| Trial::test(name, move || caught(run)).with_ignored_flag(lacking));
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

fn caught(run: fn()) -> Result<(), Failed> {
    std::panic::catch_unwind(run).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default().into()
    })
}

/// Drills a case in a repo of its own.
fn drilled(case: &str, sandbox: &Sandbox, more_keys: &[(&str, Vec<u8>)]) -> Ran {
    let place = sandbox.path().join("case");
    let call = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).current_dir(sandbox.path()).output().expect("starts");
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let from = root().join("tests/cases").join(case);
    call("cp", &["-r", from.to_str().expect("text"), "case"]);
    for (name, content) in more_keys {
        fs::write(place.join("keys").join(name), content).expect("written");
    }
    let git = |args: &[&str]| {
        call("git", &[&["-C", "case/servers", "-c", "user.name=a", "-c", "user.email=a@b"], args].concat())
    };
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-qm", "the deploy"]);
    sandbox.run(&["run", "--backend", "container", place.to_str().expect("text")])
}

fn told() {
    let sandbox = Sandbox::new();
    let text = fs::read_to_string(root().join("tests/cases/secrets/servers/planted.json")).expect("there");
    let planted: BTreeMap<String, BTreeMap<String, String>> = serde_json::from_str(&text).expect("JSON");
    let secrets: Vec<&str> = planted["planted"].values().map(String::as_str).collect();
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", PRIVATE.join("\n"));
    let large = format!("{}\nlargePW-Kl49wa2\n", "filler ".repeat(200_000));
    let combined = format!("{pem}besidePW-Zx50sd3\n");
    let more = [
        ("latin1", LATIN1.to_vec()),
        ("tls.key", pem.into_bytes()),
        ("large", large.into_bytes()),
        ("combined.pem", combined.into_bytes()),
    ];
    let ran = drilled("secrets", &sandbox, &more).expect(1);
    let run = sandbox.run_dir();
    let report = sandbox.report();
    let expected = [("rebuilds", "PROVEN"), ("idempotent", "FAILED"), ("serves", "FAILED")];
    assert_eq!(
        verdicts(&report),
        expected.map(|(claim, verdict)| (claim.to_owned(), verdict.to_owned())),
        "{}",
        ran.stdout
    );
    assert_eq!(run.metadata().expect("there").permissions().mode() & 0o777, 0o700);

    let mut wanted: Vec<(String, Vec<u8>)> = secrets.iter().flat_map(|secret| forms(secret)).collect();
    wanted.push(("bytes".to_owned(), LATIN1.to_vec()));
    wanted.extend(PRIVATE.iter().flat_map(|line| forms(line)));
    wanted.push(("pattern".to_owned(), b"tok_0123456789ab".to_vec()));
    let mut files = left(&run);
    files.insert("standard output".into(), ran.stdout.into_bytes());
    files.insert("standard error".into(), ran.stderr.into_bytes());
    let found = search(&files, &wanted);
    tell(&format!(
        "{} secrets in {} forms, told by a deploy: {} files left, {} with one",
        secrets.len() + PRIVATE.len() + 2,
        wanted.len(),
        files.len(),
        found.len()
    ));
    assert_eq!(found, Vec::<String>::new());
    assert!(secrets.len() >= 30, "{}", secrets.len());
    was_told(&files);
}

/// That nothing is found says something only if it was told: in logs, events, captures, mail, the network's log.
fn was_told(files: &BTreeMap<PathBuf, Vec<u8>>) {
    let text = |end: &str| {
        let found = files.iter().find(|(path, _)| path.to_string_lossy().ends_with(end));
        String::from_utf8_lossy(found.unwrap_or_else(|| panic!("no {end} in {:?}", files.keys())).1).into_owned()
    };
    let marks = |end: &str| text(end).matches("[redacted").count();
    let capture = text("s1-deployed.jsonl.gz");
    for kind in ["\"file\":", "\"user\":", "\"sudo-rule\":", "\"authorized-key\":"] {
        let told = capture
            .lines()
            .filter(|line| line.starts_with(&format!("{{{kind}")))
            .any(|line| line.contains("[redacted:"));
        assert!(told, "no secret stood in a {kind} of the capture");
    }
    assert!(marks("deploy-1.log") > 500 && marks("/events.jsonl") > 500, "{}", marks("/events.jsonl"));
    for end in ["deploy-1.json", "deploy-1.events.jsonl", "mail.jsonl", "network.log", "report.json", "report.txt"] {
        assert!(marks(end) > 0, "{end}: {}", text(end));
    }
    assert!(text("deploy-1.log").contains("region-eu-7b is public"));
}

/// A secret as it stands, and as programs print it.
fn forms(secret: &str) -> Vec<(String, Vec<u8>)> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let url: String = secret
        .bytes()
        .map(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect();
    let json = Value::from(secret).to_string();
    let mut all = vec![
        ("raw", secret.to_owned()),
        ("hex", hex),
        ("url", url),
        ("json", json[1..json.len() - 1].to_owned()),
        ("json in json", json[1..json.len() - 1].replace('\\', "\\\\").replace('"', "\\\"")),
        ("shell", secret.replace('\'', "'\"'\"'")),
        ("python", secret.replace('\'', "\\'")),
        ("html", secret.replace('&', "&amp;").replace('"', "&quot;").replace('\'', "&#x27;")),
    ];
    all.extend((0..3).map(|skip| ("base64", base64(secret, skip))));
    all.into_iter().map(|(form, text)| (format!("{secret} as {form}"), text.into_bytes())).collect()
}

/// The letters that hold nothing but the secret, behind so many other bytes.
fn base64(secret: &str, skip: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes = [vec![0; skip], secret.as_bytes().to_vec()].concat();
    let bit = |at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    let letter = |at: usize| (0..6).fold(0, |sum, more| sum << 1 | bit(at * 6 + more));
    let own = [0, 2, 3][skip]..bytes.len() * 8 / 6;
    own.map(|at| char::from(LETTERS[usize::from(letter(at))])).collect()
}

/// Every file of a run directory by its path, archives unpacked; directories and links with nothing in them.
fn left(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for path in fs::read_dir(directory).expect("there").flatten().map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            files.extend(left(&path));
        } else if path.is_file() && !path.is_symlink() {
            let packed = path.extension().is_some_and(|end| end == "gz");
            let content = if packed { unpacked(&path) } else { fs::read(&path).expect("read") };
            files.insert(path.clone(), content);
        }
        let to = path.read_link().map(|to| to.into_os_string().into_encoded_bytes());
        files.entry(path).or_insert_with(|| to.unwrap_or_default());
    }
    files
}

fn unpacked(path: &Path) -> Vec<u8> {
    let mut child =
        Command::new("gzip").args(["-dc"]).arg(path).stdout(std::process::Stdio::piped()).spawn().expect("gzip");
    let mut bytes = Vec::new();
    child.stdout.take().expect("piped").read_to_end(&mut bytes).expect("read");
    assert!(child.wait().expect("ends").success(), "{}", path.display());
    bytes
}

/// Where which of these stands: in a file, over its line ends, or in its name.
fn search(files: &BTreeMap<PathBuf, Vec<u8>>, wanted: &[(String, Vec<u8>)]) -> Vec<String> {
    let search = AhoCorasick::new(wanted.iter().map(|(_, form)| form)).expect("few and short");
    let mut found = BTreeSet::new();
    for (path, content) in files {
        let flat: Vec<u8> = content.split(|byte| b"\r\n".contains(byte)).collect::<Vec<_>>().concat();
        for text in [content, &flat, path.as_os_str().as_encoded_bytes()] {
            let all = search.find_overlapping_iter(text);
            found.extend(all.map(|place| format!("{}: {}", path.display(), wanted[place.pattern().as_usize()].0)));
        }
    }
    found.into_iter().collect()
}

/// Keys that say redrill's own words: the report is as readable as without them.
fn words() {
    let sandbox = Sandbox::new();
    let ran = drilled("secrets-words", &sandbox, &[]).expect(0);
    let report = sandbox.report();
    let text = report.to_string();
    assert_eq!(verdicts(&report), [("rebuilds".to_owned(), "PROVEN".to_owned())], "{}", ran.stdout);
    assert_eq!(
        (report["host"]["acceleration"].as_str(), text.matches("[redacted]").count()),
        (Some("container"), 1),
        "{text}"
    );
    tell("the report says its own words, and one mark where the deploy told a secret");
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

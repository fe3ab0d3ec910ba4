//! Nothing reaches production, and nothing of the host gets in: ways out of a drill, tried one after the other beside a
//! production of our own and a host full of secrets (`support/production.rs`). The counts stand in the output.
//!
//! A directory below `isolation/` is a scenario with a `ways.toml`: what each way wants. In its files `@ID@` is the
//! address that belongs to this way alone, so that a packet, or a finding, says whose it is. Whatever tries a way prints
//! `way ID: ...`, so that one which was never tried is not taken for one that was held. First of all the same ways are
//! tried without redrill, on the host itself: there they lead out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use redrill_tests::{Host, Packet, Production, key, program, root};
use serde_json::Value;
use tempfile::TempDir;

/// Ways of daemons are tried when the deploy is over, before this long has passed.
const LATER: Duration = Duration::from_secs(7);
/// As much of a line as is looked at.
const LONGEST: usize = 2000;
/// What only an SSH server of the machine makes clients say, each in its own words. At production the key is good.
const MACHINE_ANSWERS: [&str; 8] = [
    "machine ran",
    "command not found",
    "Permission denied (",
    "Host key verification failed",
    "PermissionDenied('Permission denied for user root",
    "AuthenticationDenied(",
    "AuthenticationError(",
    "AuthenticationException(",
];
/// Findings that name what a drill wanted of the outside.
const CODES: [&str; 2] = ["OUTSIDE", "PRODUCTION"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let lacking = Production::lacking();
    let engine = redrill_machines::container::engine_version().is_ok();
    let promised = std::env::var_os("CI").is_some();
    let trial = |name: &str, needs_engine: bool, test: fn() -> Result<(), Failed>| {
        let why = lacking.clone().or_else(|| (needs_engine && !engine).then(|| "no container engine answers".into()));
        let ignored = why.is_some() && !promised;
        Trial::test(name, move || why.map_or_else(test, |why| Err(format!("cannot be tried here: {why}").into())))
            .with_ignored_flag(ignored)
    };
    let trials = vec![
        trial("isolation::control::shell", false, || control("shell")),
        trial("isolation::control::checkout", false, || control("checkout")),
        trial("isolation::controller::shell", true, || sealed("shell", "container", 60)),
        trial("isolation::controller::ansible", true, || sealed("ansible", "container", 25)),
        trial("isolation::controller::pyinfra", true, || sealed("pyinfra", "container", 20)),
        trial("isolation::controller::package", true, || sealed("package", "container", 5)),
        trial("isolation::controller::requirements", true, || sealed("requirements", "container", 2)),
        trial("isolation::controller::requirements_git", true, || sealed("requirements-git", "container", 1)),
        trial("isolation::controller::surroundings", true, || sealed("surroundings", "container", 20)),
        trial("isolation::checkout::whole", true, || sealed("checkout", "container", 15)),
        trial("isolation::checkout::inner", true, inner_checkout),
        trial("isolation::check::address", true, || sealed("check", "container", 2)),
        trial("isolation::unasked::install", true, unasked),
        trial("isolation::machine::container", true, || sealed("machine", "container", 35)),
        trial("long::isolation::machine::qemu", false, || sealed("machine", "qemu", 35)),
    ];
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What a way is after, from a line of `ways.toml`: `KIND DETAIL`, then `unnamed` where a report need not tell of it,
/// `silent` where nobody hears what it prints, since it is tried by whoever makes the drill at all, and `no-control` where
/// the host itself does not have what it wants.
#[derive(Debug, Clone)]
struct Way {
    id: String,
    wants: Wants,
    named: bool,
    silent: bool,
    control: bool,
}

#[derive(Debug, Clone)]
enum Wants {
    /// `tcp PORT`, `tcp6 PORT`, `udp PORT`, `icmp 0`: an address of its own that no inventory knows.
    Outside { address: String, port: u16 },
    /// `production PORT`: the address that the inventory names.
    Production { port: u16 },
    /// `machine`: the same by SSH, which leads to the drill's machine.
    Machine,
    /// `reads SECRET`.
    Reads(String),
    /// `runs`: a program outside of every sandbox leaves a file with the way's name.
    Runs,
    /// `says WORD`: what it prints if it leads anywhere.
    Says(String),
    /// `name NAME`: a host that only the report can tell of.
    Name(String),
}

impl Way {
    fn read(id: &str, line: &str, number: usize) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let detail = || words.get(1).unwrap_or_else(|| panic!("{id} = {line}")).to_string();
        let port = || detail().parse().unwrap_or_else(|_| panic!("{id} = {line}: no port"));
        let (four, six) = Production::address(number);
        let wants = match words[0] {
            "tcp" | "udp" | "icmp" => Wants::Outside { address: four, port: port() },
            "tcp6" => Wants::Outside { address: six, port: port() },
            "production" => Wants::Production { port: port() },
            "machine" => Wants::Machine,
            "reads" => Wants::Reads(detail()),
            "runs" => Wants::Runs,
            "says" => Wants::Says(detail()),
            "name" => Wants::Name(detail()),
            other => panic!("{id}: nobody wants `{other}`"),
        };
        let control = !words.contains(&"no-control") && !matches!(wants, Wants::Name(_));
        Self {
            id: id.to_owned(),
            wants,
            named: !words.contains(&"unnamed"),
            silent: words.contains(&"silent"),
            control,
        }
    }

    /// Whether a line of the report tells of it.
    fn is_named(&self, lines: &[String], host: &Host) -> bool {
        let has = |line: &String, words: &[&str]| words.iter().all(|word| holds(line, word));
        lines.iter().any(|line| match &self.wants {
            Wants::Outside { address, port: 0 } => has(line, &[address]),
            Wants::Outside { address, port } => has(line, &[address, &port.to_string()]),
            Wants::Production { port } => has(line, &[Production::HOST, &port.to_string()]),
            Wants::Machine => has(line, &[Production::HOST, "22"]),
            Wants::Name(name) => has(line, &[name]),
            Wants::Reads(name) => host.file(name).is_some_and(|path| line.contains(&path.display().to_string())),
            Wants::Runs | Wants::Says(_) => holds(line, &self.id),
        })
    }
}

/// Whether an address, port or name stands in a line, and not as a part of a longer one.
fn holds(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line[..at].chars().next_back(), line[at + word.len()..].chars().next());
        let more = |letter: Option<char>| letter.is_some_and(|letter| letter.is_ascii_alphanumeric());
        !more(before) && !more(after)
    })
}

/// Where the repository of a case begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repo {
    Servers,
    /// The servers are a directory inside of it.
    Around,
}

/// A scenario that tries ways, laid out beside a production and a host.
struct WayCase {
    place: Option<TempDir>,
    ways: Vec<Way>,
    host: Host,
    production: Production,
}

impl WayCase {
    fn new(name: &str) -> Self {
        Self::within(name, Repo::Servers)
    }

    fn within(name: &str, repo: Repo) -> Self {
        let source = root().join("tests/isolation").join(name);
        let text = fs::read_to_string(source.join("ways.toml")).expect("a case says what it wants");
        let table: BTreeMap<String, String> = toml::from_str(&text).expect("names and lines");
        let ways: Vec<Way> = table.iter().zip(1..).map(|((id, line), number)| Way::read(id, line, number)).collect();
        // Sockets lie in run directories, and the kernel bounds the length of their paths.
        let place = tempfile::Builder::new().prefix("i").tempdir().expect("a directory");
        fs::create_dir_all(place.path().join("keys")).expect("made");
        let deploy = place.path().join("keys/deploy");
        key(&deploy);
        let production = Production::start(&deploy.with_extension("pub"));
        let host = Host::start(&cache(), &deploy);
        let case = Self { place: Some(place), ways, host, production };
        case.lay_out(&source);
        case.commit(repo);
        case
    }

    fn place(&self) -> &Path {
        self.place.as_ref().expect("kept at the end only").path()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place().join(name)
    }

    /// The evidence stays, and its place is told.
    fn keep(mut self) -> String {
        let place = self.place.take().map(TempDir::keep).unwrap_or_default();
        format!("Evidence  {}", place.display())
    }

    fn lay_out(&self, source: &Path) {
        let mut words = self.host.words();
        words.push(("@PROD@".to_owned(), Production::HOST.to_owned()));
        words.push(("@HOST@".to_owned(), Production::NEIGHBOUR.to_owned()));
        words.push(("@servers@".to_owned(), self.path("servers").display().to_string()));
        for way in &self.ways {
            if let Wants::Outside { address, .. } = &way.wants {
                words.push((format!("@{}@", way.id), address.clone()));
            }
        }
        words.push(("@place@".to_owned(), self.place().display().to_string()));
        copy(source, self.place(), &words);
        for shared in ["way.sh", "tries.py"] {
            copy(&root().join("tests/isolation").join(shared), &self.path("servers").join(shared), &words);
        }
        let secret = self.host.file("root-key").expect("one of them");
        std::os::unix::fs::symlink(secret, self.path("servers/link-to-host")).expect("linked");
        if self.path("preload.c").exists() {
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-o"]).arg(self.path("servers/preload.so")).arg(self.path("preload.c"));
            assert!(compiler.status().expect("cc runs").success());
        }
    }

    /// One commit; then the repository gets the configuration that the case has for it.
    fn commit(&self, repo: Repo) {
        let top = if repo == Repo::Servers { self.path("servers") } else { self.place().to_owned() };
        let all = if repo == Repo::Servers { "." } else { "servers" };
        for words in [&["init", "-q"][..], &["add", "--force", all], &["commit", "-q", "-m", "Ways out"]] {
            let mut git = Command::new("git");
            git.args(["-c", "user.name=i", "-c", "user.email=i@example.org", "-c", "commit.gpgSign=false"]);
            assert!(git.args(words).current_dir(&top).status().expect("git runs").success(), "git {words:?}");
        }
        if let Ok(more) = fs::read_to_string(self.path("git.config")) {
            let file = top.join(".git/config");
            let own = fs::read_to_string(&file).expect("there");
            fs::write(file, own + &more).expect("written");
            fs::create_dir_all(top.join(".git/info")).expect("made");
            fs::write(top.join(".git/info/attributes"), "* filter=ran diff=ran\n").expect("written");
        }
    }

    /// Runs a program as the operator does, and what it left later, and gathers what became of it all.
    fn run(&self, program: &Command) -> Came {
        let mut operator = self.host.command(self.place(), program).spawn().expect("script runs");
        // Nobody types, and nobody says that he is done: the end of input would be read before what others type.
        let keyboard = operator.stdin.take();
        assert!(operator.wait().is_ok_and(|status| status.success()), "the operator's host could not be made");
        drop(keyboard);
        if self.ways.iter().any(|way| way.id.starts_with("daemon")) {
            std::thread::sleep(LATER);
        }
        let read = |path: PathBuf| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        let (out, err) = (read(self.path("out")), read(self.path("err")));
        let status = read(self.path("status")).trim().parse().unwrap_or(-1);
        let mut texts = vec![out.clone(), err];
        gather(&self.path("state"), &mut texts);
        let mut said: Vec<String> = texts.iter().flat_map(|text| said(text)).collect();
        let mut known = BTreeSet::new();
        said.retain(|line| known.insert(line.clone()));
        let all = texts.concat() + &String::from_utf8_lossy(&self.production.got());
        let ran = fs::read_dir(self.host.ran()).into_iter().flatten().flatten();
        Came {
            status,
            report: serde_json::from_str(&out).unwrap_or_default(),
            said,
            read: self
                .host
                .markers()
                .into_iter()
                .filter(|(_, text)| all.contains(text.as_str()))
                .map(|(name, _)| name)
                .collect(),
            ran: ran.filter_map(|file| file.file_name().into_string().ok()).collect(),
            packets: self.production.packets(),
            programs: self.production.programs(),
            came: self.host.came(),
            story: texts[1].clone(),
        }
    }
}

impl Drop for WayCase {
    /// Each run makes environments that no other can use: they would fill the cache.
    fn drop(&mut self) {
        for environment in fs::read_dir(cache().join("venvs")).into_iter().flatten().flatten() {
            let libraries = fs::read_dir(environment.path().join("lib")).into_iter().flatten().flatten();
            if libraries.into_iter().any(|library| library.path().join("site-packages/isolated").is_dir()) {
                let _ = fs::remove_dir_all(environment.path());
            }
        }
    }
}

/// What a run led to.
struct Came {
    status: i32,
    report: Value,
    /// Lines that ways printed, from `way ` on.
    said: Vec<String>,
    /// Secrets that stand anywhere in what is left, or came to production.
    read: BTreeSet<&'static str>,
    ran: BTreeSet<String>,
    packets: Vec<Packet>,
    programs: Vec<String>,
    came: Vec<String>,
    story: String,
}

impl Came {
    fn lines<'a>(&'a self, way: &'a Way) -> impl Iterator<Item = &'a str> {
        let of = |line: &'a String| Some(line.strip_prefix(&format!("way {}:", way.id))?.trim());
        self.said.iter().filter_map(of)
    }

    fn tried(&self, way: &Way) -> bool {
        way.silent || self.lines(way).any(|line| line == "tried")
    }

    /// Whether this way led where it wanted.
    fn led_out(&self, way: &Way, host: &Host) -> bool {
        let says = |word: &str| self.lines(way).any(|line| line.contains(word));
        let arrived = |address: &str, port: u16| {
            self.packets.iter().any(|packet| packet.to.to_string() == address && (port == 0 || packet.port == port))
        };
        match &way.wants {
            Wants::Outside { address, .. } => arrived(address, 0),
            Wants::Production { port } => arrived(Production::HOST, *port),
            Wants::Machine => says("PRODUCTION RAN IT") || self.programs.iter().any(|ran| holds(ran, &way.id)),
            Wants::Reads(name) => says(&host.marker(name)),
            Wants::Runs => self.ran.contains(&way.id),
            Wants::Says(word) => says(word),
            Wants::Name(_) => says("PRODUCTION ANSWERS"),
        }
    }

    /// Whether SSH came to the machine of the drill: it ran the program, or was the one to refuse the key.
    fn led_to_machine(&self, way: &Way) -> bool {
        self.lines(way).any(|line| MACHINE_ANSWERS.iter().any(|word| line.contains(word)) || line == "ended with 0")
    }

    /// Lines of findings that name what was wanted of the outside.
    fn named(&self) -> Vec<String> {
        let claims = self.report["claims"].as_array().into_iter().flatten();
        let findings = claims.flat_map(|claim| claim["findings"].as_array().into_iter().flatten());
        let ours = findings.filter(|finding| CODES.iter().any(|code| finding["code"] == *code));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ours.flat_map(|finding| {
            let evidence = finding["evidence"].as_array().into_iter().flatten().map(text);
            [text(&finding["subject"]), text(&finding["summary"])].into_iter().chain(evidence).collect::<Vec<_>>()
        })
        .collect()
    }

    /// The counts, in a line.
    fn counted(&self, title: &str, ways: &[Way], named: usize) -> String {
        let tried = ways.iter().filter(|way| self.tried(way)).count();
        format!(
            "{title}: {} ways, {tried} tried, {} packets at production, {} programs run, {} files read, {} came to \
             the host, {named} named",
            ways.len(),
            self.packets.len(),
            self.programs.len() + self.ran.len(),
            self.read.len(),
            self.came.len()
        )
    }
}

/// The same ways on the host itself, without redrill: each leads out, or the trial of the same name shows nothing.
fn control(name: &str) -> Result<(), Failed> {
    let case = WayCase::new(name);
    let mut command = Command::new("bash");
    let script = Some(case.path("control.sh")).filter(|own| own.exists());
    command.arg(script.unwrap_or_else(|| case.path("servers/deploy.sh"))).current_dir(case.path("servers"));
    let came = case.run(&command);
    let mut missing = String::new();
    for way in case.ways.iter().filter(|way| way.control && came.tried(way)) {
        if !came.led_out(way, &case.host) && !matches!(way.wants, Wants::Machine) {
            let _ = writeln!(missing, "  {} did not lead out: {:?}", way.id, came.lines(way).collect::<Vec<_>>());
        }
    }
    let by_ssh = case.ways.iter().filter(|way| matches!(way.wants, Wants::Machine) && came.tried(way)).count();
    if came.programs.len() < by_ssh {
        let _ = writeln!(missing, "  {} programs for {by_ssh} ways by SSH: {:?}", came.programs.len(), came.programs);
    }
    tell(&came.counted(&format!("control {name}, without redrill"), &case.ways, 0));
    tell(&not_tried(&case, &came));
    if missing.is_empty() {
        return Ok(());
    }
    Err(format!("the control shows nothing:\n{missing}{}", case.keep()).into())
}

/// The ways of a case in a drill: each is tried, none leads out, and the report tells of them.
fn sealed(name: &str, backend: &str, least: usize) -> Result<(), Failed> {
    drill(&format!("isolation {name}"), WayCase::new(name), backend, least)
}

/// A repository whose servers are a directory inside is not cloned, but taken out of an archive.
fn inner_checkout() -> Result<(), Failed> {
    drill("isolation checkout, inner", WayCase::within("checkout", Repo::Around), "container", 15)
}

fn drill(title: &str, case: WayCase, backend: &str, least: usize) -> Result<(), Failed> {
    let place = case.place().display().to_string();
    let came = case.run(&redrill(&case, &["run", &place, "--format", "json", "--backend", backend]));
    if came.report.is_null() {
        return Err(format!("no drill was made: {}\n{}", came.story, case.keep()).into());
    }
    judge(title, case, &came, least)
}

/// A script found by its name alone says not where it is meant to run: it is asked for, and nothing runs.
fn unasked() -> Result<(), Failed> {
    let case = WayCase::new("unasked");
    let servers = case.path("servers").display().to_string();
    let came = case.run(&redrill(&case, &["idempotence", &servers, "--backend", "container"]));
    if came.status != 2 || !came.story.contains("install.sh") {
        return Err(format!("nobody is asked (status {}): {}\n{}", came.status, came.story, case.keep()).into());
    }
    judge("isolation install.sh, found by name", case, &came, 2)
}

fn redrill(case: &WayCase, words: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(words).current_dir(root());
    command.env("REDRILL_STATE_DIR", case.path("state")).env("REDRILL_CACHE_DIR", cache()).env("NO_COLOR", "1");
    command
}

fn judge(title: &str, case: WayCase, came: &Came, least: usize) -> Result<(), Failed> {
    let lines = came.named();
    let named: BTreeSet<&str> = case
        .ways
        .iter()
        .filter(|way| came.tried(way))
        .filter(|way| {
            way.is_named(&lines, &case.host) || (matches!(way.wants, Wants::Machine) && came.led_to_machine(way))
        })
        .map(|way| way.id.as_str())
        .collect();
    let mut wrong = String::new();
    for way in case.ways.iter().filter(|way| came.tried(way)) {
        let short = |line: &str| line.chars().take(120).collect::<String>();
        let said = || came.lines(way).take(6).map(short).collect::<Vec<_>>();
        if came.led_out(way, &case.host) {
            let _ = writeln!(wrong, "  {} led out: {:?}", way.id, said());
        } else if way.named && !named.contains(way.id.as_str()) {
            let _ = writeln!(wrong, "  {} is not named in the report: {:?}: {:?}", way.id, way.wants, said());
        }
    }
    let tried = case.ways.iter().filter(|way| came.tried(way)).count();
    let mut must_be_none = |what: &str, found: Vec<String>| {
        if !found.is_empty() {
            let _ = writeln!(wrong, "  {what}: {found:?}");
        }
    };
    must_be_none("packets at production", by_target(&came.packets));
    must_be_none("programs run at production", came.programs.clone());
    must_be_none("programs run on the host", came.ran.iter().cloned().collect());
    must_be_none("files of the host read", came.read.iter().map(|name| (*name).to_owned()).collect());
    must_be_none("connections to the host's sockets", came.came.clone());
    if tried < least {
        let _ = writeln!(wrong, "  only {tried} ways were tried, at least {least} should be");
    }
    tell(&came.counted(title, &case.ways, named.len()));
    tell(&not_tried(&case, came));
    if wrong.is_empty() {
        return Ok(());
    }
    let end: Vec<&str> = came.story.lines().collect();
    let end = end[end.len().saturating_sub(30)..].join("\n");
    let status = came.status;
    let place = case.keep();
    Err(format!("not isolated (redrill ended with {status}):\n{wrong}\nnamed: {lines:#?}\n{end}\n{place}").into())
}

fn by_target(packets: &[Packet]) -> Vec<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    for packet in packets {
        *counts.entry(format!("{} {} {}", packet.protocol, packet.to, packet.port)).or_default() += 1;
    }
    counts.into_iter().map(|(target, count)| format!("{count} to {target}")).collect()
}

fn not_tried(case: &WayCase, came: &Came) -> String {
    let left = case.ways.iter().filter(|way| !came.tried(way));
    let why = |way: &Way| format!("{} ({})", way.id, came.lines(way).next().unwrap_or("never begun").to_owned());
    let left: Vec<String> = left.map(why).collect();
    if left.is_empty() { String::new() } else { format!("  not tried: {}", left.join(", ")) }
}

fn tell(line: &str) {
    if !line.is_empty() {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Images and environments are shared with other suites.
fn cache() -> PathBuf {
    if let Some(own) = std::env::var_os("REDRILL_CACHE_DIR") {
        return own.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache")).join("redrill")
}

/// Files with what stands for places filled in.
fn copy(from: &Path, to: &Path, words: &[(String, String)]) {
    if from.is_dir() {
        fs::create_dir_all(to).expect("made");
        for entry in fs::read_dir(from).expect("read").flatten() {
            copy(&entry.path(), &to.join(entry.file_name()), words);
        }
        return;
    }
    let mut text = fs::read_to_string(from).expect("text");
    for (word, meant) in words {
        text = text.replace(word.as_str(), meant);
    }
    fs::write(to, text).expect("written");
    fs::set_permissions(to, fs::metadata(from).expect("there").permissions()).expect("set");
}

/// Every file that is left below, but for the checkout, which is the case's own text.
fn gather(directory: &Path, texts: &mut Vec<String>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (path, Ok(kind)) = (entry.path(), entry.file_type()) else { continue };
        if kind.is_dir() {
            gather(&path, texts);
        } else if kind.is_file() {
            texts.push(String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned());
        }
    }
}

/// What ways printed, wherever on a line it begins. Tools show output as lists and as JSON too.
fn said(text: &str) -> Vec<String> {
    let text = text.replace("\\n", "\n").replace("\", \"", "\n");
    let line = |line: &str| {
        let line = line[line.find("way ")?..].trim_end();
        let line = line.trim_end_matches(|letter: char| "\"\\,]}* ".contains(letter));
        Some(line.chars().take(LONGEST).collect())
    };
    text.lines().filter_map(line).collect()
}

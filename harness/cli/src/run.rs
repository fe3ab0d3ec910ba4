//! `redrill run`: the drill.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use clap::ValueEnum;
use redrill_engine::{Drill, Events, Keep, Loaded, Redactor, ScenarioError, load};
use redrill_machines::container;
use redrill_machines::host::{self, Accel, HostTool, Shortage};
use redrill_machines::image::Store;
use redrill_machines::process::Guard;
use redrill_machines::qemu::{self, Qemu, Templates};
use redrill_machines::{Admission, AdmissionError, Amount, ClientKey, Containers, Home, RunDir, Ticket};
use redrill_model::{BackendKind, Claim, HostFacts, Report};
use tokio::sync::{mpsc, watch};

use crate::output::{self, Failure, Listener, Mode};
use crate::repeat::Repeat;
use crate::{Ended, accel, doctor, home, program};

/// Rebuild a scenario's machines from its repo, twice, and say what is proven.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill run scenarios/web
  redrill run scenarios/web --keep-on-failure     then: redrill shell
  redrill run scenarios/web --format json --quiet > report.json

The story goes to standard error, the result to standard output. report.json, report.txt, captures, logs and consoles
lie in the run directory, which the last lines name.")]
pub(crate) struct Args {
    /// Directory with a scenario.toml, or the file itself.
    scenario: PathBuf,
    #[command(flatten)]
    options: DrillOptions,
}

/// How a drill is made, whatever is drilled.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DrillOptions {
    /// Leave the machines running afterwards, for `redrill shell`; `redrill clean` ends them.
    #[arg(long)]
    keep: bool,
    /// The same, if a claim is not proven.
    #[arg(long)]
    keep_on_failure: bool,
    /// Boot every machine cold instead of forking it from the template of its image.
    #[arg(long)]
    fresh: bool,
    /// What the machines are, whatever the scenario says.
    #[arg(long, value_enum)]
    backend: Option<Backend>,
    /// At most so many machines at a time on this host, those of other drills included.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    jobs: Option<u32>,
    /// Plant faults into forks of the restored machines and copies of the backups, and show which checks notice.
    #[arg(long)]
    mutate: bool,
    /// End in order when standard input ends: for whoever starts drills and may be killed.
    #[arg(long, hide = true)]
    leash: bool,
    /// Print only the result, and not what happens on the way.
    #[arg(long, short)]
    quiet: bool,
    /// Form of the result on standard output.
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    format: ReportFormat,
}

impl DrillOptions {
    /// Whether faults are to be planted into what was restored.
    pub(crate) fn mutates(&self) -> bool {
        self.mutate
    }

    /// Adds what decides what is drilled; what only decides how it is told is the reader's choice.
    fn onto(&self, repeat: Repeat) -> Repeat {
        repeat
            .option("--backend", self.backend.map(|backend| BackendKind::from(backend).name()))
            .flag("--fresh", self.fresh)
            .option("--jobs", self.jobs)
            .flag("--mutate", self.mutate)
    }

    /// Whether only the result is told.
    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }
}

/// Form of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReportFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// What machines are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// QEMU where it is there, else containers.
    Auto,
    /// Virtual machines with a kernel of their own.
    Qemu,
    /// Containers of the host's engine.
    Container,
}

impl From<Backend> for BackendKind {
    fn from(backend: Backend) -> Self {
        match backend {
            Backend::Auto => Self::Auto,
            Backend::Qemu => Self::Qemu,
            Backend::Container => Self::Container,
        }
    }
}

/// Overlays, captures and logs of a small drill.
const RUN_MIB: u64 = 2048;

pub(crate) async fn exec(args: Args) -> Ended {
    let loaded = load(&args.scenario)?;
    let repeat = Repeat::of("run", &args.scenario);
    output::swept(&redrill_engine::sweep_home(&home()));
    run(loaded, args.options, repeat).await
}

/// Drills what is loaded, and tells the result. `repeat` is the command that does the same again.
pub(crate) async fn run(loaded: Loaded, args: DrillOptions, repeat: Repeat) -> Ended {
    let home = home();
    let tools = host::find_tools().await;
    let backend = choose(&args, &loaded, &tools)?;
    loaded.fits(backend, Amount::of_host(None).memory_mib)?;
    fits(&loaded, backend)?;
    certifiable(&loaded).await?;
    preflight(&tools, &home, backend)?;
    virtualized(&loaded, &home, backend).await?;
    let ticket = admit(&args, &loaded, &home, backend).await?;
    let kept = Amount::of(&loaded.scenario.machines, false);
    let last_time = last_seconds(&home, &loaded.name);
    let redactor = Arc::new(loaded.redactor()?);
    let run_dir = RunDir::create(&home, &loaded.name, SystemTime::now())
        .map_err(|error| Failure::unknown("cannot make a run directory", &error))?;
    let path = run_dir.path().to_owned();
    let (sender, receiver) = mpsc::unbounded_channel();
    let mode = if args.quiet { Mode::Quiet } else { Mode::of_terminal() };
    let listener = tokio::spawn(Listener::new(mode, &path, last_time).listen(receiver));
    let events = Events::new(sender, Arc::clone(&redactor));
    let making = Making {
        loaded,
        run_dir,
        home,
        tools: tools.into_iter().filter_map(|tool| Some((tool.name.to_owned(), tool.version?))).collect(),
        events,
        keep: keep(&args),
        mutate: args.mutate,
        leash: args.leash,
        repeat: args.onto(repeat).to_string(),
    };
    let drilled = drill(making, backend, ticket.path(), args.fresh).await;
    // The drill has dropped its end of the channel: the listener comes to its end too.
    let _ = listener.await;
    let report = match drilled {
        Ok(report) => {
            report.inspect_err(|_| drop(std::fs::remove_dir_all(&path))).map_err(|error| told(error, &redactor))?
        }
        Err(failure) => {
            // Nothing was made yet.
            let _ = std::fs::remove_dir_all(&path);
            return Err(failure);
        }
    };
    if RunDir::is_kept(&path) {
        // At worst they count for nothing.
        let _ = ticket.keep(&kept);
    }
    // Before anything is announced: whoever reads the report reads the rest too.
    let mut report = report;
    report.remarks.extend(clear_of_secrets(&path, &redactor)?);
    let report = without_secrets(report, &redactor)?;
    let written = write(&report, &path);
    // A report that finds no room on the disk is told all the same.
    output::result(&report, args.format == ReportFormat::Json);
    written?;
    Ok(report.exit_status())
}

/// What the command line says, else the scenario; `auto` takes what the host has.
fn choose(args: &DrillOptions, loaded: &Loaded, tools: &[HostTool]) -> Result<BackendKind, Failure> {
    match args.backend.map_or(loaded.scenario.backend, BackendKind::from) {
        BackendKind::Auto if loaded.scenario.needs.kvm => Ok(BackendKind::Qemu),
        BackendKind::Auto if doctor::missing_tools(tools).is_empty() => Ok(BackendKind::Qemu),
        BackendKind::Auto if container::engine_version().is_ok() => Ok(BackendKind::Container),
        BackendKind::Auto => Ok(BackendKind::Qemu),
        named => Ok(named),
    }
}

/// What would fail later is said now.
fn preflight(tools: &[HostTool], home: &Home, backend: BackendKind) -> Result<(), Failure> {
    let mut missing = doctor::missing_tools(tools);
    if backend == BackendKind::Container {
        container::engine_version().map_err(|why| {
            Failure::with_mend(&format!("no container engine answers ({why})"), "ci/setup, or: redrill doctor")
        })?;
        missing.retain(|tool| !tool.contains("qemu-system"));
    }
    if !missing.is_empty() {
        return Err(Failure::with_mend(&missing.join("; "), "ci/setup, or: redrill doctor"));
    }
    host::check_disk(&home.state, RUN_MIB).map_err(|shortage| short(&shortage))
}

/// Whether somebody can stand in for the ACME servers that the scenario names.
async fn certifiable(loaded: &Loaded) -> Result<(), Failure> {
    if loaded.scenario.acme.is_empty() {
        return Ok(());
    }
    let lacks = |why: String| {
        let what = format!("`{}`, which stands in for the ACME servers of `[network] acme`: {why}", host::PEBBLE);
        Failure::with_mend(&what, &format!("apt-get install {}", host::PEBBLE))
    };
    host::pebble().await.map(drop).map_err(lacks)
}

/// Whether the host has the hardware virtualization that a scenario needs.
async fn virtualized(loaded: &Loaded, home: &Home, backend: BackendKind) -> Result<(), Failure> {
    if !loaded.scenario.needs.kvm {
        return Ok(());
    }
    let mend = "a host with KVM (redrill doctor), or no `kvm` among the scenario's `[needs]`";
    let lacks = |why: &str| Failure::with_mend(&format!("the scenario needs hardware virtualization: {why}"), mend);
    if backend == BackendKind::Container {
        return Err(lacks("containers have none"));
    }
    let found = accel::acceleration(&home.cache, false).await?;
    if found.choice == Accel::Kvm { Ok(()) } else { Err(lacks(&found.reason)) }
}

/// Whether the machines can be made of their images.
fn fits(loaded: &Loaded, backend: BackendKind) -> Result<(), Failure> {
    let catalog = loaded.catalog();
    for machine in loaded.scenario.machines.iter().filter(|_| backend == BackendKind::Container) {
        let mend = "--backend qemu, or an image with a recipe";
        container::usable(&catalog.get(machine.image.get_ref())?).map_err(|why| Failure::with_mend(&why, mend))?;
    }
    Ok(())
}

fn short(shortage: &Shortage) -> Failure {
    Failure::with_mend(&shortage.to_string(), &shortage.mend())
}

/// Waits until there is room for all machines of the drill.
async fn admit(args: &DrillOptions, loaded: &Loaded, home: &Home, backend: BackendKind) -> Result<Ticket, Failure> {
    let twins = backend == BackendKind::Qemu && (args.mutate || loaded.scenario.claims.contains(&Claim::Idempotent));
    let wanted = Amount::of(&loaded.scenario.machines, twins);
    let run = format!("{} (process {})", loaded.name, std::process::id());
    let books = Admission::new(&home.state, Amount::of_host(args.jobs));
    match books.admit(&run, &wanted, output::story).await {
        Ok(ticket) => Ok(ticket),
        Err(AdmissionError::Shortage(shortage)) => Err(short(&shortage)),
        Err(error) => Err(Failure::unknown("cannot wait for a place", &error)),
    }
}

fn keep(args: &DrillOptions) -> Keep {
    match (args.keep, args.keep_on_failure) {
        (true, _) => Keep::Always,
        (false, true) => Keep::OnFailure,
        (false, false) => Keep::Never,
    }
}

/// Makes the backend, and walks the plan with it. `place` is the drill's in the budget; a `fresh` machine is booted cold.
async fn drill(
    making: Making,
    backend: BackendKind,
    place: &Path,
    fresh: bool,
) -> Result<Result<Report, ScenarioError>, Failure> {
    let run = making.run_dir.path().to_owned();
    let guard = Guard::new(program()?, run.clone()).holding(place);
    let client = ClientKey::make(run.join("client.key")).await;
    let client = client.map_err(|error| Failure::unknown("cannot make a key for this run", &error))?;
    let cache = making.home.cache.clone();
    let (images, catalog) = (Store::new(&cache), making.loaded.catalog());
    if backend == BackendKind::Container {
        let machines = Containers::new(guard.clone(), run, catalog, images, client).await;
        let machines = machines.map_err(|error| Failure::unknown("cannot use the container engine", &error))?;
        let host = HostFacts {
            acceleration: "container".to_owned(),
            reason: "machines are containers: they share the host's kernel".to_owned(),
            slowness: 1.0,
        };
        return Ok(Box::pin(making.with(machines, guard, host).run()).await);
    }
    let found = accel::acceleration(&cache, false).await?;
    let options =
        qemu::QemuOptions { accel: found.choice, version: host::qemu_version().await.unwrap_or_default(), fresh };
    let sources = qemu::Stock { catalog, images, templates: Templates::new(&cache) };
    let machines = Qemu::new(guard.clone(), options, sources, client);
    let host =
        HostFacts { acceleration: found.choice.name().to_owned(), reason: found.reason, slowness: found.slowness };
    Ok(Box::pin(making.with(machines, guard, host).run()).await)
}

/// A drill without its backend.
struct Making {
    loaded: Loaded,
    run_dir: RunDir,
    home: Home,
    /// Versions by name.
    tools: BTreeMap<String, String>,
    events: Events,
    keep: Keep,
    mutate: bool,
    leash: bool,
    repeat: String,
}

impl Making {
    fn with<B>(self, backend: B, guard: Guard, host: HostFacts) -> Drill<B> {
        let Self { loaded, run_dir, home, tools, events, keep, mutate, leash, repeat } = self;
        Drill {
            loaded,
            backend,
            guard,
            run_dir,
            home,
            host,
            tools,
            events,
            stop: watch_signals(leash),
            mutate,
            keep,
            repeat,
        }
    }
}

/// The first Ctrl-C (or SIGTERM) asks the drill to end; the second leaves at once.
fn watch_signals(leash: bool) -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = signal() => {}
            () = leash_let_go(), if leash => {}
        }
        output::story("interrupted: cleaning up, then telling what was learnt (again to leave at once)");
        let _ = sender.send(true);
        signal().await;
        output::story("left at once; the next start of redrill removes what remains");
        std::process::exit(130);
    });
    receiver
}

/// Comes to an end with standard input. A thread of its own: the runtime does not wait for it.
async fn leash_let_go() {
    let (sender, let_go) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = let_go.await;
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminated) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        result = tokio::signal::ctrl_c() => if result.is_err() { std::future::pending().await },
        _ = terminated.recv() => {}
    }
}

/// How long each stage took the last time this scenario was drilled to its end.
fn last_seconds(home: &Home, scenario: &str) -> BTreeMap<String, f64> {
    let mut runs = home.run_dirs();
    runs.retain(|run| run.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&format!("{scenario}-"))));
    let report = runs.iter().rev().find_map(|run| {
        let report: Report = serde_json::from_slice(&std::fs::read(run.join("report.json")).ok()?).ok()?;
        (report.scenario == scenario).then_some(report)
    });
    let stages = report.map(|report| report.stages).unwrap_or_default();
    let done = stages.into_iter().filter(|stage| stage.status == redrill_model::Status::Done);
    done.map(|stage| (stage.stage.name().to_owned(), stage.seconds)).collect()
}

/// What does not fit may name what is secret.
fn told(error: ScenarioError, redactor: &Redactor) -> ScenarioError {
    match error {
        ScenarioError::Mismatch { message, expected } => {
            ScenarioError::Mismatch { message: redactor.clean(&message), expected: redactor.clean(&expected) }
        }
        other => other,
    }
}

/// Looks at everything that the drill left, whoever wrote it; returns what could not be looked at.
fn clear_of_secrets(run: &Path, redactor: &Redactor) -> Result<Vec<String>, Failure> {
    let cleaned = redrill_engine::without_secrets(run, redactor);
    match cleaned.remains.first() {
        None => Ok(cleaned.unread.iter().map(|what| format!("secrets: not looked for in {what}")).collect()),
        Some(what) => {
            let what = redactor.clean(what);
            Err(Failure::plain(&format!("a secret of the keys may remain in the run directory: {what}")))
        }
    }
}

/// The report with every secret blanked out, wherever it stands: names of operations hold them too. One that cannot be
/// cleaned is not shown.
fn without_secrets(mut report: Report, redactor: &Redactor) -> Result<Report, Failure> {
    let failed = |error: serde_json::Error| Failure::unknown("the report cannot be cleaned of secrets", &error);
    let left_out = redactor.left_out();
    let told = left_out.iter().take(MOST_REMARKS).map(|what| format!("secrets: of the keys, {what}"));
    report.remarks.extend(told);
    if left_out.len() > MOST_REMARKS {
        report.remarks.push(format!("secrets: and {} more of this kind", left_out.len() - MOST_REMARKS));
    }
    // Where the evidence lies, and what repeats the drill, its reader knows and needs: whatever word of it is a secret too.
    let (run_dir, repeat) = (report.run_dir.clone(), report.repeat.clone());
    let mut value = serde_json::to_value(&report).map_err(failed)?;
    redactor.clean_json(&mut value);
    if redactor.finds_in_json(&value) {
        return Err(Failure::plain("a secret of the keys remains in the report: it is not shown"));
    }
    steer_nothing(&mut value);
    let report: Report = serde_json::from_value(value).map_err(failed)?;
    Ok(Report { run_dir, repeat, ..report })
}

/// Takes out of every text what would steer a terminal: names of operations are the repo's.
fn steer_nothing(value: &mut serde_json::Value) {
    use serde_json::Value;
    let steers = |letter: char| letter.is_control() && !matches!(letter, '\t' | '\n');
    match value {
        Value::String(text) if text.contains(steers) => *text = text.replace(steers, "\u{fffd}"),
        Value::Array(values) => values.iter_mut().for_each(steer_nothing),
        Value::Object(values) => values.values_mut().for_each(steer_nothing),
        _ => {}
    }
}

/// Remarks about keys beyond these are counted.
const MOST_REMARKS: usize = 10;

/// Writes the report in both forms.
fn write(report: &Report, run_dir: &Path) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report).map_err(|e| Failure::unknown("cannot write the report", &e))?;
    for (name, content) in [("report.json", json), ("report.txt", output::report_text(report))] {
        let written = std::fs::write(run_dir.join(name), content + "\n");
        written.map_err(|error| Failure::unknown("cannot write the report", &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn parsed(words: &[String]) -> Args {
        CommandLine::try_parse_from(words).expect("a command line").args
    }

    #[test]
    fn the_command_that_repeats_a_drill_has_every_option_that_decides_what_is_drilled() {
        let given = ["run", "my drills/web", "--backend", "qemu", "--fresh", "--jobs", "3", "--mutate", "--keep", "-q"];
        let args = parsed(&given.map(str::to_owned));
        let line = args.options.onto(Repeat::of("run", &args.scenario)).to_string();
        let words = shlex::split(&line).expect("a line of a shell");
        assert_eq!(words[..2], ["redrill", "run"]);
        let again = parsed(&words[1..]);
        assert_eq!(again.scenario, args.scenario);
        let told = DrillOptions { keep: false, quiet: false, ..args.options };
        assert_eq!(format!("{:?}", again.options), format!("{told:?}"));
    }
}

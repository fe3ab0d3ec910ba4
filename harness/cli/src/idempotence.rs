//! `redrill idempotence`: the check before a merge, without a scenario.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use redrill_engine::{Loaded, RepoHost, Survey, SurveyError, Workplace, survey, touched};
use redrill_machines::RunDir;
use redrill_machines::process::Guard;
use redrill_model::Tool;

use crate::output::{self, Failure};
use crate::repeat::Repeat;
use crate::{Ended, home, program, run};

/// Deploy a servers repo twice into clean machines, and say whether the second deploy changed anything.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill idempotence ~/servers                     tool, script and inventory are found by their usual names
  redrill idempotence ~/servers --since main        only the hosts that the change since then may touch
  redrill idempotence deploy.py --inventory hosts.py --keys ../keys
  redrill idempotence . --tool shell --on machine    install.sh runs on each server, as root
  redrill idempotence . --host web.example.org --backend container

What is committed is deployed. Every host of the inventory gets a machine of its own; none is reached for real.")]
pub(crate) struct Args {
    /// The servers repo, or the deploy's own file in it.
    #[arg(default_value = ".")]
    path: PathBuf,
    /// The inventory, relative to the repo.
    #[arg(long)]
    inventory: Option<PathBuf>,
    /// The deploy tool: pyinfra, ansible or shell.
    #[arg(long)]
    tool: Option<String>,
    /// Where a shell script runs: machine (on each one, as root) or controller (once; it reaches them by SSH).
    #[arg(long, value_parser = ["machine", "controller"])]
    on: Option<String>,
    /// Directory of the keys, laid beside the checkout as `keys`.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// The commit to deploy.
    #[arg(long, default_value = "HEAD")]
    commit: String,
    /// Only the hosts that files changed since this commit may touch.
    #[arg(long, value_name = "REV", conflicts_with = "host")]
    since: Option<String>,
    /// Only this host; may be given several times.
    #[arg(long)]
    host: Vec<String>,
    /// What the machines are made of: a directory below `images`, or one of redrill's own.
    #[arg(long, default_value = "debian-13")]
    image: String,
    /// Memory of each machine.
    #[arg(long, default_value_t = MEMORY_MIB)]
    memory_mib: u64,
    #[command(flatten)]
    options: run::DrillOptions,
}

/// Of each machine, where nobody says otherwise.
const MEMORY_MIB: u64 = 1024;

pub(crate) async fn exec(args: Args) -> Ended {
    if args.options.mutates() {
        return Err(Failure::Usage {
            message: "`--mutate` plants faults into what was restored, and nothing is restored here".to_owned(),
            expected: Some("`redrill run SCENARIO --mutate`, of a scenario that claims `restores`".to_owned()),
        });
    }
    output::swept(&redrill_engine::sweep_home(&home()));
    let place = RepoPlace::of(&args)?;
    let surveyed = look(&args, &place).await?;
    let chosen = match choose(&args, &surveyed) {
        HostChoice::Hosts(hosts) => hosts,
        HostChoice::None(why) => {
            output::result_line(&why);
            return Ok(0);
        }
    };
    let loaded = place.loaded(&args, &surveyed, &chosen)?;
    run::run(loaded, args.options.clone(), place.repeat(&args)).await
}

/// The repo, and the deploy's file if one was named.
struct RepoPlace {
    repo: PathBuf,
    script: Option<PathBuf>,
}

impl RepoPlace {
    fn of(args: &Args) -> Result<Self, Failure> {
        let path = args.path.canonicalize().map_err(|error| Failure::Usage {
            message: format!("cannot find `{}`: {error}", args.path.display()),
            expected: Some("a servers repo, or the deploy's file in it".to_owned()),
        })?;
        if path.is_dir() {
            return Ok(Self { repo: path, script: None });
        }
        let repo = path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { repo, script: path.file_name().map(PathBuf::from) })
    }

    fn name(&self) -> String {
        self.repo.file_name().map_or_else(|| "servers".to_owned(), |name| name.to_string_lossy().into_owned())
    }

    /// A scenario for these hosts.
    fn loaded(&self, args: &Args, survey: &Survey, hosts: &[String]) -> Result<Loaded, Failure> {
        let all = hosts.len() == survey.hosts.len();
        let limit = if all || survey.tool == Tool::Shell { &[][..] } else { hosts };
        let text = self.scenario(args, hosts, limit)?;
        Ok(Loaded::from_text(&self.name(), &self.repo, &text, &home().cache)?)
    }

    /// `scenario.toml` as one would write it.
    fn scenario(&self, args: &Args, hosts: &[String], limit: &[String]) -> Result<String, Failure> {
        let quoted = |text: &str| serde_json::to_string(text).expect("text");
        let path = |path: &Path| quoted(&path.to_string_lossy());
        let mut text = format!(
            "summary = \"{}, deployed twice without a scenario\"\nclaims = [\"rebuilds\", \"idempotent\"]\n\n\
             [servers]\npath = {}\ncommit = {}\n",
            self.name().replace(['"', '\\'], " "),
            path(&self.repo),
            quoted(&args.commit)
        );
        if let Some(keys) = &args.keys {
            let keys = keys.canonicalize().map_err(|error| Failure::Usage {
                message: format!("cannot find the keys `{}`: {error}", keys.display()),
                expected: Some("a directory".to_owned()),
            })?;
            let _ = write!(text, "\n[keys]\npath = {}\n", path(&keys));
        }
        text.push_str("\n[deploy]\n");
        for (key, value) in [("inventory", &args.inventory), ("script", &self.script)] {
            if let Some(value) = value {
                let _ = writeln!(text, "{key} = {}", path(value));
            }
        }
        if let Some(tool) = &args.tool {
            let _ = writeln!(text, "tool = {}", quoted(tool));
        }
        if let Some(on) = &args.on {
            let _ = writeln!(text, "on = {}", quoted(on));
        }
        if !limit.is_empty() {
            let _ =
                writeln!(text, "limit = [{}]", limit.iter().map(|host| quoted(host)).collect::<Vec<_>>().join(", "));
        }
        for host in hosts {
            let (name, image) = (quoted(host), quoted(&args.image));
            let _ = write!(text, "\n[[machine]]\nname = {name}\nimage = {image}\nmemory-mib = {}\n", args.memory_mib);
        }
        Ok(text)
    }

    fn repeat(&self, args: &Args) -> Repeat {
        let repeat = Repeat::of("idempotence", &args.path)
            .path("--inventory", args.inventory.as_deref())
            .option("--tool", args.tool.as_ref())
            .option("--on", args.on.as_ref())
            .path("--keys", args.keys.as_deref())
            .option("--since", args.since.as_ref())
            .option("--commit", (args.commit != "HEAD").then_some(&args.commit))
            .option("--image", (args.image != "debian-13").then_some(&args.image))
            .option("--memory-mib", (args.memory_mib != MEMORY_MIB).then_some(args.memory_mib));
        args.host.iter().fold(repeat, |repeat, host| repeat.option("--host", Some(host)))
    }
}

/// Asks the repo for its hosts, in a directory that is gone afterwards.
async fn look(args: &Args, place: &RepoPlace) -> Result<Survey, Failure> {
    // A name that stands for all hosts: only a shell script without an inventory takes it for one.
    let names = if args.host.is_empty() { vec!["machine".to_owned()] } else { args.host.clone() };
    let loaded = Loaded::from_text(&place.name(), &place.repo, &place.scenario(args, &names, &[])?, &home().cache)?;
    let home = home();
    let run_dir = RunDir::create(&home, &format!("{}-survey", place.name()), SystemTime::now())
        .map_err(|error| Failure::unknown("cannot make a run directory", &error))?;
    let guard = Guard::new(program()?, run_dir.path().to_owned());
    let progress: Arc<dyn Fn(&str) + Send + Sync> =
        if args.options.quiet() { Arc::new(|_| ()) } else { Arc::new(|text: &str| output::story(text)) };
    let surveyed = survey(&loaded, args.since.as_deref(), &Workplace { home, guard, progress }).await;
    let path = run_dir.path().to_owned();
    run_dir.close();
    let _ = std::fs::remove_dir_all(path);
    surveyed.map_err(|error| match error {
        SurveyError::Scenario(error) => error.into(),
        error @ SurveyError::Unknown(_) => Failure::unknown("no host can be named", &error),
    })
}

enum HostChoice {
    Hosts(Vec<String>),
    /// None, and why.
    None(String),
}

fn choose(args: &Args, survey: &Survey) -> HostChoice {
    let all = || survey.hosts.iter().map(|host: &RepoHost| host.name.clone()).collect::<Vec<_>>();
    let Some(since) = &args.since else {
        return HostChoice::Hosts(if args.host.is_empty() { all() } else { args.host.clone() });
    };
    let touched = touched(&survey.changed, &survey.hosts);
    if touched.is_empty() {
        let files = survey.changed.len();
        return HostChoice::None(format!(
            "Nothing was looked at: of {files} files changed since {since} none concerns a host. No claim was made."
        ));
    }
    for (host, file) in &touched {
        output::story(&format!("{host}: {file} changed since {since}"));
    }
    if survey.tool == Tool::Shell {
        output::story("a shell script deploys to all hosts: all of them are looked at");
        return HostChoice::Hosts(all());
    }
    HostChoice::Hosts(touched.into_iter().map(|(host, _)| host).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use redrill_model::Scenario;

    use super::*;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        CommandLine::try_parse_from([&["x"], words].concat()).expect("a valid line").args
    }

    #[test]
    fn a_scenario_is_written_for_every_host() {
        let place = RepoPlace { repo: PathBuf::from("/srv/our \"servers\""), script: Some("deploy.py".into()) };
        let hosts = ["web".to_owned(), "db".to_owned()];
        let text = place.scenario(&args(&["--inventory", "hosts.py", "--image", "debian-12"]), &hosts, &hosts[..1]);
        let scenario = Scenario::parse(&text.expect("written")).expect("valid");
        assert_eq!(scenario.machines.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["web", "db"]);
        assert_eq!(scenario.machines[0].image.get_ref(), "debian-12");
        assert_eq!(
            (scenario.deploy.limit, scenario.deploy.inventory),
            (vec!["web".to_owned()], Some("hosts.py".into()))
        );
        assert_eq!(scenario.servers.path, PathBuf::from("/srv/our \"servers\""));
    }

    #[test]
    fn only_touched_hosts_are_looked_at() {
        let host = |name: &str| RepoHost { name: name.to_owned(), groups: Vec::new() };
        let survey = |changed: &[&str]| Survey {
            tool: Tool::Pyinfra,
            hosts: vec![host("web"), host("db")],
            changed: changed.iter().map(|file| (*file).to_owned()).collect(),
        };
        let chosen = |words: &[&str], changed: &[&str]| match choose(&args(words), &survey(changed)) {
            HostChoice::Hosts(hosts) => hosts.join(" "),
            HostChoice::None(why) => why,
        };
        assert_eq!(chosen(&[], &[]), "web db");
        assert_eq!(chosen(&["--host", "db"], &[]), "db");
        assert_eq!(chosen(&["--since", "main"], &["host_data/db.py"]), "db");
        assert_eq!(chosen(&["--since", "main"], &["deploy.py"]), "web db");
        assert!(chosen(&["--since", "main"], &["README.md"]).starts_with("Nothing was looked at"));
    }
}

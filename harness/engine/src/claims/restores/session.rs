//! One restore in progress: commands in the machine, timed by phase, and what they said.

use std::path::{Path, PathBuf};
use std::time::Instant;

use redrill_machines::process::Guard;
use redrill_machines::{Deadline, Exec, Machine, Output};
use redrill_model::{Backup, Code, Phase, Point, PointReport};

use super::faults;
use super::repository::{self, Contents, Source};
use crate::problem::Problem;

/// Secrets of a restore, in the machine: on a file system in memory that no capture holds.
const SECRETS: &str = "/run/redrill-restore";

/// What a restore needs, and what it leaves.
pub(crate) struct Session<'a, M> {
    pub(crate) machine: &'a M,
    pub(crate) backup: &'a Backup,
    pub(crate) source: &'a Source,
    pub(crate) contents: &'a Contents,
    /// The passphrase's file on the host.
    pub(crate) passphrase: Option<PathBuf>,
    /// A directory of the run for what only this restore needs.
    pub(crate) scratch: &'a Path,
    pub(crate) guard: &'a Guard,
    /// Picks a random point.
    pub(crate) seed: u64,
    pub(crate) deadline: Deadline,
    /// In order.
    pub(crate) phases: Vec<Phase>,
    /// Standard error of all that restored.
    pub(crate) said: String,
}

impl<M: Machine> Session<'_, M> {
    /// Runs a command in the machine as part of a phase. Anything but success is a fault.
    pub(crate) async fn run(&mut self, phase: &str, words: &[&str]) -> Result<Output, Problem> {
        let began = Instant::now();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let output = self.machine.exec(&Exec(words), b"", &self.deadline).await;
        self.took(phase, began);
        let output = output?;
        self.said.push_str(&output.stderr);
        self.succeeded(phase, output)
    }

    /// A line of bash, where a pipe fails as a whole.
    pub(crate) async fn pipe(&mut self, phase: &str, line: &str, arguments: &[&str]) -> Result<Output, Problem> {
        let words = [&["bash", "-o", "pipefail", "-c", line, "bash"], arguments].concat();
        self.run(phase, &words).await
    }

    /// Like [`Session::run`], with a program of the host.
    pub(crate) async fn run_on_host(
        &mut self,
        phase: &str,
        words: &[&str],
        env: &[(&str, &str)],
        to: Option<&Path>,
    ) -> Result<Output, Problem> {
        let began = Instant::now();
        let [program, arguments @ ..] = words else { return Err(Problem::new(Code::ToolMissing, "nothing to run")) };
        if !on_host(program) {
            let text = format!("neither the machine nor this host has `{program}`");
            return Err(Problem::new(Code::ToolMissing, text));
        }
        let mut command = self.guard.command(program);
        command.args(arguments).envs(env.iter().copied()).current_dir(self.scratch);
        let ran = async {
            match to {
                Some(file) => crate::process::output_to_file(self.guard, command, program, file).await,
                None => crate::process::output(self.guard, command, program).await,
            }
        };
        let output =
            self.deadline.limit(ran).await.map_err(|limit| Problem::new(Code::TimedOut, limit.to_string()))??;
        self.took(phase, began);
        let output = Output {
            status: output.status.code().unwrap_or(1),
            stdout: output.stdout,
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        self.said.push_str(&output.stderr);
        self.succeeded(phase, output)
    }

    fn succeeded(&self, phase: &str, output: Output) -> Result<Output, Problem> {
        match output.status {
            0 => Ok(output),
            _ => Err(faults::of_output(&self.backup.kind, &format!("`{phase}`"), &output)),
        }
    }

    pub(crate) fn took(&mut self, phase: &str, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        match self.phases.iter_mut().find(|known| known.name == phase) {
            Some(known) => known.seconds += seconds,
            None => self.phases.push(Phase { name: phase.to_owned(), seconds }),
        }
    }

    /// Whether the machine has a program.
    pub(crate) async fn has(&self, program: &str) -> Result<bool, Problem> {
        let line = Exec::new(["sh", "-c", "command -v \"$1\"", "sh", program]);
        Ok(self.machine.exec(&line, b"", &self.deadline).await?.status == 0)
    }

    /// The passphrase's file in the machine, written now; [`Session::forget_secrets`] removes it.
    pub(crate) async fn secret(&mut self) -> Result<Option<String>, Problem> {
        let Some(file) = &self.passphrase else { return Ok(None) };
        let secret = std::fs::read(file)
            .map_err(|error| Problem::new(Code::NoPassphrase, format!("cannot read `{}`: {error}", file.display())))?;
        let path = format!("{SECRETS}/{}.passphrase", self.backup.name);
        let line = "umask 077; mkdir -p \"$2\" && cat > \"$1\"";
        let words = Exec::new(["sh", "-c", line, "sh", &path, SECRETS]);
        let output = self.machine.exec(&words, &secret, &self.deadline).await?;
        self.succeeded("passphrase", output)?;
        Ok(Some(path))
    }

    pub(crate) async fn forget_secrets(&self) -> Result<(), Problem> {
        Ok(repository::shell(self.machine, "rm -rf \"$1\"", &[SECRETS], &self.deadline).await?)
    }

    /// Picks a point out of `(id, time)`, oldest first.
    pub(crate) fn choose(&self, points: &[(String, Option<String>)]) -> Result<PointReport, Problem> {
        choose(&self.backup.point, points, self.seed)
    }

    /// Paths that this restore fills.
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.backup.into.iter().filter_map(|target| target.path()).collect()
    }

    /// The repository as the machine sees it, or a file in it.
    pub(crate) fn at(&self, inner: &str) -> String {
        if inner.is_empty() { self.backup.at.clone() } else { format!("{}/{inner}", self.backup.at) }
    }
}

/// Whether a program is in the host's PATH.
pub(super) fn on_host(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn choose(point: &Point, points: &[(String, Option<String>)], seed: u64) -> Result<PointReport, Problem> {
    let Some(newest) = points.len().checked_sub(1) else { return Err(faults::no_points()) };
    let (at, seed) = match point {
        Point::Latest => (newest, None),
        Point::Named(name) => {
            let at = points.iter().rposition(|(id, _)| id == name || (name.len() >= 8 && id.starts_with(name)));
            let missing = || Problem::new(Code::NoPoint, format!("there is no point `{name}` in the repository"));
            (at.ok_or_else(missing)?, None)
        }
        // The only one is no older one, and better than none.
        Point::Random => {
            let older = u64::try_from(newest.max(1)).unwrap_or(1);
            (usize::try_from(seed % older).unwrap_or(0), Some(seed))
        }
    };
    let (id, time) = points[at].clone();
    Ok(PointReport { id, time, of: Some(points.len()), seed })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picked(point: Point, ids: &[&str], seed: u64) -> Result<String, Code> {
        let points: Vec<_> = ids.iter().map(|id| ((*id).to_owned(), None)).collect();
        choose(&point, &points, seed).map(|point| point.id).map_err(|fault| fault.code)
    }

    #[test]
    fn a_missing_program_of_the_host_is_noticed_before_it_is_started() {
        assert!(on_host("sh") && !on_host("redrill-no-such-program"));
    }

    #[test]
    fn a_point_is_the_newest_a_named_or_an_older_one() {
        let ids = ["monday", "tuesday", "wednesday"];
        assert_eq!(picked(Point::Latest, &ids, 0), Ok("wednesday".into()));
        assert_eq!(picked(Point::Named("tuesday".into()), &ids, 0), Ok("tuesday".into()));
        assert_eq!(picked(Point::Named("sunday".into()), &ids, 0), Err(Code::NoPoint));
        assert_eq!(picked(Point::Latest, &[], 0), Err(Code::NoPoints));
        let older: Vec<_> = (0..20).map(|seed| picked(Point::Random, &ids, seed).expect("picked")).collect();
        assert!(older.contains(&"monday".into()) && older.contains(&"tuesday".into()));
        assert!(!older.contains(&"wednesday".into()), "the newest is no older one");
        assert_eq!(picked(Point::Random, &["only"], 7), Ok("only".into()));
    }
}

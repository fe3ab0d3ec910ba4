//! What a machine was doing when it was given up: its screen, its processes and the end of its console, each with a
//! limit, taken before it is ended.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use crate::agent::Agent;
use crate::command::Exec;
use crate::deadline::Deadline;
use crate::error::MachineError;

/// Names in the machine's directory.
const SUMMARY: &str = "evidence.txt";
const PROCESSES: &str = "processes.txt";
const SCREEN: &str = "screen.png";
/// The longest that each may take: a watchdog waits for it.
const LIMIT: Duration = Duration::from_secs(5);
/// The most that is kept.
const PROCESSES_BYTES: usize = 64 * 1024;
const SCREEN_BYTES: u64 = 1 << 20;
const CONSOLE_BYTES: u64 = 4 << 20;

type Clean = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// The machines that run, as far as evidence goes. All clones are one list.
#[derive(Clone, Default)]
pub struct Witnesses(Arc<Mutex<List>>);

#[derive(Default)]
struct List {
    machines: Vec<Witness>,
    clean: Option<Clean>,
}

/// What can show a machine's screen.
pub(crate) trait Camera: Send + Sync {
    /// Writes a picture, as PNG, to this file of the machine's directory.
    fn picture<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<(), MachineError>>;
}

/// Where a machine's screen is looked at.
#[derive(Clone)]
pub(crate) enum Screen {
    /// By what shows it, for as long as that lives.
    Of(Weak<dyn Camera>),
    /// It has none, and why.
    None(&'static str),
}

#[derive(Clone)]
struct Witness {
    dir: PathBuf,
    console: &'static str,
    agent: Weak<Agent>,
    screen: Screen,
}

impl Witnesses {
    /// What takes secrets out of what machines say. Until it is known, commands are named and their arguments left out.
    pub fn clean_with(&self, clean: impl Fn(&str) -> String + Send + Sync + 'static) {
        self.locked().clean = Some(Arc::new(clean));
    }

    /// A machine whose files lie in `dir`, for as long as its agent lives.
    pub(crate) fn add(&self, dir: &Path, console: &'static str, agent: &Arc<Agent>, screen: Screen) {
        let witness = Witness { dir: dir.to_owned(), console, agent: Arc::downgrade(agent), screen };
        self.locked().machines.push(witness);
    }

    /// Takes evidence of every machine that runs.
    pub async fn take(&self) {
        self.take_of(|_| true).await;
    }

    /// Takes evidence of the machine whose files lie here.
    pub(crate) async fn take_in(&self, dir: &Path) {
        self.take_of(|witness| witness.dir == dir).await;
    }

    async fn take_of(&self, wanted: impl Fn(&Witness) -> bool) {
        let (machines, clean) = {
            let mut list = self.locked();
            list.machines.retain(|witness| witness.agent.strong_count() > 0);
            let machines: Vec<Witness> = list.machines.iter().filter(|witness| wanted(witness)).cloned().collect();
            (machines, list.clean.clone())
        };
        join_all(machines.iter().map(|witness| witness.take(clean.as_ref()))).await;
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Witnesses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.locked().machines.iter().map(|witness| &witness.dir)).finish()
    }
}

impl Witness {
    async fn take(&self, clean: Option<&Clean>) {
        let (screen, processes) = tokio::join!(self.screen(), self.processes(clean));
        let told = |outcome: Result<String, String>| outcome.unwrap_or_else(|why| format!("none: {why}"));
        let console = told(cap(&self.dir.join(self.console)).map_err(|error| error.to_string()).map(|bytes| {
            format!("{}, {bytes} bytes", self.console) // It goes on to grow.
        }));
        let text = format!("console    {console}\nscreen     {}\nprocesses  {}\n", told(screen), told(processes));
        // Evidence is welcome, and no reason to fail.
        let _ = std::fs::write(self.dir.join(SUMMARY), text);
    }

    async fn screen(&self) -> Result<String, String> {
        let camera = match &self.screen {
            Screen::None(why) => return Err((*why).to_owned()),
            Screen::Of(camera) => camera.upgrade().ok_or("the machine has ended")?,
        };
        let order = camera.picture(SCREEN);
        let dumped = tokio::time::timeout(LIMIT, order).await.map_err(|_| format!("no picture within {LIMIT:?}"))?;
        dumped.map_err(|error| error.to_string())?;
        let path = self.dir.join(SCREEN);
        let bytes = path.metadata().map_err(|error| error.to_string())?.len();
        if bytes > SCREEN_BYTES {
            let _ = std::fs::remove_file(path);
            return Err(format!("a picture of {bytes} bytes is not kept"));
        }
        Ok(format!("{SCREEN}, {bytes} bytes"))
    }

    async fn processes(&self, clean: Option<&Clean>) -> Result<String, String> {
        let agent = self.agent.upgrade().ok_or("the machine has ended")?;
        let doing = doing(clean.is_some());
        let limit = Deadline::root("evidence", LIMIT, 1.0);
        let asked = agent.exec(&Exec::new(["sh", "-c", &doing]), b"", &limit).await;
        let output = asked.map_err(|_| format!("the machine does not answer within {LIMIT:?}"))?;
        let kept = String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(PROCESSES_BYTES)]).into_owned();
        let text = clean.map_or(kept.clone(), |clean| clean(&kept));
        std::fs::write(self.dir.join(PROCESSES), &text).map_err(|error| error.to_string())?;
        Ok(format!("{PROCESSES}, {} bytes", text.len()))
    }
}

/// What tells of jobs and processes; not every machine has `ps`.
fn doing(arguments: bool) -> String {
    let (column, line) = match arguments {
        true => ("args", r#"$(tr '\0' ' ' < "$it/cmdline")"#),
        false => ("comm", r#"$(cat "$it/comm")"#),
    };
    format!(
        "systemctl list-jobs --no-pager; ps -eo pid,ppid,stat,etimes,wchan:20,{column} 2>/dev/null || \
         for it in /proc/[0-9]*; do echo \"${{it#/proc/}} {line}\"; done 2>/dev/null"
    )
}

/// Leaves of a console no more than its end; returns how long it is. Whoever writes it appends.
pub(crate) fn cap(console: &Path) -> io::Result<u64> {
    let mut file = std::fs::File::options().read(true).write(true).open(console)?;
    let length = file.metadata()?.len();
    if length <= CONSOLE_BYTES {
        return Ok(length);
    }
    file.seek(SeekFrom::Start(length - CONSOLE_BYTES))?;
    let mut end = Vec::new();
    (&file).take(CONSOLE_BYTES).read_to_end(&mut end)?;
    std::fs::write(console, &end)?;
    Ok(CONSOLE_BYTES)
}

#[cfg(test)]
mod tests {
    use redrill_wire::Frame;

    use super::*;
    use crate::agent::tests::with_machine;

    fn answers(frame: Frame) -> Vec<Frame> {
        match frame {
            Frame::Exec(channel, words) => {
                let said = format!("{} with a secret\n", words.join(" ")) + &"x".repeat(2 * PROCESSES_BYTES);
                let pieces = said.as_bytes().chunks(1 << 14).map(|piece| Frame::Output(channel, piece.to_vec()));
                pieces.chain([Frame::Exit(channel, 0)]).collect()
            }
            _ => Vec::new(),
        }
    }

    #[tokio::test]
    async fn evidence_is_taken_within_its_limits_and_without_secrets() {
        let place = tempfile::tempdir().expect("a directory");
        let read = |name: &str| std::fs::read_to_string(place.path().join(name)).expect("written");
        std::fs::write(place.path().join("console.log"), vec![b'x'; 5 << 20]).expect("written");
        let witnesses = Witnesses::default();
        let agent = with_machine(answers);
        witnesses.add(place.path(), "console.log", &agent, Screen::None("its console is the serial one"));
        witnesses.take().await;
        assert!(read(PROCESSES).contains(",comm "), "no arguments, since nobody knows the secrets");
        witnesses.clean_with(|text| text.replace("secret", "[redacted]"));
        witnesses.take().await;
        let processes = read(PROCESSES);
        assert!(processes.contains(",args ") && processes.contains("with a [redacted]\n"), "{}", &processes[..999]);
        assert_eq!(read("console.log").len() as u64, CONSOLE_BYTES);
        let expected = "console    console.log, 4194304 bytes\nscreen     none: its console is the serial one\n\
                        processes  processes.txt, 65540 bytes\n";
        assert_eq!(read(SUMMARY), expected);
    }

    #[tokio::test]
    async fn a_machine_that_says_nothing_holds_nobody_up_and_one_that_ended_is_not_asked() {
        let place = tempfile::tempdir().expect("a directory");
        let witnesses = Witnesses::default();
        let agent = with_machine(|_| Vec::new());
        witnesses.add(place.path(), "console.log", &agent, Screen::None("it has none"));
        witnesses.take_in(Path::new("/elsewhere")).await;
        assert!(!place.path().join(SUMMARY).exists());
        witnesses.take_in(place.path()).await;
        let text = std::fs::read_to_string(place.path().join(SUMMARY)).expect("written");
        assert!(text.contains("processes  none: the machine does not answer within 5s"), "{text}");
        std::fs::remove_file(place.path().join(SUMMARY)).expect("removed");
        drop(agent);
        witnesses.take().await;
        assert!(!place.path().join(SUMMARY).exists());
    }
}

//! A deploy tool as a process: what it prints, line by line as it comes, and how it ends.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use redrill_machines::{Deadline, MachineError};
use redrill_redact::Lines;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::Mutex;

use super::Span;
use super::transcript::Line;
use crate::controller::Controller;
use crate::events::{Event, Events};

/// How long a line is held back whose end may be the beginning of a secret: the rest of it may come in the next line.
const PATIENCE: Duration = Duration::from_secs(1);

/// What standard output is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stdout {
    /// A document for programs: kept, not shown.
    Document,
    /// Lines for people.
    Lines,
    /// The same, each with the machine's time before it, as `probe stamp` writes it.
    Stamped,
}

/// A process that came to its end.
#[derive(Debug, Default)]
pub(super) struct Finished {
    /// Absent if the time ran out and it was killed.
    pub(super) status: Option<ExitStatus>,
    /// Why it was killed.
    pub(super) late: Option<String>,
    /// The document on standard output.
    pub(super) document: String,
    /// The lines on standard output.
    pub(super) stdout: Vec<Line>,
    /// The lines on standard error.
    pub(super) stderr: Vec<Line>,
    pub(super) span: Span,
}

impl Finished {
    pub(super) fn exit(&self) -> Option<i32> {
        self.status.and_then(|status| status.code())
    }

    /// The signal that ended it: somebody's, or the kernel's when memory ran out. The guard tells it as shells do.
    pub(super) fn signal(&self) -> Option<i32> {
        self.exit().map(|exit| exit - 128).filter(|signal| (1..=64).contains(signal))
    }
}

/// Runs `command` to its end, or kills it at its deadline. Lines go to the events and to `LABEL.log` as they come.
pub(super) async fn run(
    controller: &Controller,
    mut command: Command,
    stdout: Stdout,
    log: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Finished, MachineError> {
    let name = controller.found.tool.name();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = now();
    let mut process = controller.spawn(&mut command, name)?;
    let (out, err) = (process.child().stdout.take(), process.child().stderr.take());
    let log = Mutex::new(File::options().create(true).append(true).open(log).await.ok());
    let both = async {
        match stdout {
            Stdout::Document => {
                let (document, stderr) = tokio::join!(collect(out), follow(err, false, &log, events));
                (document, Vec::new(), stderr)
            }
            Stdout::Lines => {
                let (stdout, stderr) = tokio::join!(follow(out, false, &log, events), follow(err, false, &log, events));
                (String::new(), stdout, stderr)
            }
            Stdout::Stamped => {
                let (stdout, stderr) = tokio::join!(follow(out, true, &log, events), follow(err, false, &log, events));
                (String::new(), stdout, stderr)
            }
        }
    };
    let Ok((document, stdout, stderr)) = deadline.limit(both).await else {
        let _ = process.kill().await; // The deadline is the answer; what the kill says changes nothing.
        let late = Some(format!("{}; it was killed", deadline.error()));
        return Ok(Finished { late, span: (began, now()), ..Finished::default() });
    };
    let status = process.wait().await.map_err(|source| MachineError::Spawn { program: name.to_owned(), source })?;
    if let Some(log) = log.lock().await.as_mut() {
        let _ = log.flush().await; // The events told it too.
    }
    Ok(Finished { status: Some(status), late: None, document, stdout, stderr, span: (began, now()) })
}

/// What a helper wrote, and a copy without secrets for the run directory.
pub(super) fn events_of(
    controller: &Controller,
    label: &str,
    log_dir: &Path,
    events: &Events,
) -> Result<String, MachineError> {
    // None at all is for the reader of the events to judge.
    let bytes = std::fs::read(controller.events_file(label)).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    keep(&log_dir.join(format!("{label}.events.jsonl")), &text, events)?;
    Ok(text)
}

/// Keeps something that the tool wrote, without secrets.
pub(super) fn keep(file: &Path, text: &str, events: &Events) -> Result<(), MachineError> {
    let written = std::fs::write(file, events.redactor().clean_document(text));
    written.map_err(|source| MachineError::Io { what: "cannot write the deploy's output".into(), source })
}

async fn collect(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A broken pipe ends the output: what is missing is noticed when it is parsed.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Passes every line on as it comes.
async fn follow(
    pipe: Option<impl AsyncRead + Unpin>,
    stamped: bool,
    log: &Mutex<Option<File>>,
    events: &Events,
) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut stamps = Vec::new();
    let Some(pipe) = pipe else { return lines };
    let mut segments = BufReader::new(pipe).split(b'\n');
    let mut clean = Lines::new(events.redactor());
    loop {
        let next = segments.next_segment();
        let patience = if clean.holds_back() { PATIENCE } else { Duration::MAX };
        let Ok(next) = tokio::time::timeout(patience, next).await else {
            tell(clean.flush(), log, events).await;
            continue;
        };
        let Ok(Some(segment)) = next else { break };
        let time = now();
        let text = String::from_utf8_lossy(&segment).trim_end().to_owned();
        let (stamp, raw) = if stamped { unstamp(text) } else { (None, text) };
        stamps.push(stamp);
        tell(clean.push(&raw), log, events).await;
        // Parsed as printed: a name with a secret in it must match in both streams. The report is cleaned as a whole.
        lines.push((time, raw));
    }
    tell(clean.flush(), log, events).await;
    in_time(lines, &stamps)
}

/// Writes lines without secrets down, and passes them on.
async fn tell(lines: Vec<String>, log: &Mutex<Option<File>>, events: &Events) {
    for line in lines {
        if let Some(log) = log.lock().await.as_mut() {
            let stamp = humantime::format_rfc3339_millis(SystemTime::now());
            let _ = log.write_all(format!("{stamp} {line}\n").as_bytes()).await; // The events tell it too.
        }
        events.send(Event::Output { text: line });
    }
}

/// A line and the time before it.
fn unstamp(text: String) -> (Option<i64>, String) {
    let stamp = text.split_once(' ').map_or(text.as_str(), |(stamp, _)| stamp).parse();
    match stamp {
        Ok(stamp) => (Some(stamp), text.split_once(' ').map(|(_, rest)| rest.to_owned()).unwrap_or_default()),
        Err(_) => (None, text),
    }
}

/// Puts lines at the time of their stamps. These are the machine's: how far its clock is behind ours is no more than
/// what the quickest line took.
fn in_time(lines: Vec<Line>, stamps: &[Option<i64>]) -> Vec<Line> {
    let Some(behind) = lines.iter().zip(stamps).filter_map(|((came, _), stamp)| Some(came - (*stamp)?)).min() else {
        return lines;
    };
    let told = lines.into_iter().zip(stamps);
    told.map(|((came, text), stamp)| (stamp.map_or(came, |stamp| stamp + behind), text)).collect()
}

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_tell_when_a_line_was_written_and_not_when_it_came() {
        let line = |text: &str| unstamp(text.to_owned());
        assert_eq!(line("17 redrill-op: a b"), (Some(17), "redrill-op: a b".to_owned()));
        assert_eq!((line("17"), line("no time")), ((Some(17), String::new()), (None, "no time".to_owned())));
        let lines = vec![(1000, "a".to_owned()), (1500, "b".to_owned()), (1501, "c".to_owned())];
        let seen = in_time(lines.clone(), &[Some(100), Some(110), Some(400)]);
        assert_eq!(seen.iter().map(|(time, _)| *time).collect::<Vec<_>>(), [1000, 1010, 1300], "`b` came late");
        assert_eq!(in_time(lines.clone(), &[None, None, None]), lines);
    }
}

//! A deploy tool as a process: what it prints, line by line as it comes, and how it ends.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use redrill_machines::{Deadline, MachineError, bounded};
use redrill_redact::Lines;
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::Mutex;

use super::Span;
use super::transcript::Line;
use crate::deploy::controller::{Controller, Sealed, lost};
use crate::events::{Event, Events};

/// The most that a tool may print, in the memory that its lines take; what it printed up to there is in its log. A larger
/// deploy than any that was seen, told in every detail, prints a tenth.
const LARGEST: usize = 128 << 20;
/// What a line takes beside its text.
const LINE: usize = 64;
/// Of a longer line there is the beginning.
const LONGEST_LINE: usize = 300 * 1000;

/// What a tool may still print.
type Budget = AtomicUsize;

/// It printed more.
struct TooMuch;

fn spend(budget: &Budget, bytes: usize) -> Result<(), TooMuch> {
    let rest = budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |rest| rest.checked_sub(bytes));
    rest.map(drop).map_err(|_| TooMuch)
}
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
    /// Absent if it was killed.
    pub(super) status: Option<ExitStatus>,
    /// Why it was killed: its time ran out, or it printed without an end.
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

/// Runs `command` to its end, or kills it at its deadline, or when it prints without an end. Lines go to the events and to `LABEL.log` as they come.
pub(super) async fn run(
    controller: &Controller,
    command: Sealed,
    stdout: Stdout,
    log: &Path,
    events: &Events,
    deadline: &Deadline,
) -> Result<Finished, MachineError> {
    let name = controller.found.tool.name();
    let (mut command, cell) = controller.seal(&command)?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let began = now();
    let mut process = controller.spawn(&mut command, name)?;
    let (out, err) = (process.child().stdout.take(), process.child().stderr.take());
    let log = Mutex::new(File::options().create(true).append(true).open(log).await.ok());
    let budget = Budget::new(LARGEST);
    let both = async {
        let stderr = follow(err, false, &log, events, &budget);
        let told = match stdout {
            Stdout::Document => {
                let (document, stderr) = tokio::try_join!(collect(out, &budget), stderr)?;
                (document, Vec::new(), stderr)
            }
            Stdout::Lines | Stdout::Stamped => {
                let stamped = stdout == Stdout::Stamped;
                let (stdout, stderr) = tokio::try_join!(follow(out, stamped, &log, events, &budget), stderr)?;
                (String::new(), stdout, stderr)
            }
        };
        Ok::<_, TooMuch>(told)
    };
    let late = match deadline.limit(both).await {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(TooMuch)) => Err(format!("it printed more than {} MiB; it was killed", LARGEST >> 20)),
        Err(limit) => Err(format!("{limit}; it was killed")),
    };
    let (document, stdout, stderr) = match late {
        Ok(told) => told,
        Err(late) => {
            let _ = process.kill().await; // Why it was killed is the answer; what the kill says changes nothing.
            return Ok(Finished { late: Some(late), span: (began, now()), ..Finished::default() });
        }
    };
    let status = process.wait().await.map_err(|source| MachineError::Spawn { program: name.to_owned(), source })?;
    if let Some(log) = log.lock().await.as_mut() {
        let _ = log.flush().await; // The events told it too.
    }
    // Where the sandbox was lost the program's status is not its own.
    let late = lost(&cell);
    Ok(Finished { status: Some(status), late, document, stdout, stderr, span: (began, now()) })
}

/// What a helper wrote, and a copy without secrets for the run directory.
pub(super) fn events_of(
    controller: &Controller,
    label: &str,
    log_dir: &Path,
    events: &Events,
) -> Result<String, MachineError> {
    // None at all is for the reader of the events to judge.
    let text = controller.events_told(label).unwrap_or_default();
    keep(&log_dir.join(format!("{label}.events.jsonl")), &text, events)?;
    Ok(text)
}

/// Keeps something that the tool wrote, without secrets.
pub(super) fn keep(file: &Path, text: &str, events: &Events) -> Result<(), MachineError> {
    let written = std::fs::write(file, events.redactor().clean_document(text));
    written.map_err(|source| MachineError::Io { what: "cannot write the deploy's output".into(), source })
}

/// A document whole: half of one would be misread.
async fn collect(pipe: Option<impl AsyncRead + Unpin>, budget: &Budget) -> Result<String, TooMuch> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        let mut buffer = vec![0; 64 * 1024];
        // A broken pipe ends the output: what is missing is noticed when it is parsed.
        while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
            spend(budget, length)?;
            bytes.extend_from_slice(&buffer[..length]);
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Passes every line on as it comes.
async fn follow(
    pipe: Option<impl AsyncRead + Unpin>,
    stamped: bool,
    log: &Mutex<Option<File>>,
    events: &Events,
    budget: &Budget,
) -> Result<Vec<Line>, TooMuch> {
    let mut lines = Vec::new();
    let mut stamps = Vec::new();
    let Some(pipe) = pipe else { return Ok(lines) };
    let mut pipe = BufReader::new(pipe);
    let mut clean = Lines::new(events.redactor());
    loop {
        // Not given up while it is waited for: half a line may have come.
        let next = next_line(&mut pipe);
        tokio::pin!(next);
        let text = loop {
            let patience = if clean.holds_back() { PATIENCE } else { Duration::MAX };
            match tokio::time::timeout(patience, &mut next).await {
                Ok(text) => break text,
                Err(_) => tell(clean.flush(), log, events).await,
            }
        };
        let Some(text) = text else { break };
        spend(budget, text.len() + LINE)?;
        let time = now();
        let (stamp, raw) = if stamped { unstamp(text) } else { (None, text) };
        stamps.push(stamp);
        tell(clean.push(&raw), log, events).await;
        // Parsed as printed: a name with a secret in it must match in both streams. The report is cleaned as a whole.
        lines.push((time, raw));
    }
    tell(clean.flush(), log, events).await;
    Ok(in_time(lines, &stamps))
}

/// A line that steers no terminal: what a deploy prints must not move the cursor, set titles or fill a clipboard.
fn plain(line: &str) -> String {
    let steers = |letter: char| letter.is_control() && letter != '\t';
    let line = anstream::adapter::strip_str(line).to_string();
    line.chars().map(|letter| if steers(letter) { char::REPLACEMENT_CHARACTER } else { letter }).collect()
}

/// Writes lines without secrets down, and passes them on.
async fn tell(lines: Vec<String>, log: &Mutex<Option<File>>, events: &Events) {
    for line in lines {
        if let Some(log) = log.lock().await.as_mut() {
            let stamp = humantime::format_rfc3339_millis(SystemTime::now());
            let _ = log.write_all(format!("{stamp} {line}\n").as_bytes()).await; // The events tell it too.
        }
        events.send(Event::Output { text: plain(&line) });
    }
}

/// The next line without its end; of one that is too long the beginning, and how much is missing. A broken pipe ends the
/// output: the exit status tells the rest.
async fn next_line(pipe: &mut (impl AsyncBufRead + Unpin)) -> Option<String> {
    let (mut kept, mut missing, mut any) = (Vec::new(), 0, false);
    loop {
        let read = pipe.fill_buf().await.unwrap_or_default();
        if read.is_empty() {
            break;
        }
        any = true;
        let end = read.iter().position(|byte| *byte == b'\n');
        let piece = &read[..end.unwrap_or(read.len())];
        let (keep, rest) = piece.split_at(piece.len().min(LONGEST_LINE - kept.len()));
        kept.extend_from_slice(keep);
        missing += rest.len() as u64;
        let used = piece.len() + usize::from(end.is_some());
        pipe.consume(used);
        if end.is_some() {
            break;
        }
    }
    let text = String::from_utf8_lossy(&kept);
    match missing {
        0 => any.then(|| text.trim_end().to_owned()),
        missing => Some(bounded::cut_line(&text, missing)),
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
    use std::sync::Arc;

    fn told() -> (Events, tokio::sync::mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        (Events::new(sender, Arc::new(crate::redact::Redactor::default())), receiver)
    }

    #[tokio::test]
    async fn of_a_very_long_line_there_is_the_beginning_and_the_next_one_is_whole() {
        let long = "x".repeat(2_000_000);
        let text = format!("first  \n{long}\r\n\nlast");
        let (events, mut receiver) = told();
        let budget = Budget::new(LARGEST);
        let log = Mutex::new(None);
        let lines = follow(Some(text.as_bytes()), false, &log, &events, &budget).await.ok().expect("not too much");
        let texts: Vec<&str> = lines.iter().map(|(_, text)| text.as_str()).collect();
        let cut = format!("{}[... 1,700,001 bytes of this line left out ...]", &long[..LONGEST_LINE]);
        assert_eq!(texts, ["first", &cut, "", "last"]);
        drop(events);
        let mut sent = Vec::new();
        while let Some(Event::Output { text }) = receiver.recv().await {
            sent.push(text);
        }
        assert_eq!(sent, texts);
    }

    #[tokio::test]
    async fn a_tool_that_prints_without_an_end_is_too_much() {
        let (events, receiver) = told();
        drop(receiver);
        let (budget, log) = (Budget::new(1_000_000), Mutex::new(None));
        let short_lines = tokio::io::repeat(b'\n');
        assert!(follow(Some(short_lines), false, &log, &events, &budget).await.is_err());
        let budget = Budget::new(1_000_000);
        assert!(collect(Some(tokio::io::repeat(b'y')), &budget).await.is_err());
        assert_eq!(collect(Some(&b"whole"[..]), &Budget::new(5)).await.ok().as_deref(), Some("whole"));
        assert!(collect(Some(&b"whole"[..]), &Budget::new(4)).await.is_err());
    }

    #[tokio::test]
    async fn one_line_without_an_end_takes_no_memory() {
        use crate::process::tests::peak_mib;
        let before = peak_mib();
        let mut endless = BufReader::new(tokio::io::repeat(b'y').take(1_500_000_000));
        let line = next_line(&mut endless).await.expect("a line");
        let peak = peak_mib();
        assert!(line.ends_with("[... 1,499,700,000 bytes of this line left out ...]"));
        assert!(peak < before.max(32) + 50, "the peak was {before} MiB before, and {peak} MiB with it");
    }

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

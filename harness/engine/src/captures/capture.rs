//! Takes captures of machines, and reads them back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use redrill_machines::{Deadline, Exec, Machine, MachineError, PROBE};
use redrill_model::{Code, Moment};
use redrill_redact::{Redactor, Style};
use redrill_state::{Capture, CaptureError, Header, Reader, Record};
use serde_json::Value;
use thiserror::Error;

use crate::problem::Problem;

/// What the captures of a drill keep to themselves.
#[derive(Debug, Clone)]
pub(crate) struct Secrets {
    /// What secrets are told by: a digest under it.
    pub(crate) key: [u8; 32],
    /// Knows those of the keys.
    pub(crate) redactor: Arc<Redactor>,
}

impl Secrets {
    /// An entry without secrets of the keys, if it has any: each with a digest in its place, so that another secret is
    /// another entry. Names of files stay until the drill is over, since later captures build on them.
    fn clean(&self, line: &str) -> Option<String> {
        let clean = self.redactor.clean_json_line(line, Style::Keyed(&self.key))?;
        if line.starts_with("{\"same\"") || line.starts_with("{\"end\"") {
            return None;
        }
        if !line.starts_with("{\"file\"") {
            return Some(clean);
        }
        let parsed = |text: &str| serde_json::from_str::<Value>(text).ok();
        let (before, mut after) = (parsed(line)?, parsed(&clean)?);
        after["file"]["path"] = before["file"]["path"].clone();
        (after != before).then(|| after.to_string())
    }
}

/// Why there is no capture.
#[derive(Debug, Error)]
pub(crate) enum TakeError {
    #[error(transparent)]
    Machine(#[from] MachineError),
    #[error("the probe failed ({status}): {said}")]
    Probe { status: i32, said: String },
    #[error("the capture in `{path}` cannot be used")]
    Damaged {
        path: PathBuf,
        #[source]
        source: CaptureError,
    },
    #[error("the capture in `{path}` cannot be read")]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the capture cannot be written to `{path}`")]
    Unwritten {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl From<TakeError> for Problem {
    fn from(error: TakeError) -> Self {
        match error {
            // It passes for the machine's, with the end of its console.
            TakeError::Machine(error) => Self::of(Code::NoCapture, &error),
            other => Self::of(Code::NoCapture, &other),
        }
    }
}

/// A full file system is told as by whoever else meets one.
fn unwritten(path: &Path, source: io::Error) -> TakeError {
    match source.kind() {
        io::ErrorKind::StorageFull => {
            let (place, what) = (path.display().to_string(), "the capture".to_owned());
            TakeError::Machine(MachineError::DiskFull { place, what })
        }
        _ => TakeError::Unwritten { path: path.to_owned(), source },
    }
}

/// Where a machine's capture of this moment lies in the run directory.
pub(crate) fn path(captures: &Path, machine: &str, moment: Moment) -> PathBuf {
    captures.join(machine).join(format!("{}.jsonl.gz", moment.file_stem()))
}

/// Takes a capture, and reads it once to be sure that it is whole. Captures with the same key compare.
///
/// The probe need not tell again what an earlier capture in the same directory has; what is written to `to` is whole by
/// itself all the same.
pub(crate) async fn take<M: Machine>(
    machine: &M,
    secrets: &Secrets,
    to: &Path,
    deadline: &Deadline,
) -> Result<Capture, TakeError> {
    let (path, dir) = (to.to_owned(), to.parent().map(Path::to_owned).unwrap_or_default());
    std::fs::create_dir_all(&dir).map_err(|source| unwritten(&dir, source))?;
    let bases = blocking(move || Ok(bases(&dir))).await?;
    let mut command = Exec::new([PROBE, "capture", "--key"]);
    command.0.extend(bases.keys().map(|list| format!("--base={list}")));
    let came = to.with_extension("part");
    let output = machine.exec_to_file(&command, &secrets.key, &came, deadline).await?;
    if output.status != 0 {
        return Err(TakeError::Probe { status: output.status, said: output.stderr.trim().to_owned() });
    }
    let secrets = secrets.clone();
    blocking(move || settle(&came, &path, &bases, &secrets)).await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TakeError> + Send + 'static,
) -> Result<T, TakeError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(TakeError::Probe { status: 0, said: error.to_string() }))
}

/// The captures of a directory, by the list that each left in the machine.
fn bases(dir: &Path) -> BTreeMap<String, PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let files = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "gz"));
    // One that cannot be read is no base; whoever needs it says so.
    files.filter_map(|path| Some((header(&path).ok()?.list, path))).filter(|(list, _)| !list.is_empty()).collect()
}

fn header(path: &Path) -> io::Result<Header> {
    let mut line = String::new();
    BufReader::new(GzDecoder::new(File::open(path)?)).read_line(&mut line)?;
    match serde_json::from_str(&line)? {
        Record::Header(header) => Ok(header),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Reads what came, and leaves it whole and without secrets.
fn settle(came: &Path, to: &Path, bases: &BTreeMap<String, PathBuf>, secrets: &Secrets) -> Result<Capture, TakeError> {
    let (capture, changed) = read_with(came, bases, Some(secrets))?;
    let left = || {
        if changed {
            std::fs::write(came, packed(&capture)?)?;
        }
        std::fs::rename(came, to)
    };
    left().map_err(|source| unwritten(to, source))?;
    Ok(capture)
}

fn packed(capture: &Capture) -> io::Result<Vec<u8>> {
    let mut out = BufWriter::with_capacity(256 * 1024, GzEncoder::new(Vec::new(), Compression::fast()));
    for record in capture.records() {
        serde_json::to_writer(&mut out, &record)?;
        out.write_all(b"\n")?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.finish()
}

/// Reads a capture of an earlier stage.
pub(crate) fn read(path: &Path) -> Result<Capture, TakeError> {
    read_with(path, &BTreeMap::new(), None).map(|(capture, _)| capture)
}

/// Also tells whether it is another than what lies there: since that builds on another, or holds secrets.
fn read_with(
    path: &Path,
    bases: &BTreeMap<String, PathBuf>,
    secrets: Option<&Secrets>,
) -> Result<(Capture, bool), TakeError> {
    let unreadable = |source| TakeError::Unreadable { path: path.to_owned(), source };
    let damaged = |source| TakeError::Damaged { path: path.to_owned(), source };
    let mut lines = BufReader::new(GzDecoder::new(File::open(path).map_err(unreadable)?)).lines();
    let mut reader = Reader::default();
    if let Some(first) = lines.next() {
        reader.line(&first.map_err(unreadable)?).map_err(damaged)?;
    }
    let base = reader.builds_on().and_then(|base| bases.get(base));
    if let Some(base) = base {
        reader.base(read(base)?.files);
    }
    let mut changed = base.is_some();
    for line in lines {
        let line = line.map_err(unreadable)?;
        let clean = secrets.and_then(|secrets| secrets.clean(&line));
        changed |= clean.is_some();
        reader.line(clean.as_ref().unwrap_or(&line)).map_err(damaged)?;
    }
    Ok((reader.finish().map_err(damaged)?, changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = concat!(
        r#"{"header":{"form":4,"boot_id":"b","clock":5,"walked":["/"],"left_out":{}}}"#,
        "\n",
        r#"{"file":{"path":"/a","kind":"directory","mode":493,"uid":0,"gid":0,"ctime":1}}"#,
        "\n",
        r#"{"end":{"files":1}}"#,
        "\n"
    );

    fn nothing() -> Secrets {
        Secrets { key: [0; 32], redactor: Arc::default() }
    }

    fn written(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("redrill-capture-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(text.as_bytes()).expect("in memory");
        out.finish().expect("in memory")
    }

    #[test]
    fn a_capture_that_builds_on_another_is_left_whole() {
        let dir = std::env::temp_dir().join(format!("redrill-bases-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let (first, came, second) = (dir.join("s0.jsonl.gz"), dir.join("s1.jsonl.part"), dir.join("s1.jsonl.gz"));
        std::fs::write(&first, gzip(&LINES.replace(r#""form":4"#, r#""form":4,"list":"one""#))).expect("written");
        std::fs::write(dir.join("cut.jsonl.gz"), &gzip(LINES)[..10]).expect("written");
        let bases = bases(&dir);
        assert_eq!(bases, BTreeMap::from([("one".to_owned(), first.clone())]));
        let same = r#"{"same":{"from":"/a","to":"/a","count":1}}"#;
        let lines = LINES.replace(r#""form":4"#, r#""form":4,"list":"two","base":"one""#);
        let entry = lines.lines().nth(1).expect("a file").to_owned();
        std::fs::write(&came, gzip(&lines.replace(&entry, same))).expect("written");
        let capture = settle(&came, &second, &bases, &nothing()).expect("whole");
        assert_eq!(capture.files, read(&first).expect("whole").files);
        assert!(!came.exists());
        std::fs::remove_file(&first).expect("gone");
        assert_eq!(read(&second).expect("whole by itself"), capture);
        assert_eq!(header(&second).expect("has one").list, "two");
        // Where there is no room for the whole of it, that is told, and not that it cannot be read.
        std::fs::write(&first, gzip(&LINES.replace(r#""form":4"#, r#""form":4,"list":"one""#))).expect("written");
        let to = Path::new("/full/s1.jsonl.gz");
        let full = unwritten(to, io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.to_string(), "no space left on `/full/s1.jsonl.gz` for the capture");
        let read_only = unwritten(to, io::Error::from(io::ErrorKind::ReadOnlyFilesystem));
        assert_eq!(read_only.to_string(), "the capture cannot be written to `/full/s1.jsonl.gz`");
        std::fs::write(&came, gzip(&lines.replace(&entry, same))).expect("written");
        let nowhere = settle(&came, &dir.join("gone/s1.jsonl.gz"), &bases, &nothing()).expect_err("no such directory");
        assert!(matches!(nowhere, TakeError::Unwritten { .. }), "{nowhere:?}");
        // A base that nobody asked for, or that is not there any more, is no smaller machine.
        std::fs::write(&came, gzip(&lines.replace(&entry, same))).expect("written");
        let error = settle(&came, &second, &BTreeMap::new(), &nothing()).expect_err("no base");
        assert!(matches!(error, TakeError::Damaged { source: CaptureError::Base { .. }, .. }), "{error:?}");
        std::fs::remove_dir_all(dir).expect("cleaned up");
    }

    #[test]
    fn a_capture_keeps_no_secret_but_in_names_of_files_until_the_end() {
        let redactor = Redactor::builder().value("plantedPW-Zq81").value("otherPW-Bb22").build().expect("no patterns");
        let secrets = Secrets { key: [7; 32], redactor: Arc::new(redactor) };
        let user =
            |gecos: &str| {
                let lines = LINES.replace(r#"{"end":{"files":1}}"#, &format!(
                "{}\n{}",
                r#"{"user":{"name":"leaky","uid":1000,"gid":1000,"comment":"GECOS","home":"/","shell":"/bin/sh"}}"#,
                r#"{"end":{"files":1,"users":1}}"#
            ));
                lines.replace("GECOS", gecos).replace("\"/a\"", "\"/etc/plantedPW-Zq81\"")
            };
        let (came, to) = (written("secret", b""), written("secret-clean", b""));
        let settled = |gecos: &str| {
            std::fs::write(&came, gzip(&user(gecos))).expect("written");
            let capture = settle(&came, &to, &BTreeMap::new(), &secrets).expect("whole");
            assert_eq!(read(&to).expect("whole by itself"), capture, "what is judged is what lies there");
            capture
        };
        let (one, again, other) = (settled("g plantedPW-Zq81"), settled("g plantedPW-Zq81"), settled("g otherPW-Bb22"));
        let gecos = |capture: &Capture| format!("{:?}", capture.users["leaky"]);
        assert_eq!(gecos(&one), gecos(&again));
        assert_ne!(gecos(&one), gecos(&other), "another secret is a difference");
        assert!(gecos(&one).contains("g [redacted:") && !gecos(&other).contains("otherPW"), "{}", gecos(&one));
        assert_eq!(one.files.len(), 1);
        assert!(one.files.get("/etc/plantedPW-Zq81").is_some(), "later captures build on it");
        std::fs::remove_file(to).expect("cleaned up");
    }

    #[test]
    fn what_a_killed_probe_leaves_is_no_capture() {
        let whole = gzip(LINES);
        let path = written("whole", &whole);
        assert_eq!(read(&path).expect("whole").files.len(), 1);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            read(&path).expect_err("a part of a capture is none");
        }
        // Cut between two lines, and packed as if it were whole.
        for lines in 0..3 {
            let text: String = LINES.split_inclusive('\n').take(lines).collect();
            std::fs::write(&path, gzip(&text)).expect("written");
            let error = read(&path).expect_err("without its end it is none");
            assert!(matches!(error, TakeError::Damaged { source: CaptureError::Cut { .. }, .. }), "{error:?}");
        }
        std::fs::write(&path, gzip(&LINES.replace(r#""form":4"#, r#""form":99"#))).expect("written");
        let error = read(&path).expect_err("a form that nobody knows yet");
        assert!(matches!(error, TakeError::Damaged { source: CaptureError::Form { found: 99 }, .. }), "{error:?}");
        std::fs::remove_file(path).expect("cleaned up");
    }
}

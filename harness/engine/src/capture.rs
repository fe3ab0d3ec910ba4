//! Takes captures of machines, and reads them back.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use redrill_machines::{Deadline, Exec, Machine, MachineError, PROBE};
use redrill_model::Moment;
use redrill_state::{Capture, CaptureError, Reader};
use thiserror::Error;

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
}

/// Where a machine's capture of this moment lies in the run directory.
pub(crate) fn path(captures: &Path, machine: &str, moment: Moment) -> PathBuf {
    captures.join(machine).join(format!("{}.jsonl.gz", moment.file_stem()))
}

/// Takes a capture, and reads it once to be sure that it is whole. Captures with the same key compare.
pub(crate) async fn take<M: Machine>(
    machine: &M,
    key: &[u8; 32],
    to: &Path,
    deadline: &Deadline,
) -> Result<Capture, TakeError> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|source| TakeError::Unreadable { path: parent.to_owned(), source })?;
    }
    let output = machine.exec_to_file(&Exec::new([PROBE, "capture", "--key"]), key, to, deadline).await?;
    if output.status != 0 {
        return Err(TakeError::Probe { status: output.status, said: output.stderr.trim().to_owned() });
    }
    let path = to.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&path)).await;
    read.unwrap_or_else(|error| Err(TakeError::Probe { status: 0, said: error.to_string() }))
}

/// Reads a capture of an earlier stage.
pub(crate) fn read(path: &Path) -> Result<Capture, TakeError> {
    let unreadable = |source| TakeError::Unreadable { path: path.to_owned(), source };
    let damaged = |source| TakeError::Damaged { path: path.to_owned(), source };
    let lines = BufReader::new(GzDecoder::new(File::open(path).map_err(unreadable)?)).lines();
    let mut reader = Reader::default();
    for line in lines {
        reader.line(&line.map_err(unreadable)?).map_err(damaged)?;
    }
    reader.finish().map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const LINES: &str = concat!(
        r#"{"header":{"form":2,"boot_id":"b","clock":5,"walked":["/"],"left_out":{}}}"#,
        "\n",
        r#"{"file":{"path":"/a","kind":"directory","mode":493,"uid":0,"gid":0,"ctime":1}}"#,
        "\n",
        r#"{"end":{"files":1}}"#,
        "\n"
    );

    fn written(name: &str, bytes: &[u8]) -> PathBuf {
        let path = std::env::temp_dir().join(format!("redrill-capture-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).expect("written");
        path
    }

    fn packed(text: &str) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(text.as_bytes()).expect("in memory");
        out.finish().expect("in memory")
    }

    #[test]
    fn what_a_killed_probe_leaves_is_no_capture() {
        let whole = packed(LINES);
        let path = written("whole", &whole);
        assert_eq!(read(&path).expect("whole").files.len(), 1);
        for length in 0..whole.len() {
            std::fs::write(&path, &whole[..length]).expect("written");
            read(&path).expect_err("a part of a capture is none");
        }
        // Cut between two lines, and packed as if it were whole.
        for lines in 0..3 {
            let text: String = LINES.split_inclusive('\n').take(lines).collect();
            std::fs::write(&path, packed(&text)).expect("written");
            let error = read(&path).expect_err("without its end it is none");
            assert!(matches!(error, TakeError::Damaged { source: CaptureError::Cut { .. }, .. }), "{error:?}");
        }
        std::fs::write(&path, packed(&LINES.replace(r#""form":2"#, r#""form":3"#))).expect("written");
        let error = read(&path).expect_err("a form that nobody knows yet");
        assert!(matches!(error, TakeError::Damaged { source: CaptureError::Form { found: 3 }, .. }), "{error:?}");
        std::fs::remove_file(path).expect("cleaned up");
    }
}

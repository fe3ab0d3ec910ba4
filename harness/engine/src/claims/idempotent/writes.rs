//! Follows the files that the first deploy wrote while the second one runs: the probe records each state of theirs.

use redrill_machines::{Deadline, Exec, Machine, PROBE};
use redrill_state::{Capture, ChangeKind, Section, Seen, class_of, diff};
use serde::Deserialize;

/// Where the record lies in the machine: on a file system that no capture holds.
const RECORD: &str = "/run/redrill/record";
/// More directories than this are a tree that was unpacked, and not configuration.
const MOST: usize = 4000;
/// Starts the recorder and tells when it has looked at everything once: `$1` is the number of paths.
const START: &str = "cat > /run/redrill/paths; : > \"$2\"; \
    setsid \"$0\" record < /run/redrill/paths > \"$2\" 2> \"$2.errors\" & \
    pid=$!; wait_for=$1; i=0; \
    while [ $(wc -l < \"$2\") -lt $wait_for ] && [ $i -lt 600 ] && kill -0 $pid 2>/dev/null; do sleep 0.1; i=$((i + 1)); done; \
    echo $pid";
const STOP: &str = "kill \"$1\"; cat \"$2\"; rm -f \"$2\" \"$2.errors\" /run/redrill/paths";

/// The paths that the first deploy made or changed, without those that change by themselves or came with packages.
pub(crate) fn worth_watching(clean: &Capture, deployed: &Capture) -> Vec<String> {
    let changes = diff(clean, deployed).into_iter();
    let files = changes.filter(|change| change.section == Section::Files && change.kind != ChangeKind::Removed);
    files
        .map(|change| change.subject)
        .filter(|path| {
            !path.contains('\\')
                && class_of(path).is_none()
                && !crate::claims::idempotent::details::is_of_packages(path)
        })
        .take(MOST)
        .collect()
}

/// A recorder that runs in a machine.
pub(crate) struct Recorder {
    pid: String,
}

/// Starts one; `None` if it could not be started, which loses flip-flops and nothing else.
pub(crate) async fn start<M: Machine>(machine: &M, paths: &[String], deadline: &Deadline) -> Option<Recorder> {
    if paths.is_empty() {
        return None;
    }
    let list = serde_json::to_vec(paths).expect("text");
    let words = ["sh", "-c", START, PROBE, &paths.len().to_string(), RECORD];
    let output = machine.exec(&Exec::new(words), &list, deadline).await.ok()?;
    let pid = output.text().trim().to_owned();
    (output.status == 0 && pid.parse::<u32>().is_ok()).then_some(Recorder { pid })
}

/// Ends it, and returns what it saw.
pub(crate) async fn stop<M: Machine>(machine: &M, recorder: Recorder, deadline: &Deadline) -> Vec<Seen> {
    #[derive(Deserialize)]
    struct Line {
        t: i64,
        path: String,
        state: String,
    }
    let words = ["sh", "-c", STOP, "stop", &recorder.pid, RECORD];
    let Ok(output) = machine.exec(&Exec::new(words), b"", deadline).await else { return Vec::new() };
    let lines = output.text();
    let lines = lines.lines().filter_map(|line| serde_json::from_str::<Line>(line).ok());
    lines.map(|Line { t, path, state }| Seen { time: t, path, state }).collect()
}

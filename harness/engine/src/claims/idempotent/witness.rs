//! The third witness: who writes files in a machine, and what is run, while a deploy works.

use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, PROBE};
use redrill_state::Witnessed;

/// On a file system that no capture holds.
const PLACE: &str = "/run/redrill/witness";
/// Starts it, and waits until nothing escapes it.
const START: &str = "rm -rf \"$1\"; setsid \"$0\" witness \"$1\" > /dev/null 2> \"$1.errors\" < /dev/null & \
    pid=$!; i=0; \
    while [ ! -e \"$1/ready\" ] && [ $i -lt 600 ] && kill -0 $pid 2>/dev/null; do sleep 0.05; i=$((i + 1)); done; \
    [ -e \"$1/ready\" ] || { head -c 300 \"$1.errors\"; exit 1; }";
/// Ends it and prints what it saw. It looks for the word ten times a second.
const STOP: &str = "touch \"$1/stop\"; i=0; \
    while [ ! -e \"$1/seen\" ] && [ $i -lt 600 ]; do sleep 0.05; i=$((i + 1)); done; \
    cat \"$1/seen\" || head -c 300 \"$1.errors\" >&2; rm -rf \"$1\" \"$1.errors\"";
/// To start or to end it; a slow machine is given time.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts it. An error says why a machine has none, in words.
pub(crate) async fn start<M: Machine>(machine: &M, deadline: &Deadline) -> Result<(), String> {
    let limit = deadline.child("the witness of writers", PATIENCE);
    let started = machine.exec(&Exec::new(["sh", "-c", START, PROBE, PLACE]), b"", &limit).await;
    match started {
        Ok(output) if output.status == 0 => Ok(()),
        Ok(output) => Err(output.text().trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Ends it, and returns what it saw.
pub(crate) async fn stop<M: Machine>(machine: &M, deadline: &Deadline) -> Witnessed {
    let limit = deadline.child("the witness of writers", PATIENCE);
    let words = ["sh", "-c", STOP, "stop", PLACE];
    match machine.exec(&Exec::new(words), b"", &limit).await {
        Ok(output) => Witnessed::read(&output.text()),
        Err(error) => Witnessed::lost(error.to_string()),
    }
}

/// What a reader must know of what it did not see, in words for the report.
pub(crate) fn remarks(machine: &str, seen: &Witnessed) -> Vec<String> {
    let missed = seen.missed.iter().map(|why| format!("who writes on `{machine}` was not all seen: {why}"));
    let nobody: Vec<&str> = seen.of_nobody().map(|written| written.path.as_str()).collect();
    let untold = (!nobody.is_empty()).then(|| {
        let shown = nobody.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
        let more = if nobody.len() > SHOWN { ", ..." } else { "" };
        format!("of {} files on `{machine}` it could not be told who wrote them: {shown}{more}", nobody.len())
    });
    missed.chain(untold).collect()
}

/// Paths that a remark names.
const SHOWN: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_seen_is_said_and_a_whole_telling_says_nothing() {
        assert_eq!(remarks("web", &Witnessed::read("\"end\"")), [""; 0]);
        let cut = remarks("web", &Witnessed::read(""));
        assert_eq!(cut, ["who writes on `web` was not all seen: the telling breaks off"]);
        let line = |n: usize| {
            format!(
                r#"{{"written":{{"path":"/a{n}","by":"unknown","program":"","last":1,"began":1,"modified":true,"became":"new"}}}}"#
            )
        };
        let text: Vec<String> = (0..7).map(line).chain(["\"end\"".to_owned()]).collect();
        let said = remarks("web", &Witnessed::read(&text.join("\n")));
        assert_eq!(said, ["of 7 files on `web` it could not be told who wrote them: /a0, /a1, /a2, /a3, /a4, ..."]);
    }
}

//! Waits until a machine has come to rest after a deploy: a service that was just started opens its port when it is
//! ready, and a capture before that would take the port for the next deploy's doing.

use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, MachineError};

/// One question: systemd's jobs, listening TCP sockets, and the processors' time.
const ASK: &str = "systemctl list-jobs --no-legend --no-pager | wc -l; head -n 1 /proc/stat; \
                   cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == \"0A\" {print $2}' | sort";
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(700);
/// Something that keeps a machine busy for longer is its ordinary life, and the control measures that.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of all processors: a machine at rest stays far below, one that starts a service does not.
const BUSY: f64 = 0.3;

#[derive(Debug, PartialEq, Eq)]
struct Look {
    jobs: String,
    busy: u64,
    idle: u64,
    sockets: Vec<String>,
}

/// Returns once two looks agree and the machine was quiet between them, or patience ends; tells whether it came to rest.
pub(crate) async fn settle<M: Machine>(machine: &M, deadline: &Deadline) -> Result<bool, MachineError> {
    let patience = deadline.child("the machine's rest", PATIENCE);
    let mut before = look(machine, deadline).await?;
    while !patience.passed() {
        tokio::time::sleep(PAUSE).await;
        let after = look(machine, deadline).await?;
        if at_rest(&before, &after) {
            return Ok(true);
        }
        before = after;
    }
    Ok(false)
}

async fn look<M: Machine>(machine: &M, deadline: &Deadline) -> Result<Look, MachineError> {
    let limit = deadline.child("a look at the machine", Duration::from_secs(30));
    Ok(read(&machine.exec(&Exec::new(["sh", "-c", ASK]), b"", &limit).await?.text()))
}

fn read(text: &str) -> Look {
    let mut lines = text.lines();
    let jobs = lines.next().unwrap_or_default().trim().to_owned();
    // proc_stat(5): user nice system idle iowait irq softirq ...
    let times = lines.next().unwrap_or_default().split_whitespace().skip(1);
    let times: Vec<u64> = times.filter_map(|word| word.parse().ok()).collect();
    let idle = times.iter().skip(3).take(2).sum();
    let busy = times.iter().take(7).sum::<u64>().saturating_sub(idle);
    Look { jobs, busy, idle, sockets: lines.map(str::to_owned).collect() }
}

fn at_rest(before: &Look, after: &Look) -> bool {
    let (busy, idle) = (after.busy.saturating_sub(before.busy), after.idle.saturating_sub(before.idle));
    let quiet = (busy as f64) < BUSY * (busy + idle) as f64;
    after.jobs == "0" && before.sockets == after.sockets && quiet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(first: &str, second: &str) -> bool {
        at_rest(&read(first), &read(second))
    }

    #[test]
    fn rest_is_no_jobs_no_new_sockets_and_little_work() {
        let quiet = "0\ncpu  100 0 50 1000 10 0 0 0\n0:0016\n";
        assert!(looks(quiet, "0\ncpu  101 0 51 1100 10 0 0 0\n0:0016\n"));
        assert!(!looks(quiet, "1\ncpu  101 0 51 1100 10 0 0 0\n0:0016\n"), "a job");
        assert!(!looks(quiet, "0\ncpu  101 0 51 1100 10 0 0 0\n0:0016\n0:1F40\n"), "a new port");
        assert!(!looks(quiet, "0\ncpu  180 0 51 1020 10 0 0 0\n0:0016\n"), "busy");
        assert!(!looks(quiet, ""), "no answer is no rest");
    }
}

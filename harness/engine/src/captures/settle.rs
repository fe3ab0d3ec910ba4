//! Waits until a machine has come to rest after a deploy: a service that was just started opens its port when it is
//! ready, and a capture before that would take the port for the next deploy's doing.

use std::time::Duration;

use redrill_machines::{Deadline, Exec, Machine, MachineError};

/// One question: systemd's jobs, the time and the number of processors, the processors' time that this machine's own
/// processes took (proc_pid_stat(5), with their children that have ended; a container sees `/proc/stat` of its host,
/// where others work), and listening TCP sockets.
const ASK: &str = "systemctl list-jobs --no-legend --no-pager | wc -l; echo $(cut -d' ' -f1 /proc/uptime) $(nproc); \
                   cat /proc/[0-9]*/stat 2>/dev/null | sed 's/.*) //' | awk '{t += $12 + $13 + $14 + $15} END {print t + 0}'; \
                   cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '$4 == \"0A\" {print $2}' | sort";
/// Of the kernel's clock ticks; Linux has no other value for programs.
const TICKS: f64 = 100.0;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(700);
/// Something that keeps a machine busy for longer is its ordinary life, and the control measures that.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of all processors: a machine at rest stays far below, one that starts a service does not.
const BUSY: f64 = 0.3;

#[derive(Debug, PartialEq)]
struct Look {
    jobs: String,
    /// Seconds since the boot.
    uptime: f64,
    processors: f64,
    /// Seconds of processors.
    busy: f64,
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
    let mut numbers = lines.next().unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok());
    let (uptime, processors) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let busy = lines.next().and_then(|line| line.trim().parse::<f64>().ok()).unwrap_or_default() / TICKS;
    Look { jobs, uptime, processors, busy, sockets: lines.map(str::to_owned).collect() }
}

fn at_rest(before: &Look, after: &Look) -> bool {
    let time = (after.uptime - before.uptime) * after.processors;
    let quiet = time > 0.0 && after.busy - before.busy < BUSY * time;
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
        let quiet = "0\n100.00 2\n5000\n0:0016\n";
        assert!(looks(quiet, "0\n101.00 2\n5010\n0:0016\n"));
        assert!(looks(quiet, "0\n101.00 2\n4000\n0:0016\n"), "a process has ended, and its parent does not count it");
        assert!(!looks(quiet, "1\n101.00 2\n5010\n0:0016\n"), "a job");
        assert!(!looks(quiet, "0\n101.00 2\n5010\n0:0016\n0:1F40\n"), "a new port");
        assert!(!looks(quiet, "0\n101.00 2\n5100\n0:0016\n"), "busy");
        assert!(!looks(quiet, ""), "no answer is no rest");
    }
}

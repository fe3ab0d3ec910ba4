//! Programs of the host, run to their end.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use redrill_machines::MachineError;
use redrill_machines::bounded::{self, Bounded};
use redrill_machines::process::{Guard, Guarded};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Everything a guarded command printed, and how it ended. One that prints more than [`Bounded::LIMIT`] is killed (status
/// 137), and of its output there are the two ends.
pub(crate) async fn output(
    guard: &Guard,
    mut command: Command,
    name: &str,
) -> Result<std::process::Output, MachineError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = guard.spawn(&mut command, name)?;
    let (out, err) = (process.child().stdout.take(), process.child().stderr.take());
    let (mut stdout, mut stderr) = (Bounded::new(Bounded::LIMIT), Bounded::new(Bounded::LIMIT));
    let status = finish(&mut process, name, async {
        tokio::try_join!(fill(out, &mut stdout), fill(err, &mut stderr)).map(drop)
    });
    let status = status.await?;
    let stderr = with_reason(stderr, stdout.is_over());
    Ok(std::process::Output { status, stdout: stdout.into_bytes(), stderr })
}

/// It was more than anybody will read.
pub(crate) struct OutputTooLarge;

/// How it ended, once all is read; one that printed too much is ended.
async fn finish(
    process: &mut Guarded,
    name: &str,
    read: impl Future<Output = Result<(), OutputTooLarge>>,
) -> Result<ExitStatus, MachineError> {
    let failed = |source| MachineError::Spawn { program: name.to_owned(), source };
    if read.await.is_err() {
        process.kill().await.map_err(failed)?;
    }
    process.wait().await.map_err(failed)
}

/// Reads to the end, or until it is too much. A broken pipe ends the output: the exit status tells the rest.
async fn fill(pipe: Option<impl AsyncReadExt + Unpin>, to: &mut Bounded) -> Result<(), OutputTooLarge> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
        to.feed(&buffer[..length]);
        if to.is_over() {
            return Err(OutputTooLarge);
        }
    }
    Ok(())
}

/// Standard error, and why its writer was ended, if it was.
fn with_reason(stderr: Bounded, over: bool) -> Vec<u8> {
    let over = over || stderr.is_over();
    let mut text = stderr.into_bytes();
    if over {
        text.extend(bounded::killed(Bounded::LIMIT).bytes());
    }
    text
}

/// The same, with standard output in a file.
pub(crate) async fn output_to_file(
    guard: &Guard,
    mut command: Command,
    name: &str,
    to: &Path,
) -> Result<std::process::Output, MachineError> {
    let file = std::fs::File::create(to)
        .map_err(|source| MachineError::Io { what: format!("cannot write `{}`", to.display()), source })?;
    command.stdout(file).stderr(Stdio::piped());
    let mut process = guard.spawn(&mut command, name)?;
    let (err, mut stderr) = (process.child().stderr.take(), Bounded::new(Bounded::LIMIT));
    let status = finish(&mut process, name, fill(err, &mut stderr)).await?;
    Ok(std::process::Output { status, stdout: Vec::new(), stderr: with_reason(stderr, false) })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A guard that is a shell: it kills what it started when its leash is let go.
    pub(crate) fn guard(dir: &Path) -> Guard {
        let program = dir.join("guard");
        let script = "#!/bin/sh\nshift 2\nexec 3<&0\n\"$@\" < /dev/null 3<&- & child=$!\n\
                      (cat <&3 > /dev/null; kill -9 $child) > /dev/null 2>&1 3<&3 & leash=$!\n\
                      exec 2> /dev/null; wait $child; status=$?; kill $leash; exit $status\n";
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
        Guard::new(program, dir.to_owned())
    }

    /// The most memory that this process had since the last time, in MiB.
    pub(crate) fn peak_mib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        std::fs::write("/proc/self/clear_refs", "5").expect("reset");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    }

    #[tokio::test]
    async fn what_a_command_prints_and_how_it_ends_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let guard = guard(dir.path());
        let mut command = guard.command("sh");
        command.args(["-c", "echo out; echo err >&2; exit 3"]);
        let ended = output(&guard, command, "sh").await.expect("ran");
        assert_eq!(
            (ended.status.code(), ended.stdout.as_slice(), ended.stderr.as_slice()),
            (Some(3), &b"out\n"[..], &b"err\n"[..])
        );
    }

    #[tokio::test]
    async fn one_that_prints_a_gigabyte_and_a_half_is_killed_and_takes_little_memory() {
        let dir = tempfile::tempdir().expect("a directory");
        let guard = guard(dir.path());
        for stream in ["", " >&2"] {
            let mut command = guard.command("sh");
            command.args(["-c", &format!("yes | head -c 1500000000{stream}; sleep 1000")]);
            let before = peak_mib();
            let ended = output(&guard, command, "sh").await.expect("ran");
            let peak = peak_mib();
            assert_eq!(ended.status.code(), Some(137));
            let (said, stderr) = (ended.stdout.len() + ended.stderr.len(), String::from_utf8_lossy(&ended.stderr));
            assert!(stderr.ends_with("redrill: it was killed, since it printed more than 64 MiB\n"));
            assert!(said < 3 << 20, "{said}");
            let all = [ended.stdout.as_slice(), ended.stderr.as_slice()].concat();
            assert!(String::from_utf8_lossy(&all).contains(" bytes left out ...]"));
            assert!(peak < before.max(32) + 160, "the peak was {before} MiB before, and {peak} MiB with it");
        }
    }
}

//! Programs of the host, run to their end.

use std::path::Path;
use std::process::Stdio;

use redrill_machines::MachineError;
use redrill_machines::process::Guard;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Everything a guarded command printed, and how it ended.
pub(crate) async fn output(
    guard: &Guard,
    mut command: Command,
    name: &str,
) -> Result<std::process::Output, MachineError> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = guard.spawn(&mut command, name)?;
    let (stdout, stderr) = (process.child().stdout.take(), process.child().stderr.take());
    let (stdout, stderr) = tokio::join!(all(stdout), all(stderr));
    let status = process.wait().await.map_err(|source| MachineError::Spawn { program: name.to_owned(), source })?;
    Ok(std::process::Output { status, stdout, stderr })
}

async fn all(pipe: Option<impl AsyncReadExt + Unpin>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        // A broken pipe ends the output: the exit status tells the rest.
        let _ = pipe.read_to_end(&mut bytes).await;
    }
    bytes
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
    let stderr = all(process.child().stderr.take()).await;
    let status = process.wait().await.map_err(|source| MachineError::Spawn { program: name.to_owned(), source })?;
    Ok(std::process::Output { status, stdout: Vec::new(), stderr })
}

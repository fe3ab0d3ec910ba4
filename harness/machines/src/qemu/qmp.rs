//! QEMU's monitor protocol: one JSON object per line over a unix socket.
//!
//! Our own small client: the maintained crate either serialises commands or ends its stream at an event that it does
//! not know. This one keeps an id per command, ignores answers nobody waits for, and events it has no use for.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::oneshot;

use crate::error::MachineError;
use crate::evidence::Camera;

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>>;

/// A connection to one QEMU.
#[derive(Debug)]
pub(super) struct Monitor {
    writer: tokio::sync::Mutex<(OwnedWriteHalf, u64)>,
    waiting: Waiting,
    full: Arc<AtomicBool>,
    reader: tokio::task::JoinHandle<()>,
}

#[derive(Deserialize)]
struct Message {
    event: Option<String>,
    data: Option<Value>,
    id: Option<u64>,
    #[serde(rename = "return")]
    returned: Option<Value>,
    error: Option<QmpRefusal>,
}

#[derive(Deserialize)]
struct QmpRefusal {
    desc: String,
}

impl Message {
    fn is_out_of_space(&self) -> bool {
        let data = self.data.as_ref();
        self.event.as_deref() == Some("BLOCK_IO_ERROR") && data.is_some_and(|data| data["nospace"] == true)
    }
}

impl Monitor {
    /// Connects to `name` in `dir` and enters command mode.
    pub(crate) async fn open(dir: &Path, name: &str) -> Result<Self, MachineError> {
        // A socket's path has at most 107 bytes, a run directory may have more: go by way of the open directory.
        let directory = std::fs::File::open(dir).map_err(MachineError::io("cannot open the machine's directory"))?;
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(MachineError::io("cannot reach QEMU's monitor"))?;
        let monitor = Self::over(stream);
        monitor.execute("qmp_capabilities", Value::Null).await?;
        Ok(monitor)
    }

    fn over(stream: UnixStream) -> Self {
        let (reading, writing) = stream.into_split();
        let waiting = Waiting::default();
        let answers = Arc::clone(&waiting);
        let full = Arc::<AtomicBool>::default();
        let told = Arc::clone(&full);
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(reading).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(message) = serde_json::from_str::<Message>(&line) else { continue };
                if message.is_out_of_space() {
                    told.store(true, Ordering::Relaxed);
                }
                let Message { id: Some(id), returned, error, .. } = message else { continue };
                let waiter = answers.lock().expect("no panic while it is held").remove(&id);
                if let Some(waiter) = waiter {
                    let answer = error.map_or(Ok(returned.unwrap_or_default()), |refusal| Err(refusal.desc));
                    let _ = waiter.send(answer); // Whoever asked may have given up.
                }
            }
            // The end of the stream: everyone who waits learns it by the dropped sender.
            answers.lock().expect("no panic while it is held").clear();
        });
        Self { writer: tokio::sync::Mutex::new((writing, 0)), waiting, full, reader }
    }

    /// Whether QEMU has stopped the machine, since a write to its disk found no space on the host.
    pub(crate) fn out_of_space(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Runs one command.
    pub(crate) async fn execute(&self, command: &str, arguments: Value) -> Result<Value, MachineError> {
        let (sender, answer) = oneshot::channel();
        {
            let mut writer = self.writer.lock().await;
            writer.1 += 1;
            let id = writer.1;
            self.waiting.lock().expect("no panic while it is held").insert(id, sender);
            let mut message = json!({ "execute": command, "id": id });
            if !arguments.is_null() {
                message["arguments"] = arguments;
            }
            let line = format!("{message}\n");
            writer.0.write_all(line.as_bytes()).await.map_err(|e| MachineError::Monitor(format!("{command}: {e}")))?;
        }
        match answer.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(refusal)) => Err(MachineError::Monitor(format!("{command}: {refusal}"))),
            Err(_) => Err(MachineError::Monitor(format!("{command}: QEMU closed the connection"))),
        }
    }

    /// Runs a command of the human monitor, for what the protocol proper does not offer.
    pub(crate) async fn human(&self, line: &str) -> Result<String, MachineError> {
        let answer = self.execute("human-monitor-command", json!({ "command-line": line })).await?;
        Ok(answer.as_str().unwrap_or_default().to_owned())
    }
}

impl Camera for Monitor {
    /// The file's name is as QEMU sees it, which works in the machine's directory.
    fn picture<'a>(&'a self, file: &'a str) -> BoxFuture<'a, Result<(), MachineError>> {
        let arguments = json!({ "filename": file, "format": "png" });
        Box::pin(async move { self.execute("screendump", arguments).await.map(drop) })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn with_server(answers: &'static [&'static str]) -> (Monitor, tokio::task::JoinHandle<Vec<String>>) {
        let (client, server) = UnixStream::pair().expect("a pair");
        let task = tokio::spawn(async move {
            let (reading, mut writing) = server.into_split();
            let mut lines = BufReader::new(reading).lines();
            let mut asked = Vec::new();
            for answer in answers {
                asked.push(lines.next_line().await.expect("readable").expect("a command"));
                writing.write_all(answer.as_bytes()).await.expect("written");
            }
            asked
        });
        (Monitor::over(client), task)
    }

    #[tokio::test]
    async fn events_and_strange_lines_do_not_disturb() {
        let (monitor, server) = with_server(&[
            "{\"event\": \"RTC_CHANGE\", \"data\": {}}\nnonsense\n{\"id\": 99, \"return\": {}}\n{\"id\": 1, \"return\": {\"status\": \"running\"}}\n",
            "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"no such thing\"}}\n",
        ])
        .await;
        let status = monitor.execute("query-status", Value::Null).await.expect("answered");
        assert_eq!(status["status"], "running");
        let error = monitor.human("info nothing").await.expect_err("refused");
        assert!(error.to_string().contains("no such thing"), "{error}");
        let asked = server.await.expect("served");
        assert_eq!(asked[0], r#"{"execute":"query-status","id":1}"#);
        assert!(asked[1].contains(r#""command-line":"info nothing""#), "{}", asked[1]);
    }

    #[tokio::test]
    async fn a_machine_that_was_stopped_for_want_of_space_is_told() {
        // As QEMU 10.0.2 tells it.
        let (monitor, _server) = with_server(&[
            "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"nospace\": false, \"action\": \"report\"}}\n{\"id\": 1, \"return\": {}}\n",
            "{\"event\": \"BLOCK_IO_ERROR\", \"data\": {\"device\": \"disk\", \"nospace\": true, \"action\": \"stop\", \
             \"reason\": \"No space left on device\"}}\n{\"id\": 2, \"return\": {}}\n",
        ])
        .await;
        monitor.execute("query-status", Value::Null).await.expect("answered");
        assert!(!monitor.out_of_space(), "another error, which the machine was told");
        monitor.execute("query-status", Value::Null).await.expect("answered");
        assert!(monitor.out_of_space());
    }

    #[tokio::test]
    async fn the_end_of_qemu_ends_the_wait() {
        let (monitor, _) = with_server(&[""]).await;
        let error = monitor.execute("query-status", Value::Null).await.expect_err("closed");
        assert!(error.to_string().contains("closed the connection"), "{error}");
    }
}

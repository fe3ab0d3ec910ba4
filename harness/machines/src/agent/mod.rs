//! The harness's side of the agent that runs in a machine: commands over a virtio-serial port, without network or SSH.

mod pump;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use futures_util::future::BoxFuture;
use redrill_wire::Frame;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bounded::{self, Bounded};
use crate::command::{Commands, Exec, Output, PROBE};
use crate::deadline::{Deadline, TimedOut};
use crate::error::MachineError;
use pump::{Asked, Channels, Heard};

/// What goes into one frame.
const PIECE: usize = 32 * 1024;
/// The probe's documents are needed whole: a manifest of ten million rows is smaller.
const LARGEST_DOCUMENT: usize = 256 << 20;
/// A capture is compressed: one of a hundred million files is smaller.
const LARGEST_FILE: u64 = 4 << 30;
/// How a shell tells that a command was killed.
const KILLED: i32 = 137;
/// An agent that begins anew after a reboot has not heard the question of before.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A conversation with one machine's agent.
#[derive(Debug)]
pub(crate) struct Agent {
    machine: String,
    out: mpsc::UnboundedSender<Vec<u8>>,
    channels: Channels,
    ready: watch::Receiver<Option<(u64, String)>>,
    asked: Asked,
    next: AtomicU32,
    tasks: [JoinHandle<()>; 2],
}

impl Agent {
    /// Connects to the socket `name` in `dir`, on whose other side QEMU has the machine's port. Nothing is asked yet.
    pub(crate) async fn connect(machine: &str, dir: &Path, name: &str) -> Result<Self, MachineError> {
        // A socket's path has at most 107 bytes, a run directory may have more: go by way of the open directory.
        let directory = std::fs::File::open(dir).map_err(MachineError::io("cannot open the machine's directory"))?;
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        let stream = UnixStream::connect(path).await.map_err(MachineError::io("cannot reach the agent's port"))?;
        let (reading, writing) = stream.into_split();
        Ok(Self::over(machine, reading, writing))
    }

    /// A conversation over any two streams.
    pub(crate) fn over(
        machine: &str,
        reading: impl AsyncRead + Send + Unpin + 'static,
        writing: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let (out, frames) = mpsc::unbounded_channel();
        let (tell_ready, ready) = watch::channel(None);
        let (channels, asked) = (Channels::default(), Asked::default());
        let tasks = [
            tokio::spawn(pump::write(writing, frames)),
            tokio::spawn(pump::read(reading, Arc::clone(&channels), Arc::clone(&asked), tell_ready)),
        ];
        Self { machine: machine.to_owned(), out, channels, ready, asked, next: AtomicU32::new(1), tasks }
    }

    /// Asks until the agent answers; returns the id of the kernel's boot. `trouble` tells when waiting is in vain.
    pub(crate) async fn ready(
        &self,
        trouble: &mut (dyn FnMut(&str) -> Result<(), MachineError> + Send),
    ) -> Result<String, MachineError> {
        let nonce = u64::from_le_bytes(crate::random::bytes());
        let mut ready = self.ready.clone();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce);
        loop {
            let _ = self.out.send(Frame::Hello(nonce).encode());
            let answered = ready.wait_for(|answer| answer.as_ref().is_some_and(|(number, _)| *number == nonce));
            if let Ok(Ok(answer)) = tokio::time::timeout(ASK_AGAIN, answered).await {
                return Ok(answer.as_ref().map(|(_, boot)| boot.clone()).unwrap_or_default());
            }
            trouble("no answer from the agent")?;
        }
    }

    /// Starts a command. Dropping the session kills it.
    pub(crate) fn start(self: &Arc<Self>, command: &Exec) -> RunningCommand {
        let channel = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, said) = mpsc::unbounded_channel();
        self.locked().insert(channel, sender);
        let _ = self.out.send(Frame::Exec(channel, command.0.clone()).encode());
        RunningCommand { agent: Arc::clone(self), channel, said, over: false }
    }

    /// What a command prints without an end is cut, and it is killed: see [`crate::Machine::exec`].
    pub(crate) async fn exec(
        self: &Arc<Self>,
        command: &Exec,
        input: &[u8],
        deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        let whole = command.0.first().is_some_and(|program| program == PROBE);
        let limit = if whole { LARGEST_DOCUMENT } else { Bounded::LIMIT };
        let (mut stdout, mut stderr) = (Bounded::new(limit), Bounded::new(Bounded::LIMIT));
        let mut session = self.start(command);
        session.input(input);
        session.end_input();
        let run = async {
            while let Some(said) = session.next().await {
                match said {
                    Heard::Output(data) => stdout.feed(&data),
                    Heard::Errors(data) => stderr.feed(&data),
                    Heard::Exit(status) => return Ok(status),
                }
                if stdout.is_over() || stderr.is_over() {
                    return Ok(KILLED);
                }
            }
            Err(self.lost())
        };
        let status = deadline.limit(run).await.map_err(|limit| self.timed_out(command, limit))??;
        if whole && stdout.is_over() {
            return Err(self.too_much(command, limit as u64));
        }
        let over = [(stdout.is_over(), limit), (stderr.is_over(), Bounded::LIMIT)].into_iter().find(|(over, _)| *over);
        let mut stderr = String::from_utf8_lossy(&stderr.into_bytes()).into_owned();
        if let Some((_, limit)) = over {
            stderr.push_str(&bounded::killed(limit));
        }
        Ok(Output { status, stdout: stdout.into_bytes(), stderr })
    }

    /// Like [`Agent::exec`], with standard output in a file: all of it, or an error.
    pub(crate) async fn exec_to_file(
        self: &Arc<Self>,
        command: &Exec,
        input: &[u8],
        to: &Path,
        deadline: &Deadline,
    ) -> Result<Output, MachineError> {
        let failed = || MachineError::io(format!("cannot write `{}`", to.display()));
        let mut file = tokio::fs::File::create(to).await.map_err(failed())?;
        let (mut written, mut stderr) = (0, Bounded::new(Bounded::LIMIT));
        let mut session = self.start(command);
        session.input(input);
        session.end_input();
        let run = async {
            while let Some(said) = session.next().await {
                match said {
                    Heard::Output(data) => {
                        written += data.len() as u64;
                        file.write_all(&data).await.map_err(failed())?;
                    }
                    Heard::Errors(data) => stderr.feed(&data),
                    Heard::Exit(status) => {
                        file.flush().await.map_err(failed())?;
                        return Ok(status);
                    }
                }
                if written > LARGEST_FILE || stderr.is_over() {
                    return Err(self.too_much(command, LARGEST_FILE));
                }
            }
            Err(self.lost())
        };
        let status = deadline.limit(run).await.map_err(|limit| self.timed_out(command, limit))??;
        let stderr = String::from_utf8_lossy(&stderr.into_bytes()).into_owned();
        Ok(Output { status, stdout: Vec::new(), stderr })
    }

    /// Nanoseconds that the machine's clock is ahead: the best of a few questions, taken at half of the round trip.
    pub(crate) async fn clock_offset(self: &Arc<Self>, deadline: &Deadline) -> Result<i64, MachineError> {
        let command = Exec::new([PROBE, "clock"]);
        let mut session = self.start(&command);
        let asked = async {
            let mut best: Option<(Duration, i64)> = None;
            for _ in 0..5 {
                let (before, began) = (nanoseconds_now(), Instant::now());
                session.input(b"?\n");
                let there = session.line().await?.trim().parse::<i64>().ok()?;
                let took = began.elapsed();
                let half = i64::try_from(took.as_nanos() / 2).unwrap_or(i64::MAX);
                if best.is_none_or(|(shortest, _)| took < shortest) {
                    best = Some((took, there - (before + half)));
                }
            }
            best.map(|(_, offset)| offset)
        };
        let offset = deadline.limit(asked).await.map_err(|limit| self.timed_out(&command, limit))?;
        offset.ok_or_else(|| self.lost())
    }

    /// A loopback address whose connections are made anew by the machine, to `host:port` as it sees them, for as long as
    /// the task lives.
    pub(crate) async fn tunnel(
        self: &Arc<Self>,
        host: &str,
        port: u16,
    ) -> Result<(SocketAddr, JoinHandle<()>), MachineError> {
        let failed = || MachineError::io("cannot listen on loopback");
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(failed())?;
        let address = listener.local_addr().map_err(failed())?;
        let (agent, command) = (Arc::clone(self), Exec::new([PROBE, "connect", host, &port.to_string()]));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(agent.start(&command).tunnel(stream));
            }
        });
        Ok((address, task))
    }

    fn lost(&self) -> MachineError {
        MachineError::Lost { machine: self.machine.clone(), said: "the agent's port was closed".to_owned() }
    }

    fn too_much(&self, command: &Exec, limit: u64) -> MachineError {
        MachineError::TooMuch { machine: self.machine.clone(), command: command.0.join(" "), mib: limit >> 20 }
    }

    fn timed_out(&self, command: &Exec, limit: TimedOut) -> MachineError {
        MachineError::TimedOut { machine: self.machine.clone(), command: command.0.join(" "), limit }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<u32, mpsc::UnboundedSender<Heard>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commands for Arc<Agent> {
    fn exec<'a>(
        &'a self,
        command: &'a Exec,
        input: &'a [u8],
        deadline: &'a Deadline,
    ) -> BoxFuture<'a, Result<Output, MachineError>> {
        Box::pin(Agent::exec(self, command, input, deadline))
    }

    fn exec_to_file<'a>(
        &'a self,
        command: &'a Exec,
        input: &'a [u8],
        to: &'a Path,
        deadline: &'a Deadline,
    ) -> BoxFuture<'a, Result<Output, MachineError>> {
        Box::pin(Agent::exec_to_file(self, command, input, to, deadline))
    }

    fn clock_offset<'a>(&'a self, deadline: &'a Deadline) -> BoxFuture<'a, Result<i64, MachineError>> {
        Box::pin(Agent::clock_offset(self, deadline))
    }

    fn tunnel<'a>(
        &'a self,
        host: &'a str,
        port: u16,
    ) -> BoxFuture<'a, Result<(SocketAddr, JoinHandle<()>), MachineError>> {
        Box::pin(Agent::tunnel(self, host, port))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A running command.
#[derive(Debug)]
pub(crate) struct RunningCommand {
    agent: Arc<Agent>,
    channel: u32,
    said: mpsc::UnboundedReceiver<Heard>,
    over: bool,
}

impl RunningCommand {
    fn input(&self, data: &[u8]) {
        for piece in data.chunks(PIECE) {
            let _ = self.agent.out.send(Frame::Input(self.channel, piece.to_vec()).encode());
        }
    }

    fn end_input(&self) {
        let _ = self.agent.out.send(Frame::InputEnd(self.channel).encode());
    }

    /// `None` when the machine is gone.
    async fn next(&mut self) -> Option<Heard> {
        let said = self.said.recv().await;
        self.over |= matches!(said, Some(Heard::Exit(_)));
        said
    }

    /// The next line of output; for commands that print one small line at a time.
    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            match self.next().await? {
                Heard::Output(data) => line.extend(data),
                Heard::Errors(_) => {}
                Heard::Exit(_) => return None,
            }
        }
        String::from_utf8(line).ok()
    }

    /// Carries a connection into the machine, if the command (the probe's `connect`) says that it is through.
    pub(crate) async fn tunnel(mut self, stream: tokio::net::TcpStream) -> std::io::Result<()> {
        const CONNECTED: &[u8] = b"connected\n";
        let mut start = Vec::new();
        while !start.starts_with(CONNECTED) {
            match self.next().await {
                Some(Heard::Output(data)) => start.extend(data),
                Some(Heard::Errors(_)) => {}
                Some(Heard::Exit(_)) | None => return Ok(()), // Dropping the stream tells the peer.
            }
        }
        let (mut reading, mut writing) = stream.into_split();
        writing.write_all(&start[CONNECTED.len()..]).await?;
        let mut buffer = vec![0; PIECE];
        let mut open = true;
        loop {
            tokio::select! {
                // A client may end its side and wait for the answer: that decides when it is over.
                length = reading.read(&mut buffer), if open => match length {
                    Ok(length @ 1..) => self.input(&buffer[..length]),
                    _ => { open = false; self.end_input(); }
                },
                said = self.next() => match said {
                    Some(Heard::Output(data)) => writing.write_all(&data).await?,
                    Some(Heard::Errors(_)) => {}
                    Some(Heard::Exit(_)) | None => return writing.shutdown().await,
                },
            }
        }
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        self.agent.locked().remove(&self.channel);
        if !self.over {
            let _ = self.agent.out.send(Frame::Kill(self.channel).encode());
        }
    }
}

/// Nanoseconds since 1970 on the host's clock.
pub(crate) fn nanoseconds_now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use redrill_wire::Decoder;

    use super::*;

    /// An agent made of prepared answers: for each frame that arrives, these go back.
    pub(crate) fn with_machine(answer: impl Fn(Frame) -> Vec<Frame> + Send + 'static) -> Arc<Agent> {
        let (here, there) = UnixStream::pair().expect("a pair");
        tokio::spawn(async move {
            let (mut reading, mut writing) = there.into_split();
            let mut decoder = Decoder::default();
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = reading.read(&mut buffer).await {
                decoder.feed(&buffer[..length]);
                while let Ok(Some(frame)) = decoder.next_frame() {
                    for frame in answer(frame) {
                        if frame == Frame::Exit(0, -99) {
                            return; // The machine dies.
                        }
                        let _ = writing.write_all(&frame.encode()).await;
                    }
                }
            }
        });
        let (reading, writing) = here.into_split();
        Arc::new(Agent::over("web", reading, writing))
    }

    fn deadline(milliseconds: u64) -> Deadline {
        Deadline::root("test", Duration::from_millis(milliseconds), 1.0)
    }

    #[tokio::test]
    async fn commands_run_side_by_side_and_keep_their_output_apart() {
        let agent = with_machine(|frame| match frame {
            Frame::Hello(nonce) => vec![Frame::Ready(nonce, "boot-1".to_owned())],
            Frame::Exec(channel, words) => vec![
                Frame::Output(channel, words[0].clone().into_bytes()),
                Frame::Errors(channel, b"!".to_vec()),
                Frame::Exit(channel, 3),
            ],
            _ => vec![],
        });
        assert_eq!(agent.ready(&mut |_| Ok(())).await.expect("ready"), "boot-1");
        let (a, b) = (Exec::new(["a"]), Exec::new(["b"]));
        let deadline = deadline(5000);
        let (a, b) = tokio::join!(agent.exec(&a, b"", &deadline), agent.exec(&b, b"", &deadline));
        let (a, b) = (a.expect("answered"), b.expect("answered"));
        assert_eq!((a.text().as_str(), a.status, a.stderr.as_str()), ("a", 3, "!"));
        assert_eq!(b.text(), "b");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_killed_and_told() {
        let (tell, mut killed) = mpsc::unbounded_channel();
        let agent = with_machine(move |frame| {
            if matches!(frame, Frame::Kill(_)) {
                let _ = tell.send(());
            }
            vec![]
        });
        let error = agent.exec(&Exec::new(["sleep", "9"]), b"", &deadline(30)).await.expect_err("too long");
        assert!(matches!(error, MachineError::TimedOut { .. }), "{error}");
        killed.recv().await.expect("it was killed");
    }

    /// What came of a command in a machine that prints 300 MiB whatever it is asked, and whether it was killed.
    async fn flood(program: &str) -> (Result<Output, MachineError>, bool) {
        let (tell, mut killed) = mpsc::unbounded_channel();
        let agent = with_machine(move |frame| match frame {
            Frame::Exec(channel, _) => vec![Frame::Output(channel, vec![b'y'; PIECE]); 300 * 32],
            Frame::Kill(_) => {
                let _ = tell.send(());
                vec![]
            }
            _ => vec![],
        });
        let ended = agent.exec(&Exec::new([program]), b"", &deadline(60_000)).await;
        let killed = tokio::time::timeout(Duration::from_secs(20), killed.recv()).await;
        (ended, killed.is_ok_and(|killed| killed.is_some()))
    }

    #[tokio::test]
    async fn a_command_that_prints_without_an_end_is_killed_and_its_ends_are_kept() {
        let (ended, killed) = flood("yes").await;
        let output = ended.expect("an answer");
        assert!(killed);
        assert_eq!(output.status, 137);
        assert!(output.stderr.contains("printed more than 64 MiB"), "{}", output.stderr);
        assert!(output.stdout.len() < 3 << 20 && output.text().contains("bytes left out ...]"));
    }

    #[tokio::test]
    async fn a_document_of_the_probe_that_is_too_large_is_an_error() {
        let (ended, killed) = flood(PROBE).await;
        assert!(matches!(ended, Err(MachineError::TooMuch { mib: 256, .. })), "{ended:?}");
        assert!(killed);
    }

    #[tokio::test]
    async fn a_machine_that_dies_is_lost() {
        let agent = with_machine(|_| vec![Frame::Exit(0, -99)]);
        let error = agent.exec(&Exec::new(["true"]), b"", &deadline(5000)).await.expect_err("lost");
        assert!(matches!(error, MachineError::Lost { .. }), "{error}");
    }
}

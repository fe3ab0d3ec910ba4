//! The harness's hand in the machine: runs commands that come over a virtio-serial port. It needs neither network nor
//! SSH, so that it still answers when a deploy has broken both, and a fork of a frozen machine answers at once.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redrill_wire::{Decoder, Frame, PORT};
use rustix::process::{Pid, Signal};

/// Between two looks for the port, or at a port whose other side is gone.
const PAUSE: Duration = Duration::from_millis(20);
/// How long the output of a command is waited for once it has ended: a child that it left may hold the pipe for ever.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What goes into one frame.
const PIECE: usize = 32 * 1024;

type Port = Arc<Mutex<Box<dyn Write + Send>>>;
type Channels = Arc<Mutex<HashMap<u32, Channel>>>;

/// A running command: its process group, and where its input goes. Dropping the sender ends the input.
struct Channel {
    group: Pid,
    input: Option<Sender<Vec<u8>>>,
}

/// Serves the machine's port until the machine ends.
pub(crate) fn serve() -> io::Result<()> {
    let reading = OpenOptions::new().read(true).write(true).open(port())?;
    let writing = reading.try_clone()?;
    converse(reading, Box::new(writing), false)
}

/// Serves standard input and output, until the input ends: where the machine has no port, the way in is a command.
pub(crate) fn serve_pipe() -> io::Result<()> {
    converse(io::stdin(), Box::new(io::stdout()), true)
}

fn converse(mut reading: impl Read, writing: Box<dyn Write + Send>, ends: bool) -> io::Result<()> {
    let writing: Port = Arc::new(Mutex::new(writing));
    let channels = Channels::default();
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; PIECE];
    loop {
        match reading.read(&mut buffer) {
            // Nobody is at the other end: what was half said will not be finished.
            Ok(0) => {
                decoder = Decoder::default();
                abandon(&channels);
                if ends {
                    return Ok(());
                }
                thread::sleep(PAUSE);
            }
            Ok(length) => decoder.feed(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => obey(frame, &writing, &channels)?,
                Ok(None) => break,
                Err(error) => {
                    // The harness asks again.
                    let _ = writeln!(io::stderr(), "redrill-probe: {error}");
                    decoder = Decoder::default();
                    break;
                }
            }
        }
    }
}

/// The port's device, as soon as the kernel has found it.
fn port() -> PathBuf {
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        let ours = ports
            .filter(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT))
            .map(|port| PathBuf::from("/dev").join(port.file_name()))
            .find(|device| device.exists());
        if let Some(device) = ours {
            return device;
        }
        thread::sleep(PAUSE);
    }
}

fn obey(frame: Frame, port: &Port, channels: &Channels) -> io::Result<()> {
    match frame {
        Frame::Hello(nonce) => send(port, &Frame::Ready(nonce, crate::boot_id()))?,
        Frame::Exec(channel, words) => exec(channel, &words, port, channels)?,
        Frame::Input(channel, data) => {
            if let Some(Channel { input: Some(input), .. }) = locked(channels).get(&channel) {
                let _ = input.send(data); // It may have closed its input.
            }
        }
        Frame::InputEnd(channel) => {
            if let Some(channel) = locked(channels).get_mut(&channel) {
                channel.input = None;
            }
        }
        Frame::Kill(channel) => {
            // Whatever it still prints, in a group of its own too, is told to nobody.
            if let Some(channel) = locked(channels).remove(&channel) {
                let _ = rustix::process::kill_process_group(channel.group, Signal::KILL);
            }
        }
        // These go the other way.
        Frame::Ready(..) | Frame::Output(..) | Frame::Errors(..) | Frame::Exit(..) => {}
    }
    Ok(())
}

fn exec(channel: u32, words: &[String], port: &Port, channels: &Channels) -> io::Result<()> {
    let mut child = match start(words) {
        Ok(child) => child,
        Err(error) => {
            let text = format!("{}: {error}\n", words.first().map(String::as_str).unwrap_or_default());
            send(port, &Frame::Errors(channel, text.into_bytes()))?;
            return send(port, &Frame::Exit(channel, 127));
        }
    };
    let (sender, receiver) = mpsc::channel::<Vec<u8>>();
    if let Some(mut stdin) = child.stdin.take() {
        thread::spawn(move || {
            receiver.into_iter().try_for_each(|data| stdin.write_all(&data).and_then(|()| stdin.flush()))
        });
    }
    let group = Pid::from_child(&child);
    locked(channels).insert(channel, Channel { group, input: Some(sender) });
    let (port, channels) = (Arc::clone(port), Arc::clone(channels));
    thread::spawn(move || {
        let status = finish(channel, &mut child, &port, &channels);
        locked(&channels).remove(&channel);
        let _ = send(&port, &Frame::Exit(channel, status));
    });
    Ok(())
}

/// As an administrator's login would find the world, in a process group of its own.
fn start(words: &[String]) -> io::Result<Child> {
    let [program, args @ ..] = words else { return Err(io::Error::other("nothing to run")) };
    Command::new(program)
        .args(args)
        .env_clear()
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .envs([("HOME", "/root"), ("USER", "root"), ("LOGNAME", "root"), ("SHELL", "/bin/sh"), ("LANG", "C.UTF-8")])
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Sends what the command prints, and waits for its end.
fn finish(channel: u32, child: &mut Child, port: &Port, channels: &Channels) -> i32 {
    let listens = |channels: &Channels| {
        let channels = Arc::clone(channels);
        move || locked(&channels).contains_key(&channel)
    };
    let (done, ended) = mpsc::channel::<()>();
    let mut pipes = 0;
    if let Some(pipe) = child.stdout.take() {
        pipes += 1;
        carry(pipe, port, done.clone(), listens(channels), move |data| Frame::Output(channel, data));
    }
    if let Some(pipe) = child.stderr.take() {
        pipes += 1;
        carry(pipe, port, done, listens(channels), move |data| Frame::Errors(channel, data));
    }
    let status = child.wait();
    let until = Instant::now() + LAST_WORDS;
    for _ in 0..pipes {
        let _ = ended.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
    status.map_or(1, |status| status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1))
}

/// Reads to the end in any case: what a command left behind would be killed by a pipe that nobody reads. That nobody
/// listens any more is no reason to tell it.
fn carry(
    mut pipe: impl Read + Send + 'static,
    port: &Port,
    done: Sender<()>,
    listens: impl Fn() -> bool + Send + 'static,
    frame: impl Fn(Vec<u8>) -> Frame + Send + 'static,
) {
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            if listens() && send(&port, &frame(buffer[..length].to_vec())).is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
}

fn send(port: &Port, frame: &Frame) -> io::Result<()> {
    let mut port = port.lock().unwrap_or_else(PoisonError::into_inner);
    port.write_all(&frame.encode())?;
    port.flush()
}

/// Kills what the harness no longer listens to.
fn abandon(channels: &Channels) {
    for (_, channel) in locked(channels).drain() {
        let _ = rustix::process::kill_process_group(channel.group, Signal::KILL);
    }
}

fn locked(channels: &Channels) -> std::sync::MutexGuard<'_, HashMap<u32, Channel>> {
    channels.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Watches who writes files and what is run while a deploy works: the kernel's `fanotify` names the process of each.
//!
//! Marks that see names (deleted, renamed) are refused on overlayfs: a file is known by the descriptor that comes with
//! its event, which still leads to it when it has another name.

mod before;
mod processes;
mod written;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};

use nix::sys::fanotify::{
    EventFFlags, Fanotify, FanotifyEvent, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use redrill_state::{RanProgram, Told, Writer};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use before::Before;
use processes::Who;
pub(crate) use processes::{Processes, status};
use written::Files;

/// How long the end may be overlooked.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// One for each file that is written; a file that nobody holds open is known by its path.
const DESCRIPTORS: u64 = 65_536;

/// Watches until there is a file `stop` in `place`, which is a directory that it makes. `ready` is there once nothing
/// escapes; `seen` has a [`Told`] a line, and is there once it is whole.
pub(crate) fn watch(place: &str) -> io::Result<()> {
    let place = Path::new(place);
    fs::create_dir_all(place)?;
    let _ = nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, DESCRIPTORS, DESCRIPTORS);
    let before = Before::look(place);
    let mut witness = Witness::new()?;
    File::create(place.join("ready"))?;
    while !place.join("stop").exists() {
        witness.wait()?;
    }
    witness.read()?;
    let unfinished = place.join("seen.new");
    let mut out = BufWriter::new(File::create(&unfinished)?);
    witness.tell(&before, &mut out)?;
    out.flush()?;
    fs::rename(unfinished, place.join("seen"))
}

/// Programs that are told; no deploy runs more.
const MOST_RUNS: usize = 200_000;

/// When the kernel booted: nanoseconds since 1970, by the clock as it is now.
pub(crate) fn boot() -> i64 {
    crate::now() - crate::nanoseconds(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

struct Witness {
    kernel: Fanotify,
    processes: Processes,
    files: Files,
    ran: Vec<RanProgram>,
    /// Nanoseconds since 1970.
    boot: i64,
    missed: Vec<String>,
}

impl Witness {
    fn new() -> io::Result<Self> {
        let (kernel, asked) = open()?;
        let mut missed = Vec::new();
        if !asked {
            missed
                .push("the kernel asks nobody before a program is run: one that ends at once may go unseen".to_owned());
        }
        let run = if asked { MaskFlags::FAN_OPEN_EXEC_PERM } else { MaskFlags::FAN_OPEN_EXEC };
        let mask = MaskFlags::FAN_MODIFY | MaskFlags::FAN_CLOSE_WRITE | run;
        for mount in crate::mounts::watched()? {
            let whole = if mount.whole { MarkFlags::FAN_MARK_FILESYSTEM } else { MarkFlags::FAN_MARK_MOUNT };
            let marked =
                kernel.mark(MarkFlags::FAN_MARK_ADD | whole, mask, rustix::fs::CWD, Some(mount.point.as_str()));
            if let Err(error) = marked {
                missed.push(format!("what is written below {} was not watched: {error}", mount.point));
            }
        }
        let (processes, files, ran) = (Processes::default(), Files::default(), Vec::new());
        Ok(Self { kernel, processes, files, ran, boot: boot(), missed })
    }

    /// Until something happens, or it is time to look for the end.
    fn wait(&mut self) -> io::Result<()> {
        let fd = self.kernel.as_fd();
        let ready = poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&LOOK));
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => self.read(),
            Err(error) => Err(error.into()),
        }
    }

    /// All that lies ready.
    fn read(&mut self) -> io::Result<()> {
        loop {
            match self.kernel.read_events() {
                Ok(events) if events.is_empty() => return Ok(()),
                Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn take(&mut self, event: FanotifyEvent) {
        let Some(fd) = event.fd() else {
            self.missed.push("more happened than the kernel remembers".to_owned());
            return;
        };
        let mask = event.mask();
        if mask.intersects(MaskFlags::FAN_OPEN_EXEC_PERM | MaskFlags::FAN_OPEN_EXEC) {
            self.run(event.pid(), fd);
            if mask.contains(MaskFlags::FAN_OPEN_EXEC_PERM) {
                // Whoever waits for it waits no longer once we end, whatever comes of this.
                let _ = self.kernel.write_response(FanotifyResponse::new(fd, Response::FAN_ALLOW));
            }
            return;
        }
        let who = self.processes.who(event.pid());
        if who.by != By::Harness {
            self.files.wrote(fd, who, mask.contains(MaskFlags::FAN_MODIFY));
        }
    }

    /// While it is asked for leave, the process is what it was before.
    fn run(&mut self, pid: i32, fd: BorrowedFd<'_>) {
        let program = path_of(fd);
        if is_loader(&program) {
            return;
        }
        let who = self.processes.runs(pid, &program, is_script(fd));
        if who.by == By::Deploy && self.ran.len() < MOST_RUNS {
            let began = self.boot + who.began;
            self.ran.push(RanProgram { program: shown(&program), at: crate::now(), began });
        }
    }

    fn tell(mut self, before: &Before, out: &mut impl Write) -> io::Result<()> {
        let mut line = |told: &Told| {
            serde_json::to_writer(&mut *out, told)?;
            out.write_all(b"\n")
        };
        for written in self.files.end(before, self.boot) {
            line(&Told::Written(written))?;
        }
        for run in self.ran {
            line(&Told::Ran(run))?;
        }
        self.missed.extend(self.files.missed());
        self.missed.dedup();
        for why in &self.missed {
            line(&Told::Missed(why.clone()))?;
        }
        line(&Told::End)
    }
}

/// Whose process it is, or none of anybody's business.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum By {
    Harness,
    Deploy,
    Unit(String),
    Unknown,
}

impl By {
    fn writer(&self) -> Option<Writer> {
        match self {
            Self::Harness => None,
            Self::Deploy => Some(Writer::Deploy),
            Self::Unit(name) => Some(Writer::Unit(name.clone())),
            Self::Unknown => Some(Writer::Unknown),
        }
    }
}

/// The kernel's ear; and whether it asks before a program is run, so that no process ends before it was looked at.
fn open() -> io::Result<(Fanotify, bool)> {
    let flags = InitFlags::FAN_CLOEXEC
        | InitFlags::FAN_NONBLOCK
        | InitFlags::FAN_UNLIMITED_QUEUE
        | InitFlags::FAN_UNLIMITED_MARKS;
    let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
    let asking = || Fanotify::init(InitFlags::FAN_CLASS_CONTENT | flags, files);
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    match may_be_asked(&release).then(asking) {
        Some(Ok(kernel)) => Ok((kernel, true)),
        _ => Ok((Fanotify::init(InitFlags::FAN_CLASS_NOTIF | flags, files)?, false)),
    }
}

/// Before Linux 5.10 whoever read the environment of a process that is about to run a program waited for just that.
fn may_be_asked(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(10))
}

/// Where a descriptor leads now.
fn path_of(fd: BorrowedFd<'_>) -> PathBuf {
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default()
}

fn shown(path: &Path) -> String {
    redrill_state::escape(path.as_os_str().as_encoded_bytes())
}

/// Every program is loaded by it.
fn is_loader(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("ld-linux") || name.starts_with("ld-musl") || name.starts_with("ld.so")
}

/// What follows in this process is its interpreter.
fn is_script(fd: BorrowedFd<'_>) -> bool {
    let mut begin = [0; 2];
    rustix::io::pread(fd, &mut begin, 0).is_ok_and(|length| length == 2) && begin == *b"#!"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loaders_are_told_from_programs() {
        assert!(is_loader(Path::new("/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")));
        assert!(!is_loader(Path::new("/usr/bin/ld")) && !is_loader(Path::new("/usr/bin/tee")));
    }

    #[test]
    fn kernels_that_would_stand_still_are_not_asked_to_ask() {
        assert!(may_be_asked("6.1.0-40-amd64") && may_be_asked("5.10.0") && may_be_asked("5.15.0-generic"));
        assert!(!may_be_asked("5.4.0-200-generic") && !may_be_asked("4.19.0") && !may_be_asked(""));
    }

    #[test]
    fn scripts_are_told_by_how_they_begin() {
        let file = |text: &str| {
            let path = std::env::temp_dir().join(format!("redrill-script-{}-{}", std::process::id(), text.len()));
            fs::write(&path, text).expect("written");
            let file = File::open(&path).expect("opened");
            fs::remove_file(path).expect("removed");
            file
        };
        assert!(is_script(file("#!/bin/sh\n").as_fd()));
        assert!(!is_script(file("\x7fELF").as_fd()) && !is_script(file("#").as_fd()));
    }
}

//! The last look at a run directory: no file of it, and no name of one, holds a secret of the keys when a drill is over,
//! whoever wrote it. Memory is bounded whatever lies there.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use redrill_machines::{Home, RunDir, Swept};
use redrill_redact::{Redactor, Stream, Style};

use crate::deploy::controller::{DIRECTORY, KEYS_OF_SWEEP};

/// Larger documents are read as text.
const LARGEST_DOCUMENT: u64 = 32 << 20;
const PIECE: usize = 64 * 1024;
/// What a file is made anew under, until it is whole.
const NEW: &str = ".without-secrets";

/// What a look at a run directory found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// How many files were looked at.
    pub files: usize,
    /// Files that held a secret and hold none now, and those whose name did.
    pub changed: Vec<PathBuf>,
    /// What may still hold one, and why.
    pub remains: Vec<String>,
    /// What cannot be read, neither by us nor by whoever started us.
    pub unread: Vec<String>,
}

impl Cleaned {
    fn failed(&mut self, path: &Path, error: &io::Error) {
        let list = if error.kind() == ErrorKind::PermissionDenied { &mut self.unread } else { &mut self.remains };
        list.push(format!("`{}`: {error}", path.display()));
    }
}

/// Takes the secrets out of everything below `run` that stays there when a drill is over. Where its machines are kept,
/// what others have open is changed in its place, and what `redrill clean` removes is left alone.
pub fn without_secrets(run: &Path, redactor: &Redactor) -> Cleaned {
    let mut cleaned = Cleaned::default();
    if redactor.is_empty() {
        return cleaned;
    }
    let kept = RunDir::is_kept(run);
    let spared = if kept { RunDir::disposable(run) } else { Vec::new() };
    let sweep = Sweep { redactor, key: redrill_machines::run_key(), kept, spared };
    sweep.below(run, &mut cleaned);
    cleaned
}

/// Removes what killed runs left. Their logs and consoles stay, which nobody has looked through yet: that is done by the
/// copy of their keys, before it goes.
pub fn sweep_home(home: &Home) -> Vec<Swept> {
    let killed = home.run_dirs().into_iter().filter(|run| !RunDir::is_live(run) && !RunDir::is_kept(run));
    for run in killed {
        let controller = run.join(DIRECTORY);
        let keys = controller.join(KEYS_OF_SWEEP);
        if keys.is_dir() {
            // What sealed programs could write is not read, and goes anyway.
            remove_others(&controller, KEYS_OF_SWEEP);
            // What cannot be cleaned is readable to the run's owner alone, as all of it is.
            without_secrets(&run, &Redactor::from_keys(&keys, ""));
        }
    }
    home.sweep()
}

fn remove_others(directory: &Path, spared: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten().filter(|entry| entry.file_name() != spared) {
        let path = entry.path();
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        // What stays is removed with the rest of the controller.
        let _ = if is_directory { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

struct Sweep<'a> {
    redactor: &'a Redactor,
    key: [u8; 32],
    kept: bool,
    spared: Vec<PathBuf>,
}

impl Sweep<'_> {
    fn below(&self, directory: &Path, cleaned: &mut Cleaned) {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries.flatten(),
            Err(error) => return cleaned.failed(directory, &error),
        };
        for path in entries.map(|entry| entry.path()).collect::<Vec<_>>() {
            let Ok(about) = path.symlink_metadata() else { continue };
            if self.spared.contains(&path) {
                continue;
            }
            if about.is_dir() {
                self.below(&path, cleaned);
            } else if about.is_file() {
                cleaned.files += 1;
                match self.file(&path) {
                    Ok(false) => {}
                    Ok(true) => cleaned.changed.push(path.clone()),
                    Err(error) => cleaned.failed(&path, &error),
                }
            } else if about.is_symlink() {
                self.link(&path, cleaned);
            }
            self.name(&path, cleaned);
        }
    }

    /// A link tells where it leads.
    fn link(&self, path: &Path, cleaned: &mut Cleaned) {
        let to = fs::read_link(path).unwrap_or_default();
        if self.redactor.finds(to.as_os_str().as_encoded_bytes()) {
            match fs::remove_file(path) {
                Ok(()) => cleaned.changed.push(path.to_owned()),
                Err(error) => cleaned.remains.push(format!("`{}`: {error}", path.display())),
            }
        }
    }

    fn name(&self, path: &Path, cleaned: &mut Cleaned) {
        let Some(name) = path.file_name() else { return };
        if !path.exists() || !self.redactor.finds(name.as_encoded_bytes()) {
            return;
        }
        let clean = self.redactor.clean_with(&name.to_string_lossy(), Style::Keyed(&self.key)).replace('/', "_");
        match fs::rename(path, path.with_file_name(&clean)) {
            Ok(()) => cleaned.changed.push(path.with_file_name(clean)),
            Err(error) => cleaned.remains.push(format!("a name beside `{clean}`: {error}")),
        }
    }

    /// Tells whether the file had to be changed.
    fn file(&self, path: &Path) -> io::Result<bool> {
        match self.anew(path) {
            // No room for another: what was found is covered where it stands, or is gone with its archive.
            Err(error) if is_full(&error) && path.to_string_lossy().ends_with(".gz") => {
                fs::remove_file(path).map(|()| true)
            }
            Err(error) if is_full(&error) => self.in_place(path),
            done => done,
        }
    }

    /// Makes a file anew without its secrets, if it has any; one that has none needs no room on the disk.
    fn anew(&self, path: &Path) -> io::Result<bool> {
        let ends = |end: &str| path.to_string_lossy().ends_with(end);
        let small = path.metadata()?.len() <= LARGEST_DOCUMENT;
        if ends(".gz") {
            return match self.packed(path) {
                // Cut, or no archive at all: then it is bytes like any others.
                Err(error) if !is_full(&error) => self.cut(path),
                done => done,
            };
        }
        if ends(".json") && small {
            return self.document(path);
        }
        if ends(".jsonl") {
            let open = || File::open(path).map(BufReader::new);
            return match self.lines(open()?, &mut Nowhere)? {
                true => self.lines(open()?, &mut self.new_file(path)?),
                false => Ok(false),
            };
        }
        self.text(path)
    }

    fn document(&self, path: &Path) -> io::Result<bool> {
        let Ok(text) = fs::read_to_string(path) else { return self.text(path) };
        let clean = self.redactor.clean_document(&text);
        if clean == text {
            return Ok(false);
        }
        let mut new = self.new_file(path)?;
        new.file.write_all(clean.as_bytes())?;
        new.keep().map(|()| true)
    }

    /// Lines of JSON in an archive.
    fn packed(&self, path: &Path) -> io::Result<bool> {
        let open = || File::open(path).map(|file| BufReader::new(GzDecoder::new(file)));
        if !self.lines(open()?, &mut Nowhere)? {
            return Ok(false);
        }
        let mut packed = Packed { new: self.new_file(path)?, out: None };
        let file = packed.new.file.try_clone()?;
        packed.out = Some(GzEncoder::new(BufWriter::new(file), Compression::fast()));
        self.lines(open()?, &mut packed)
    }

    /// What is left of an archive that is not whole cannot be cleaned, only be taken away.
    fn cut(&self, path: &Path) -> io::Result<bool> {
        let mut said = Vec::new();
        let _ = GzDecoder::new(File::open(path)?).take(LARGEST_DOCUMENT).read_to_end(&mut said);
        let clean = self.text(path)?;
        if self.redactor.finds(&said) {
            fs::remove_file(path)?;
            return Ok(true);
        }
        Ok(clean)
    }

    fn lines(&self, mut from: impl BufRead, to: &mut impl Target) -> io::Result<bool> {
        let mut changed = false;
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if from.read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let line = String::from_utf8_lossy(&bytes);
            match self.redactor.clean_json_line(line.trim_end_matches('\n'), Style::Keyed(&self.key)) {
                Some(clean) => {
                    changed = true;
                    to.write(clean.as_bytes())?;
                    to.write(if bytes.ends_with(b"\n") { b"\n" } else { b"" })?;
                }
                None => to.write(&bytes)?,
            }
        }
        if changed {
            to.keep()?;
        }
        Ok(changed)
    }

    /// Anything else: bytes, by pieces.
    fn text(&self, path: &Path) -> io::Result<bool> {
        let (found, is_text) = self.stream(File::open(path)?, Style::Mark, |_| Ok(()))?;
        if !found {
            return Ok(false);
        }
        // Whoever has it open goes on to write to this very file.
        if self.kept {
            return self.in_place(path);
        }
        // What is no text keeps its form.
        let style = if is_text { Style::Mark } else { Style::Mask };
        let mut new = self.new_file(path)?;
        self.stream(File::open(path)?, style, |bytes| new.file.write_all(bytes))?;
        new.keep()?;
        match self.stream(File::open(path)?, Style::Mark, |_| Ok(()))? {
            (true, _) => Err(io::Error::other("a secret remains in it")),
            (false, _) => Ok(true),
        }
    }

    /// Covers what is secret, letter by letter.
    fn in_place(&self, path: &Path) -> io::Result<bool> {
        let mut place = File::options().write(true).open(path)?;
        self.stream(File::open(path)?, Style::Mask, |bytes| place.write_all(bytes)).map(|(found, _)| found)
    }

    /// Tells whether there was a secret in it, and whether it is text.
    fn stream(
        &self,
        from: File,
        style: Style<'_>,
        mut to: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<(bool, bool)> {
        let length = from.metadata()?.len();
        // A console goes on to grow: what comes later is not waited for.
        let mut from = from.take(length);
        let mut stream = Stream::new(self.redactor, style);
        let (mut piece, mut out, mut is_text) = (vec![0; PIECE], Vec::new(), true);
        loop {
            let count = from.read(&mut piece)?;
            if count == 0 {
                break;
            }
            is_text &= !piece[..count].contains(&0);
            stream.push(&piece[..count], &mut out);
            to(&out)?;
            out.clear();
        }
        stream.flush(&mut out);
        to(&out)?;
        Ok((stream.found(), is_text))
    }

    /// What takes the place of a file once it is whole, with its rights.
    fn new_file(&self, path: &Path) -> io::Result<NewFile> {
        let mut name = path.as_os_str().to_owned();
        name.push(NEW);
        let mode = path.metadata()?.mode() & 0o777;
        let new = PathBuf::from(name);
        let _ = fs::remove_file(&new);
        let file = File::options().write(true).create_new(true).mode(mode).open(&new)?;
        Ok(NewFile { file, new, path: path.to_owned() })
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// For a first look.
struct Nowhere;

impl Target for Nowhere {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn keep(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where lines go.
trait Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn keep(&mut self) -> io::Result<()>;
}

struct NewFile {
    file: File,
    new: PathBuf,
    path: PathBuf,
}

impl NewFile {
    fn keep(&mut self) -> io::Result<()> {
        fs::rename(&self.new, &self.path)
    }
}

impl Target for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    fn keep(&mut self) -> io::Result<()> {
        NewFile::keep(self)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = fs::remove_file(&self.new);
    }
}

struct Packed {
    new: NewFile,
    out: Option<GzEncoder<BufWriter<File>>>,
}

impl Target for Packed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.as_mut().map_or(Ok(()), |out| out.write_all(bytes))
    }

    fn keep(&mut self) -> io::Result<()> {
        if let Some(out) = self.out.take() {
            out.finish()?.flush()?;
        }
        self.new.keep()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const SECRET: &str = "plantedPW-Zq81mmT4x";

    /// A run directory with these files, and what knows the secret.
    fn run(name: &str, files: &[(&str, &[u8])]) -> (PathBuf, Redactor) {
        let run = std::env::temp_dir().join(format!("redrill-sweep-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&run);
        for (name, content) in files {
            let path = run.join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        (run, Redactor::builder().value(SECRET).build().expect("no patterns"))
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(text.as_bytes()).expect("in memory");
        out.finish().expect("in memory")
    }

    fn unpacked(path: &Path) -> String {
        let mut text = String::new();
        GzDecoder::new(File::open(path).expect("there")).read_to_string(&mut text).expect("whole");
        text
    }

    #[test]
    fn every_file_and_every_name_is_cleaned_and_what_is_clean_is_not_touched() {
        let log = format!("2026-01-02T03:04:05.678Z x {}\n2026-01-02T03:04:05.679Z {} y\n", &SECRET[..9], &SECRET[9..]);
        let lines = format!("{{\"file\":{{\"path\":\"/etc/{SECRET}\"}}}}\n{{\"end\":{{}}}}\n");
        let binary = [b"\0\x01", SECRET.as_bytes(), b"\0"].concat();
        let large = format!("{}{SECRET}{}", "x".repeat(1 << 20), "y".repeat(1 << 20));
        let (run, redactor) = run(
            "files",
            &[
                ("deploy-1.log", log.as_bytes()),
                ("deploy-1.json", format!("{{\"claim\": \"idempotent\", \"a\": \"{SECRET}\"}}").as_bytes()),
                ("events.jsonl", format!("{{\"text\":\"{SECRET}\"}}\nno json {SECRET}").as_bytes()),
                ("captures/web/s0.jsonl.gz", &gzip(&lines)),
                ("captures/web/clean.jsonl.gz", &gzip("{\"end\":{}}\n")),
                ("captures/web/cut.jsonl.gz", &gzip(&lines)[..60]),
                ("machines/web/screen.png", &binary),
                ("machines/web/console.log", large.as_bytes()),
                ("machines/web/clean.log", b"nothing here\n"),
                (&format!("logs/label-{SECRET}.log"), b"nothing here\n"),
            ],
        );
        symlink(format!("/x/{SECRET}"), run.join("link")).expect("linked");
        symlink("/dev/zero", run.join("zero")).expect("linked");
        let before = run.join("machines/web/clean.log").metadata().expect("there").ino();
        let cleaned = without_secrets(&run, &redactor);
        assert_eq!((cleaned.files, &cleaned.remains), (10, &Vec::new()));
        let text = |name: &str| fs::read_to_string(run.join(name)).expect("text");
        assert_eq!(text("deploy-1.log"), "2026-01-02T03:04:05.678Z x [redacted]\n y\n");
        assert_eq!(text("deploy-1.json"), "{\n  \"a\": \"[redacted]\",\n  \"claim\": \"idempotent\"\n}\n");
        assert!(
            text("events.jsonl").starts_with("{\"text\":\"[redacted:")
                && text("events.jsonl").contains("no json [redacted:")
        );
        assert!(unpacked(&run.join("captures/web/s0.jsonl.gz")).contains("\"/etc/[redacted:"));
        assert_eq!(unpacked(&run.join("captures/web/clean.jsonl.gz")), "{\"end\":{}}\n");
        let masked = fs::read(run.join("machines/web/screen.png")).expect("there");
        assert_eq!(masked, [b"\0\x01", "*".repeat(SECRET.len()).as_bytes(), b"\0"].concat());
        assert_eq!(text("machines/web/console.log"), large.replace(SECRET, "[redacted]"));
        assert_eq!(run.join("machines/web/clean.log").metadata().expect("there").ino(), before, "not written again");
        assert!(!run.join("link").is_symlink() && run.join("zero").is_symlink());
        let names: Vec<_> = fs::read_dir(run.join("logs")).expect("there").flatten().map(|it| it.file_name()).collect();
        assert!(names.len() == 1 && names[0].to_string_lossy().starts_with("label-[redacted:"), "{names:?}");
        assert_eq!(without_secrets(&run, &redactor).changed, Vec::<PathBuf>::new(), "one look is enough");
        fs::remove_dir_all(run).expect("cleaned up");
    }

    #[test]
    fn without_room_what_is_secret_is_covered_where_it_stands() {
        let (run, redactor) = run("full", &[("a.log", format!("a {SECRET} b\n").as_bytes())]);
        let sweep = Sweep { redactor: &redactor, key: [0; 32], kept: false, spared: Vec::new() };
        assert!(sweep.in_place(&run.join("a.log")).expect("no room is needed"));
        let text = fs::read_to_string(run.join("a.log")).expect("text");
        assert_eq!(text, format!("a {} b\n", "*".repeat(SECRET.len())));
        assert!(is_full(&io::Error::from(ErrorKind::StorageFull)) && !is_full(&io::Error::other("x")));
        let mut cleaned = Cleaned::default();
        cleaned.failed(Path::new("/a"), &io::Error::from(ErrorKind::PermissionDenied));
        cleaned.failed(Path::new("/b"), &io::Error::from(ErrorKind::InvalidData));
        assert!(cleaned.unread[0].contains("`/a`") && cleaned.remains[0].contains("`/b`"), "{cleaned:?}");
        fs::remove_dir_all(run).expect("cleaned up");
    }

    #[test]
    fn of_kept_machines_what_is_open_is_changed_in_its_place() {
        let log = format!("a {SECRET} b\n");
        let (run, redactor) = run(
            "kept",
            &[
                ("kept", b""),
                ("machines/web/console.log", log.as_bytes()),
                ("machines/web/overlay.qcow2", SECRET.as_bytes()),
                ("controller/keys/password", SECRET.as_bytes()),
            ],
        );
        let mut open = File::options().append(true).open(run.join("machines/web/console.log")).expect("there");
        let cleaned = without_secrets(&run, &redactor);
        open.write_all(b"more\n").expect("written");
        let text = fs::read_to_string(run.join("machines/web/console.log")).expect("text");
        assert_eq!(text, format!("a {} b\nmore\n", "*".repeat(SECRET.len())));
        assert_eq!(cleaned.changed, [run.join("machines/web/console.log")]);
        assert_eq!(
            fs::read(run.join("controller/keys/password")).expect("there"),
            SECRET.as_bytes(),
            "for `redrill shell`"
        );
        fs::remove_dir_all(run).expect("cleaned up");
    }

    #[test]
    fn what_a_killed_run_left_is_looked_through_before_its_keys_go() {
        let place = tempfile::tempdir().expect("a directory");
        let home = Home { cache: place.path().join("cache"), state: place.path().join("state") };
        let run = RunDir::create(&home, "web", std::time::SystemTime::UNIX_EPOCH).expect("made");
        let path = run.path().to_owned();
        fs::create_dir_all(path.join("controller/secrets")).expect("made");
        fs::write(path.join("controller/secrets").join("password"), "hunter2-Zq81mm\n").expect("written");
        fs::write(path.join("console.log"), "login hunter2-Zq81mm\n").expect("written");
        drop(run); // As a SIGKILL would: the lock goes, the files stay.
        sweep_home(&home);
        assert!(!path.join("controller/secrets").exists(), "what is disposable goes");
        let left = fs::read_to_string(path.join("console.log")).expect("evidence stays");
        assert!(left.starts_with("login ") && !left.contains("hunter2"), "{left}");
    }
}

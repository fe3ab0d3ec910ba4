//! Builds an image from a recipe: mmdebstrap, then `mke2fs -d`, then qcow2. No loop devices, no mounts of our own; as
//! root, or in a user namespace where the host allows one.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use redrill_model::{ImageRecipe, ImageSource};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::catalog::Recipe;
use super::download::FetchError;
use super::mirror::{Mirror, MirrorError};
use super::store::{DISK, INITRD, Image, ImageManifest, KERNEL, Store, TREE, recipe_key, remove_tree};
use crate::error::MachineError;
use crate::host;
use crate::process::Guard;
use crate::progress::Progress;

/// Why there is no image.
#[derive(Debug, Error)]
pub enum BuildError {
    /// No mirror.
    #[error(transparent)]
    Mirror(#[from] MirrorError),
    /// A tool is missing.
    #[error("`{tool}` is missing: apt-get install {package}")]
    Missing {
        /// Program.
        tool: String,
        /// Debian's package.
        package: String,
    },
    /// No space.
    #[error(transparent)]
    Shortage(#[from] host::Shortage),
    /// It is not built here, and could not be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A step failed.
    #[error("{step} failed ({status}); the end of what it said:\n{tail}")]
    Step {
        /// Which.
        step: &'static str,
        /// How it ended.
        status: String,
        /// The last lines that it printed; all of them lie in `images/NAME-build.log` in the cache.
        tail: String,
    },
    /// The host's files.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> BuildError {
    move |source| BuildError::Io { what, source }
}

/// Makes images.
pub struct ImageBuilder {
    /// Where they go.
    pub store: Store,
    /// The `redrill` program, for guards.
    pub program: PathBuf,
    /// Overrides the mirror of recipe and host.
    pub mirror: Option<String>,
    /// Told what goes on.
    pub progress: Progress,
}

const LOG: &str = "build.log";

/// What a build leaves on the host while it works: the tree, the raw disk and the tar.
const SCRATCH_MIB: u64 = 2048;

/// What is done to the tree after the packages are in; part of the image's digest. `$1` is the tree.
///
/// What must be new in every machine is taken out: machine-id (empty, so that systemd makes one and does not take the
/// boot for a first boot of a preset machine), SSH host keys, the host name.
const SETTLE: &str = r#"set -e
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/hostname "$1"/var/lib/dbus/machine-id
: > "$1"/etc/machine-id
printf '/dev/vda / ext4 errors=remount-ro 0 1\n' > "$1"/etc/fstab
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' > "$1"/etc/hosts
mkdir -p "$1"/etc/systemd/network
printf '[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n' > "$1"/etc/systemd/network/80-dhcp.network
"#;

/// From the tar to a disk; runs as (mapped) root. The kernel fills `/dev`, and a user namespace may make no devices. Arguments: tar, work directory, disk size in MiB.
const ASSEMBLE: &str = r#"set -e
cd "$2"
mkdir root
tar --extract --file "$1" --directory root --numeric-owner --xattrs --xattrs-include='*' --exclude='./dev/*'
cp root/boot/vmlinuz-* vmlinuz
cp root/boot/initrd.img-* initrd
cp root/var/lib/dpkg/status status
truncate --size "$3"M disk.raw
mke2fs -q -t ext4 -L root -d root disk.raw
rm -rf root
chmod 644 vmlinuz initrd status disk.raw
"#;

impl ImageBuilder {
    /// The image of a recipe: from the cache, or built. With `refresh` it is built anew with today's packages.
    pub async fn image(&self, recipe: &Recipe, refresh: bool) -> Result<Image, BuildError> {
        match &recipe.source {
            ImageSource::Recipe(source) => self.built(&recipe.name, source, refresh).await,
            ImageSource::Elsewhere(source) => self.elsewhere(&recipe.name, source, refresh).await,
        }
    }

    async fn built(&self, name: &str, recipe: &ImageRecipe, refresh: bool) -> Result<Image, BuildError> {
        let tools = tool_versions().await?;
        let named = self.mirror.as_deref().or(recipe.mirror.as_deref());
        let mirror = Mirror::find(named, &recipe.suite).await?;
        let key = recipe_key(recipe, &tools, &mirror, &format!("{SETTLE}{ASSEMBLE}{TREE}"));
        if let Some(image) = self.store.newest(&key).filter(|_| !refresh) {
            return Ok(image);
        }
        let _lock = self.turn(&key).await?;
        if let Some(image) = self.store.newest(&key).filter(|_| !refresh) {
            return Ok(image);
        }
        host::check_disk(self.store.directory(), SCRATCH_MIB)?;
        let work = self.store.work(&key);
        let _ = std::fs::remove_dir_all(&work);
        std::fs::create_dir_all(&work).map_err(io("cannot make a directory for the build"))?;
        let built = self.build((name, recipe), &mirror, tools, key, &work).await;
        // What was printed is worth keeping; half of a machine is not.
        let _ = std::fs::rename(work.join(LOG), self.store.directory().join(format!("{name}-{LOG}")));
        remove_tree(&work);
        built
    }

    /// Holds the lock of a recipe, once nobody else does.
    pub(super) async fn turn(&self, key: &str) -> Result<File, BuildError> {
        let (store, key) = (self.store.clone(), key.to_owned());
        (self.progress)("waiting for another build of the same recipe, if there is one");
        let lock = tokio::task::spawn_blocking(move || store.lock(&key)).await;
        lock.map_err(std::io::Error::other).and_then(|lock| lock).map_err(io("cannot lock the image store"))
    }

    async fn build(
        &self,
        (name, recipe): (&str, &ImageRecipe),
        mirror: &Mirror,
        tools: BTreeMap<String, String>,
        recipe_key: String,
        work: &Path,
    ) -> Result<Image, BuildError> {
        let guard = Guard::new(self.program.clone(), work.to_owned());
        let root = rustix::process::geteuid().is_root();
        let tar = work.join("root.tar");

        let mut debootstrap = guard.command("mmdebstrap");
        debootstrap.args(debootstrap_arguments(recipe, mirror, root)).arg(&recipe.suite).arg(&tar);
        debootstrap.args(mirror.lines());
        self.step(&guard, debootstrap, "mmdebstrap", work).await?;

        let mut assemble = if root { guard.command("sh") } else { guard.command("unshare") };
        if !root {
            assemble.args(["--map-root-user", "--map-auto", "sh"]);
        }
        assemble.args(["-c", ASSEMBLE, "assemble"]).arg(&tar).arg(work).arg(recipe.disk_mib.to_string());
        self.step(&guard, assemble, "mke2fs", work).await?;

        let made = work.join("image");
        std::fs::create_dir_all(&made).map_err(io("cannot make the image's directory"))?;
        let mut convert = guard.command("qemu-img");
        convert.args(["convert", "-O", "qcow2"]).arg(work.join("disk.raw")).arg(made.join(DISK));
        self.step(&guard, convert, "qemu-img", work).await?;
        for name in [KERNEL, INITRD] {
            std::fs::rename(work.join(name), made.join(name)).map_err(io("the tree holds no kernel"))?;
        }
        std::fs::rename(&tar, made.join(TREE)).map_err(io("the tree is gone"))?;
        let status = std::fs::read_to_string(work.join("status")).map_err(io("the tree holds no package list"))?;
        let manifest = ImageManifest {
            name: name.to_owned(),
            recipe_key,
            built: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            mirror: mirror.clone(),
            tools,
            packages: packages(&status),
            origin: None,
        };
        self.store.adopt(&made, manifest).map_err(io("cannot take the image into the store"))
    }

    /// Runs one step; what it prints goes to `build.log` and to whoever watches.
    async fn step(
        &self,
        guard: &Guard,
        mut command: Command,
        step: &'static str,
        work: &Path,
    ) -> Result<(), BuildError> {
        (self.progress)(step);
        // Output of both streams in one pipe would need a shell; mmdebstrap and its friends speak on stderr.
        command.stdout(Stdio::null()).stderr(Stdio::piped()).env("PATH", host::search_path());
        let spawn_failed = |error: MachineError| io("cannot start a build step")(std::io::Error::other(error));
        let mut process = guard.spawn(&mut command, step).map_err(spawn_failed)?;
        let log = work.join(LOG);
        let mut text = String::new();
        if let Some(stderr) = process.child().stderr.take() {
            let mut lines = BufReader::new(stderr).split(b'\n');
            while let Ok(Some(line)) = lines.next_segment().await {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                (self.progress)(&line);
                text.push_str(&line);
                text.push('\n');
            }
        }
        let status = process.wait().await.map_err(io("a build step was lost"))?;
        use std::io::Write;
        let appended = std::fs::OpenOptions::new().create(true).append(true).open(&log);
        appended.and_then(|mut log| log.write_all(text.as_bytes())).map_err(io("cannot write build.log"))?;
        if status.success() {
            return Ok(());
        }
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(12)..].join("\n");
        Err(BuildError::Step { step, status: status.to_string(), tail })
    }
}

fn debootstrap_arguments(recipe: &ImageRecipe, mirror: &Mirror, root: bool) -> Vec<String> {
    let mode = if root { "root" } else { "unshare" };
    let mut args = vec![
        format!("--mode={mode}"),
        "--variant=minbase".to_owned(),
        "--format=tar".to_owned(),
        format!("--include={}", recipe.packages.join(",")),
    ];
    if let Some(proxy) = &mirror.proxy {
        args.push(format!("--aptopt=Acquire::http::Proxy \"{proxy}\";"));
    }
    if !recipe.enable.is_empty() {
        args.push(format!("--customize-hook=chroot \"$1\" systemctl enable {}", recipe.enable.join(" ")));
    }
    // mmdebstrap takes a hook with line breaks for a file name, and complains.
    args.push(format!("--customize-hook={}", SETTLE.trim().replace('\n', "; ")));
    args
}

/// Package and version of each paragraph.
fn packages(status: &str) -> BTreeMap<String, String> {
    let field = |paragraph: &str, name: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_owned())
    };
    let package = |paragraph: &str| Some((field(paragraph, "Package:")?, field(paragraph, "Version:")?));
    status.split("\n\n").filter_map(package).collect()
}

async fn tool_versions() -> Result<BTreeMap<String, String>, BuildError> {
    let mut versions = BTreeMap::new();
    for tool in host::find_tools().await {
        if ["mmdebstrap", "mke2fs", "qemu-img"].contains(&tool.name) {
            let missing = || BuildError::Missing { tool: tool.name.to_owned(), package: tool.package.to_owned() };
            versions.insert(tool.name.to_owned(), tool.version.clone().ok_or_else(missing)?);
        }
    }
    Ok(versions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_secret_or_unique_stays_in_an_image() {
        for what in ["ssh_host_*", "/etc/hostname", "/etc/machine-id"] {
            assert!(SETTLE.contains(what), "{what}");
        }
    }

    #[test]
    fn packages_are_listed_with_versions() {
        let status = "Package: a\nStatus: install ok installed\nVersion: 1:2-3\n\nPackage: b\nVersion: 4\n\n";
        let list = packages(status);
        assert_eq!(list, BTreeMap::from([("a".to_owned(), "1:2-3".to_owned()), ("b".to_owned(), "4".to_owned())]));
    }
}

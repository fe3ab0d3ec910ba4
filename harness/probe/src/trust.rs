//! Lets the machine trust certificates that were laid into `/usr/local/share/ca-certificates`, as Debian's
//! `update-ca-certificates` does. That one begins anew with all authorities, which takes an emulated machine half a
//! minute: where nothing stands in the way, what it would add is added, to the letter.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use crate::identity::run;

/// A machine that gets it later, as a deploy installs `ca-certificates`, runs it then.
const UPDATE: &str = "usr/sbin/update-ca-certificates";
const LOCAL: &str = "usr/local/share/ca-certificates";
const TRUSTED: &str = "etc/ssl/certs";
const BUNDLE: &str = "etc/ssl/certs/ca-certificates.crt";
/// Programs that are told of what was added.
const HOOKS: &str = "etc/ca-certificates/update.d";

/// Trusts those that lie at these paths.
pub(crate) fn trust(paths: &[&str]) -> io::Result<()> {
    let root = Path::new("/");
    if paths.is_empty() || !root.join(UPDATE).exists() || add(root, paths, hash)? {
        return Ok(());
    }
    run(&root.join(UPDATE).display().to_string(), &[]).map(drop)
}

/// By which OpenSSL finds a certificate.
fn hash(certificate: &Path) -> io::Result<String> {
    let path = certificate.display().to_string();
    run("openssl", &["x509", "-noout", "-hash", "-in", &path]).map(|hash| hash.trim().to_owned())
}

/// Adds them, unless others of the machine's own, a hook or a name that is taken make it more than that; then nothing is
/// changed.
fn add(root: &Path, paths: &[&str], hash: impl Fn(&Path) -> io::Result<String>) -> io::Result<bool> {
    let mut paths: Vec<PathBuf> = paths.iter().map(|path| root.join(path.trim_start_matches('/'))).collect();
    paths.sort();
    let entries = |directory: &str| fs::read_dir(root.join(directory)).into_iter().flatten().flatten();
    let others = entries(LOCAL).any(|entry| !paths.contains(&entry.path()));
    let Ok(mut bundle) = fs::read_to_string(root.join(BUNDLE)) else { return Ok(false) };
    if others || entries(HOOKS).next().is_some() {
        return Ok(false);
    }
    let mut links = Vec::new();
    for path in &paths {
        let text = fs::read_to_string(path)?;
        bundle += &text;
        if !text.ends_with('\n') {
            bundle.push('\n');
        }
        let name = format!("{}.pem", path.file_stem().unwrap_or_default().display());
        let target = Path::new("/").join(path.strip_prefix(root).unwrap_or(path));
        links.push((root.join(TRUSTED).join(&name), target));
        links.push((root.join(TRUSTED).join(format!("{}.0", hash(path)?)), PathBuf::from(name)));
    }
    if links.iter().any(|(link, _)| link.symlink_metadata().is_ok()) {
        return Ok(false);
    }
    links.iter().try_for_each(|(link, target)| symlink(target, link))?;
    let new = root.join(BUNDLE).with_extension("crt.new");
    fs::write(&new, bundle)?;
    fs::set_permissions(&new, Permissions::from_mode(0o644))?;
    fs::rename(new, root.join(BUNDLE))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATHS: [&str; 2] =
        ["/usr/local/share/ca-certificates/redrill-b.crt", "/usr/local/share/ca-certificates/redrill-a.crt"];

    fn machine(name: &str) -> PathBuf {
        let root = std::env::temp_dir().join(format!("redrill-trust-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        [LOCAL, TRUSTED, HOOKS].iter().for_each(|dir| fs::create_dir_all(root.join(dir)).expect("made"));
        fs::write(root.join(BUNDLE), "of Debian\n").expect("written");
        for (path, text) in PATHS.iter().zip(["b", "a\n"]) {
            fs::write(root.join(&path[1..]), text).expect("written");
        }
        root
    }

    /// The name instead of what is in it.
    fn by_name(path: &Path) -> io::Result<String> {
        Ok(format!("hash-{}", path.file_stem().unwrap_or_default().display()))
    }

    #[test]
    fn what_is_added_is_what_the_long_way_would_add() {
        let root = machine("adds");
        assert!(add(&root, &PATHS, by_name).expect("read"));
        assert_eq!(fs::read_to_string(root.join(BUNDLE)).expect("there"), "of Debian\na\nb\n");
        let link = |name: &str| fs::read_link(root.join(TRUSTED).join(name)).expect("a link").display().to_string();
        assert_eq!((link("redrill-b.pem").as_str(), link("hash-redrill-b.0").as_str()), (PATHS[0], "redrill-b.pem"));
        assert!(!add(&root, &PATHS, by_name).expect("read"), "once");
        fs::remove_dir_all(root).expect("cleaned up");
    }

    #[test]
    fn the_long_way_is_taken_where_there_is_more_to_do() {
        for (name, path) in
            [("hook", "etc/ca-certificates/update.d/java"), ("other", "usr/local/share/ca-certificates/z")]
        {
            let root = machine(name);
            fs::write(root.join(path), "").expect("written");
            assert!(!add(&root, &PATHS, by_name).expect("read"), "{name}");
            assert_eq!(fs::read_to_string(root.join(BUNDLE)).expect("there"), "of Debian\n", "nothing is changed");
            fs::remove_dir_all(root).expect("cleaned up");
        }
    }
}

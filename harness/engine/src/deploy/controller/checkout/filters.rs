//! Files whose content in the commit is not what lies in a work tree: a filter of git's configuration stands between.
//! None is run here. What git-lfs keeps beside the commit is taken from there; what nobody can read is an error.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::super::ControllerError;
use super::source::GitSource;
use super::{WorkTree, git};
use crate::scenario_error::ScenarioError;

const POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";
/// How files begin that git-crypt, and openssl (transcrypt), encrypted.
const ENCRYPTED: [&[u8]; 3] = [b"\0GITCRYPT\0", b"U2FsdGVkX1", b"Salted__"];
/// More than any beginning that is looked for, and than a pointer of git-lfs.
const HEAD: u64 = 1024;

/// Looks at all files that a filter is named for.
pub(super) async fn look(source: &GitSource, tree: &WorkTree<'_>) -> Result<(), ControllerError> {
    let named = named(tree).await?;
    let mut programs = None;
    let mut filled = Vec::new();
    for (file, filter) in &named {
        let path = tree.work_tree.join(file);
        // A link is no content, and what lies behind it is not the commit's.
        if !fs::symlink_metadata(&path).is_ok_and(|about| about.is_file()) {
            continue;
        }
        let head = head(&path).map_err(ControllerError::io("cannot read the checkout"))?;
        if filter == "lfs" {
            if head.starts_with(POINTER) {
                fill(source, &path, Path::new(file), &head)?;
                filled.extend([file.as_encoded_bytes(), b"\0"].concat());
            }
            continue;
        }
        if ENCRYPTED.iter().any(|start| head.starts_with(start)) {
            let message = format!("`{}` is encrypted in the commit (filter `{filter}`)", file.display());
            let expected = "secrets beside the repo, in the directory that [keys] path names: filters are not run";
            return Err(ScenarioError::mismatch(message, expected).into());
        }
        if programs.is_none() {
            programs = Some(smudging(source).await?);
        }
        if let Some(program) = programs.as_ref().and_then(|programs| programs.get(filter)) {
            let message = format!("`{}` passes through `{program}` (filter `{filter}`) on checkout", file.display());
            let expected = "a file that the commit holds as it is deployed: filters are not run";
            return Err(ScenarioError::mismatch(message, expected).into());
        }
    }
    untouched(tree, filled).await
}

/// Files that have a filter by their attributes.
async fn named(tree: &WorkTree<'_>) -> Result<Vec<(std::ffi::OsString, String)>, ControllerError> {
    let files = tree.files(&[]).await?.stdout;
    let mut attributes = tree.git();
    attributes.args(["check-attr", "--stdin", "-z", "filter"]);
    let output = git::must(git::feed(attributes, files).await?, "git check-attr")?;
    let parts: Vec<&OsStr> = git::parts(&output).collect();
    let found = parts.chunks_exact(3).map(|entry| (entry[0].to_owned(), entry[2].to_string_lossy().into_owned()));
    Ok(found.filter(|(_, filter)| !matches!(filter.as_str(), "unspecified" | "unset" | "set")).collect())
}

fn head(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    fs::File::open(file)?.take(HEAD).read_to_end(&mut head)?;
    Ok(head)
}

/// Filters that make something else of a file when git checks it out: those of the repo, of its user and of the host.
/// The configuration is read as text.
async fn smudging(source: &GitSource) -> Result<BTreeMap<String, String>, ControllerError> {
    let mut found = BTreeMap::new();
    let own = source.common.join("config");
    let own = fs::metadata(&own).is_ok_and(|own| own.is_file()).then_some(own);
    let places =
        [Some(vec!["--system".into()]), Some(vec!["--global".into()]), own.map(|own| vec!["--file".into(), own])];
    for place in places.into_iter().flatten() {
        let mut git = git::bare();
        git.env_remove("GIT_CONFIG_GLOBAL").env_remove("GIT_CONFIG_SYSTEM").env_remove("GIT_CONFIG_NOSYSTEM");
        git.arg("config").args::<_, PathBuf>(place).args(["--no-includes", "--null", "--get-regexp"]);
        git.arg(r"^filter\..*\.(smudge|process)$").current_dir("/");
        let output = git::run(git).await?; // It fails where there are none.
        for entry in git::parts(&output).map(OsStr::to_string_lossy) {
            let Some((key, program)) = entry.split_once('\n') else { continue };
            let name = key.strip_prefix("filter.").and_then(|key| key.rsplit_once('.')).map(|(name, _)| name);
            if !matches!(program.trim(), "" | "cat") {
                found.extend(name.map(|name| (name.to_owned(), program.to_owned())));
            }
        }
    }
    Ok(found)
}

/// Puts a file of git-lfs in the place of its pointer, if the repo's own store has it.
fn fill(source: &GitSource, path: &Path, file: &Path, pointer: &[u8]) -> Result<(), ControllerError> {
    let text = String::from_utf8_lossy(pointer);
    let id = text.lines().find_map(|line| line.strip_prefix("oid sha256:")).unwrap_or_default().trim();
    let sound = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let kept = sound.then(|| source.common.join("lfs/objects").join(&id[..2]).join(&id[2..4]).join(id));
    match kept.map(|kept| copy_of(&kept, id, path)) {
        Some(Ok(true)) => Ok(()),
        _ => {
            let message = format!("`{}` is kept by git-lfs, and the repo has only the pointer to it", file.display());
            Err(ScenarioError::mismatch(message, "the file itself in the repo's store: git lfs fetch").into())
        }
    }
}

/// Copies `kept` over `to`, if its content is what `id` says.
fn copy_of(kept: &Path, id: &str, to: &Path) -> std::io::Result<bool> {
    if !fs::symlink_metadata(kept)?.is_file() {
        return Ok(false);
    }
    let mut from = fs::File::open(kept)?;
    let mut into = fs::File::create(to)?;
    let mut digest = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        into.write_all(&buffer[..read])?;
    }
    let hex: String = digest.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hex.eq_ignore_ascii_case(id))
}

/// Lets git take files that it did not write for what it wrote, as it does where git-lfs is set up.
async fn untouched(tree: &WorkTree<'_>, files: Vec<u8>) -> Result<(), ControllerError> {
    if files.is_empty() {
        return Ok(());
    }
    let mut update = tree.git();
    update.args(["update-index", "--assume-unchanged", "-z", "--stdin"]);
    git::must(git::feed(update, files).await?, "git update-index").map(drop)
}

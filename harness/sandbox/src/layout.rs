//! The file system of a sealed program, as the arguments of bubblewrap.

use std::ffi::OsString;
use std::path::Path;

use crate::cell::{Cell, USER_ID};
use crate::etc;

/// Directories of programs, which are links into `/usr` on most hosts.
const PROGRAMS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// The arguments up to the program; `filter` is the open descriptor of the system call filter.
pub(crate) fn arguments(cell: &Cell, place: &Path, filter: i32) -> Vec<OsString> {
    let mut words: Vec<OsString> = Vec::new();
    let mut add =
        |parts: &[&dyn AsRef<std::ffi::OsStr>]| words.extend(parts.iter().map(|part| part.as_ref().to_owned()));
    for namespace in ["--unshare-user", "--unshare-pid", "--unshare-uts", "--unshare-ipc", "--unshare-cgroup-try"] {
        add(&[&namespace]);
    }
    let user = USER_ID.to_string();
    add(&[&"--uid", &user, &"--gid", &user, &"--cap-drop", &"ALL", &"--die-with-parent", &"--new-session"]);
    add(&[&"--hostname", &cell.host_name, &"--seccomp", &filter.to_string()]);
    add(&[&"--ro-bind", &"/usr", &"/usr"]);
    for directory in PROGRAMS {
        match std::fs::read_link(directory) {
            Ok(target) => add(&[&"--symlink", &target, &directory]),
            Err(_) => add(&[&"--ro-bind-try", &directory, &directory]),
        }
    }
    for path in etc::SHARED {
        add(&[&"--ro-bind-try", path, path]);
    }
    for (name, _) in etc::files(cell) {
        add(&[&"--ro-bind", &place.join("etc").join(name), &Path::new("/etc").join(name)]);
    }
    add(&[&"--proc", &"/proc", &"--dev", &"/dev", &"--perms", &"1777", &"--tmpfs", &"/tmp"]);
    add(&[&"--perms", &"1777", &"--tmpfs", &"/var/tmp", &"--dir", &"/run", &"--dir", &"/root"]);
    for path in &cell.read_only {
        add(&[&"--ro-bind", path, path]);
    }
    for path in &cell.writable {
        add(&[&"--bind", path, path]);
    }
    for (from, to) in &cell.moved {
        add(&[&"--ro-bind", from, to]);
    }
    add(&[&"--remount-ro", &"/", &"--clearenv"]);
    for (name, value) in &cell.environment {
        add(&[&"--setenv", name, value]);
    }
    add(&[&"--chdir", &cell.directory]);
    words
}

//! systemd's managers: what they give to all that they start, and those of users.
//!
//! A user's manager counts where it is there without a login: it lingers, or somebody started it as a unit. One that a
//! login brought goes with it.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use redrill_state::{ManagerVariable, Section};

use crate::found::{Found, Root};
use crate::shadow::{Key, keyed};

/// Variables that are anew with each manager.
const OF_THE_RUN: [&str; 2] = ["INVOCATION_ID", "JOURNAL_STREAM"];

/// A user's manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manager {
    /// The user's name.
    pub(crate) user: String,
    pub(crate) uid: u32,
    gid: u32,
    home: PathBuf,
}

impl Manager {
    /// Its unit in the system's manager.
    pub(crate) fn unit(&self) -> String {
        format!("user@{}.service", self.uid)
    }

    /// What this manager's unit is called here.
    pub(crate) fn name(&self, unit: &str) -> String {
        format!("{unit} of {}", self.user)
    }

    pub(crate) fn invocations(&self, root: &Root) -> PathBuf {
        root.at(format!("/run/user/{}/systemd/units", self.uid))
    }

    /// Where its unit files lie, the strongest first: systemd.unit(5).
    pub(crate) fn search(&self, root: &Root) -> Vec<PathBuf> {
        let run = format!("/run/user/{}/systemd", self.uid);
        let home = self.home.display();
        [
            format!("{home}/.config/systemd/user.control"),
            format!("{run}/user.control"),
            format!("{run}/transient"),
            format!("{home}/.config/systemd/user"),
            "/etc/systemd/user".to_owned(),
            format!("{run}/user"),
            "/run/systemd/user".to_owned(),
            format!("{run}/generator"),
            format!("{home}/.local/share/systemd/user"),
            "/usr/local/lib/systemd/user".to_owned(),
            "/usr/lib/systemd/user".to_owned(),
        ]
        .map(|path| root.at(path))
        .into()
    }

    /// `systemctl --user`, as the user: its manager hears nobody else. No session is opened.
    pub(crate) fn systemctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new("systemctl");
        command.arg("--user").args(args).env_clear().uid(self.uid).gid(self.gid).current_dir("/");
        command.env("XDG_RUNTIME_DIR", format!("/run/user/{}", self.uid)).env("LC_ALL", "C.UTF-8");
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").stdin(Stdio::null());
        command
    }
}

/// Those that are there without a login.
pub(crate) fn of_users(root: &Root) -> Vec<Manager> {
    let accounts = root.text("/etc/passwd").ok().flatten().unwrap_or_default();
    let manager = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let &[user, _, uid, gid, _, home, _] = fields.as_slice() else { return None };
        let (uid, gid, home) = (uid.parse().ok()?, gid.parse().ok()?, PathBuf::from(home));
        let runs = root.at(format!("/run/user/{uid}/systemd/private")).exists();
        let lingers = root.at(format!("/var/lib/systemd/linger/{user}")).exists();
        let of_login = root.at(format!("/run/systemd/users/{uid}")).exists();
        (runs && (lingers || !of_login)).then(|| Manager { user: user.to_owned(), uid, gid, home })
    };
    accounts.lines().filter_map(manager).collect()
}

/// What `systemctl` says; an error is one sentence.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("systemctl: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(format!("systemctl {}: {}: {complaint}", args.join(" "), output.status))
}

/// The variables of every manager.
pub(crate) fn variables(root: &Root, key: &Key) -> Found {
    let mut found = Found::new(Section::ManagerVariables);
    let mut of_system = Command::new("systemctl");
    of_system.arg("show-environment").stdin(Stdio::null());
    let mut all = vec![(String::new(), of_system)];
    all.extend(of_users(root).iter().map(|manager| (manager.user.clone(), manager.systemctl(&["show-environment"]))));
    for (manager, mut command) in all {
        match said(&mut command) {
            Ok(text) => {
                let lines = text.lines().filter_map(|line| line.split_once('='));
                for (name, value) in lines.filter(|(name, _)| !OF_THE_RUN.contains(name)) {
                    let (manager, name, value) = (manager.clone(), name.to_owned(), keyed(key, value));
                    found.add(ManagerVariable { manager, name, value });
                }
            }
            Err(error) => found.gap(error),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;

    #[test]
    fn a_manager_counts_that_is_there_without_a_login() {
        let tree = Tree::new("managers");
        tree.file(
            "/etc/passwd",
            "a:x:1:1::/home/a:/bin/sh\nb:x:2:2::/home/b:/bin/sh\nc:x:3:3::/home/c:/bin/sh\nd:x:4:4::/:/bin/sh\n",
        );
        for uid in 1..4 {
            tree.file(&format!("/run/user/{uid}/systemd/private"), "");
        }
        for uid in 1..3 {
            tree.file(&format!("/run/systemd/users/{uid}"), "");
        }
        tree.file("/var/lib/systemd/linger/a", "");
        let seen: Vec<String> = of_users(&tree.root()).iter().map(|manager| manager.name("x.service")).collect();
        assert_eq!(seen, ["x.service of a", "x.service of c"], "b is logged in, and d has no manager");
    }
}

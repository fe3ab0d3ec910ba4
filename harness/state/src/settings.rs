//! The entries of the smaller sections: who may enter, what runs when, what the kernel and the package manager were told.

use serde::{Deserialize, Serialize};

use crate::entries::Facts;

/// Declares an entry: its fields, then how it is compared. `name` makes the subject, `source` the file that says so,
/// and `compared` the facts; every other field is only told.
macro_rules! entry {
    (
        $(#[$doc:meta])* $name:ident {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
        name: |$this:ident| $subject:expr;
        source: |$that:ident| $source:expr;
        compared: $($fact:ident $attribute:literal),*;
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl Facts for $name {
            fn subject(&self) -> String {
                let $this = self;
                $subject
            }

            fn source(&self) -> Option<&str> {
                let $that = self;
                $source
            }

            fn facts(&self) -> Vec<(&'static str, String)> {
                vec![$(($attribute, self.$fact.to_string())),*]
            }
        }
    };
}
pub(crate) use entry;

entry! {
    /// A line of `/etc/shadow`.
    Shadow {
        /// Account.
        name: String,
        /// `none`, `locked`, or the scheme and a digest that only this run's key can make; with `locked` before it if the
        /// hash is there and disabled.
        password: String,
        /// Day of the last change.
        changed: String,
        /// Days before it may be changed.
        least: String,
        /// Days after which it must be changed.
        most: String,
        /// Days of warning.
        warn: String,
        /// Days after which it is disabled.
        inactive: String,
        /// Day on which the account ends.
        expires: String,
    }
    name: |it| it.name.clone();
    source: |_it| Some("/etc/shadow");
    compared: password "password", changed "last change", least "least days", most "most days", warn "warning days",
        inactive "inactive days", expires "end of account";
}

entry! {
    /// A key that may sign in.
    AuthorizedKey {
        /// Account.
        user: String,
        /// Where the key stands.
        file: String,
        /// The file's owner, a number.
        owner: u32,
        /// Such as `ssh-ed25519`; `unreadable` for a line that sshd ignores.
        kind: String,
        /// `SHA256:` and so on, as `ssh-keygen -l` prints it.
        fingerprint: String,
        /// What stands before the key: `from=`, `command=`, `restrict`.
        options: String,
        /// What stands behind it.
        comment: String,
    }
    name: |it| format!("{} {} in {}", it.user, it.fingerprint, it.file);
    source: |it| Some(&it.file);
    compared: kind "type", options "options", comment "comment", owner "owner of the file";
}

entry! {
    /// A line of sudo's rules, continued lines joined.
    SudoRule {
        /// Its text, blanks made one.
        rule: String,
        /// Where it stands.
        file: String,
        /// The line that sudo reads before it; the last that fits wins.
        after: String,
    }
    name: |it| it.rule.clone();
    source: |it| Some(&it.file);
    compared: file "file", after "after";
}

entry! {
    /// A setting of sshd as it takes effect.
    SshdOption {
        /// For whom; for all but `root` only what differs from root's.
        user: String,
        /// Its name in small letters.
        option: String,
        /// Its values, joined.
        value: String,
    }
    name: |it| format!("{} for {}", it.option, it.user);
    source: |_it| Some("/etc/ssh/sshd_config");
    compared: value "value";
}

entry! {
    /// A timer of systemd.
    Timer {
        /// Unit.
        unit: String,
        /// `OnCalendar=` and its kin, drop-ins heeded.
        schedule: String,
        /// The unit it starts.
        starts: String,
        /// Where the unit's file is.
        file: String,
        /// When it fires next, in words; not compared.
        next: String,
        /// When it last fired: nanoseconds since 1970; 0 for never. Not compared.
        last: i64,
    }
    name: |it| it.unit.clone();
    source: |it| Some(&it.file);
    compared: schedule "schedule", starts "starts";
}

entry! {
    /// A job of cron, or a variable that its jobs see.
    CronJob {
        /// Crontab, or script of `/etc/cron.daily` and its kin.
        file: String,
        /// Five fields, `@daily`, or the directory's period; `set` for a variable.
        schedule: String,
        /// Who runs it.
        user: String,
        /// The command's first word, or the variable's name.
        program: String,
        /// BLAKE3 of the whole command: arguments may be secrets.
        command: String,
    }
    name: |it| format!("{}: {} {} {}", it.file, it.schedule, it.user, it.program);
    source: |it| Some(&it.file);
    compared: command "command";
}

entry! {
    /// A table, chain, set or rule of the kernel's packet filter, without counters and handles.
    FirewallRule {
        /// Family, table and chain.
        place: String,
        /// As `nft` or `iptables-save` writes it.
        rule: String,
        /// The rule before it in its chain.
        after: String,
    }
    name: |it| format!("{}: {}", it.place, it.rule);
    source: |_it| None;
    compared: after "after";
}

entry! {
    /// A kernel setting, and what a file of `sysctl.d` declares of it.
    Sysctl {
        /// Name with dots.
        key: String,
        /// What the winning file says; empty where none does.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        declared: String,
        /// That file.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        file: String,
        /// What the kernel says; empty if it knows no such setting.
        running: String,
    }
    name: |it| it.key.clone();
    source: |it| Some(it.file.as_str()).filter(|file| !file.is_empty());
    compared: declared "declared", file "file", running "running";
}

entry! {
    /// A file system in use.
    Mount {
        /// Where.
        point: String,
        /// Device or name.
        source: String,
        /// File system.
        kind: String,
        /// Options of mount and file system.
        options: String,
    }
    name: |it| it.point.clone();
    source: |_it| None;
    compared: source "source", kind "type", options "options";
}

entry! {
    /// A line of `/etc/fstab`.
    Fstab {
        /// Device.
        source: String,
        /// Where.
        point: String,
        /// File system.
        kind: String,
        /// Options.
        options: String,
        /// Numbers for dump and fsck.
        passes: String,
    }
    name: |it| if it.point.starts_with('/') { it.point.clone() } else { format!("{} {}", it.kind, it.source) };
    source: |_it| Some("/etc/fstab");
    compared: source "source", kind "type", options "options", passes "passes";
}

entry! {
    /// A container.
    Container {
        /// `docker` or `podman`.
        engine: String,
        /// Name.
        name: String,
        /// A new one whenever the container is made anew.
        id: String,
        /// Image's name.
        image: String,
        /// When it was made.
        created: String,
        /// When it was last started, where the engine notes that; not compared.
        started: String,
    }
    name: |it| format!("{} of {}", it.name, it.engine);
    source: |_it| None;
    compared: id "id", image "image", created "created";
}

entry! {
    /// A file that lends its owner's rights, or that everybody may write.
    Exposure {
        /// Path.
        path: String,
        /// `set-uid`, `set-gid`, `world-writable`, joined.
        kind: String,
        /// Permission bits.
        mode: String,
        /// Owner's number.
        uid: u32,
        /// Group's number.
        gid: u32,
    }
    name: |it| it.path.clone();
    source: |it| Some(&it.path);
    compared: kind "kind", mode "mode", uid "uid", gid "gid";
}

entry! {
    /// A source of packages.
    AptSource {
        /// Where it is declared.
        file: String,
        /// `deb`, `deb-src`.
        types: String,
        /// Address, without password.
        uri: String,
        /// Suite.
        suite: String,
        /// Components.
        components: String,
        /// Keys it is trusted by.
        signed_by: String,
        /// Other options.
        options: String,
    }
    name: |it| format!("{} {} {}", it.types, it.uri, it.suite);
    source: |it| Some(&it.file);
    compared: file "file", components "components", signed_by "signed by", options "options";
}

entry! {
    /// A file of keys that packages are trusted by.
    AptKey {
        /// Path.
        path: String,
        /// BLAKE3 of its content.
        digest: String,
    }
    name: |it| it.path.clone();
    source: |it| Some(&it.path);
    compared: digest "content";
}

entry! {
    /// A name of which several programs may be the meaning.
    Alternative {
        /// Name.
        name: String,
        /// `auto` or `manual`.
        mode: String,
        /// The link that everybody uses.
        link: String,
        /// What it means now.
        target: String,
        /// dpkg's file about it.
        file: String,
    }
    name: |it| it.name.clone();
    source: |it| Some(&it.file);
    compared: mode "mode", link "link", target "target";
}

entry! {
    /// A variable of the system's locale, or a locale that is to be made.
    LocaleSetting {
        /// `LANG`, or `locale de_DE.UTF-8`.
        name: String,
        /// Value.
        value: String,
        /// Where it stands.
        file: String,
    }
    name: |it| format!("{} in {}", it.name, it.file);
    source: |it| Some(&it.file);
    compared: value "value";
}

entry! {
    /// The machine's time zone.
    TimeZone {
        /// Such as `Europe/Berlin`.
        zone: String,
        /// BLAKE3 of its rules.
        rules: String,
    }
    name: |_it| "time zone".to_owned();
    source: |_it| Some("/etc/localtime");
    compared: zone "zone", rules "rules";
}

entry! {
    /// Swap space in use.
    Swap {
        /// File or device.
        path: String,
        /// `file` or `partition`.
        kind: String,
        /// KiB.
        size: String,
        /// Priority.
        priority: String,
    }
    name: |it| it.path.clone();
    source: |_it| None;
    compared: kind "type", size "size", priority "priority";
}

entry! {
    /// A kernel module that a file of `modules-load.d` wants, or that is loaded.
    KernelModule {
        /// Name.
        name: String,
        /// Where it is wanted; empty where it is not.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        file: String,
        /// `yes`, `no`, or `built in`.
        loaded: String,
    }
    name: |it| if it.file.is_empty() { it.name.clone() } else { format!("{} of {}", it.name, it.file) };
    source: |it| Some(it.file.as_str()).filter(|file| !file.is_empty());
    compared: loaded "loaded";
}

entry! {
    /// Something that a database server knows: a role, a grant, a table and its rows. Never the data itself.
    DatabaseObject {
        /// `postgresql 5432`, `mariadb`, or the file of SQLite.
        server: String,
        /// Database; empty for what belongs to the server.
        database: String,
        /// `role`, `table`, `index`, ...
        kind: String,
        /// Name.
        name: String,
        /// Digest of its definition that only this run's key can make.
        definition: String,
        /// Of a table: how many rows it has; empty if nobody counted.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rows: String,
        /// Of a table: such a digest of all its rows, in any order; empty if they were not read.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        values: String,
    }
    name: |it| [&it.server, &it.database, &it.kind, &it.name].map(String::as_str).into_iter()
        .filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    source: |_it| None;
    compared: definition "definition", rows "rows", values "values";
}

//! Who wrote what while a deploy worked, as the kernel told it. A class or the noise excuses what happens by itself,
//! and never what the deploy's own processes did.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Whose process it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Writer {
    /// The deploy's: it came in over SSH, or descends from what did.
    Deploy,
    /// One of this unit.
    Unit(String),
    /// It had ended before it could be looked at.
    Unknown,
}

/// What became of a file from the beginning of a deploy to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Became {
    /// It was not there before.
    New,
    /// It is no longer there.
    Gone,
    /// It has the content that it had.
    Same,
    /// It begins with the content that it had.
    Appended,
    /// It has another content.
    Changed,
    /// Nobody looked at it before: captures tell.
    NotFollowed,
}

/// What one kind of writer did to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// As it is called at the end.
    pub path: String,
    /// Whose process.
    pub by: Writer,
    /// The program that did it last, as a path; empty if that could not be told.
    pub program: String,
    /// When it was last written: nanoseconds since 1970 on the machine's clock.
    pub last: i64,
    /// When the login began in which that process lay: a command that was left behind acts long after its operation.
    pub began: i64,
    /// Bytes were written, or it was emptied; else it was only opened for writing.
    pub modified: bool,
    /// Whoever else wrote it too.
    pub became: Became,
}

/// A program that the deploy ran. Times are nanoseconds since 1970 on the machine's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanProgram {
    /// Its path.
    pub program: String,
    /// When.
    pub at: i64,
    /// When the login began in which it ran.
    pub began: i64,
}

/// A line of what the probe tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A file was written.
    Written(Written),
    /// The deploy ran a program.
    Ran(RanProgram),
    /// More happened than could be followed, or a place could not be watched: why.
    Missed(String),
    /// The last line: without it the telling is not whole.
    End,
}

/// Something of a deploy that will still act when the deploy has ended: a process, a timer, a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The command, or what else it is, in words.
    pub what: String,
    /// When it began: nanoseconds since 1970 on the machine's clock.
    pub since: i64,
    /// How long until it acts, in nanoseconds, if it says so; negative if it should have.
    pub left: Option<i64>,
}

/// All that was seen on one machine during one deploy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Witnessed {
    /// By path.
    written: BTreeMap<String, Vec<Written>>,
    /// Programs that the deploy ran, in order.
    ran: Vec<RanProgram>,
    /// Why not everything was seen.
    pub missed: Vec<String>,
}

impl Witnessed {
    /// Nothing was seen: why.
    pub fn lost(why: String) -> Self {
        Self { missed: vec![why], ..Self::default() }
    }

    /// Reads what the probe told, a JSON object a line.
    pub fn read(text: &str) -> Self {
        let mut seen = Self::default();
        let mut whole = false;
        for line in text.lines() {
            match serde_json::from_str(line) {
                Ok(Told::Written(written)) => seen.written.entry(written.path.clone()).or_default().push(written),
                Ok(Told::Ran(run)) => seen.ran.push(run),
                Ok(Told::Missed(why)) => seen.missed.push(why),
                Ok(Told::End) => whole = true,
                Err(error) => seen.missed.push(format!("a line could not be read: {error}")),
            }
        }
        if !whole {
            seen.missed.push("the telling breaks off".to_owned());
        }
        seen
    }

    /// What the deploy did to this file, if it wrote it.
    pub fn by_deploy(&self, path: &str) -> Option<&Written> {
        self.written.get(path)?.iter().find(|written| written.by == Writer::Deploy)
    }

    /// The programs that the deploy ran, as paths.
    pub fn programs(&self) -> BTreeSet<&str> {
        self.ran.iter().map(|run| run.program.as_str()).collect()
    }

    /// When programs of these names ran.
    pub(crate) fn times_of(&self, names: &[&str]) -> Vec<i64> {
        self.ran.iter().filter(|run| names.contains(&name_of(&run.program))).map(|run| run.at).collect()
    }

    /// When the login began that asked a manager to do something right before `when`, if one did.
    pub(crate) fn asked_before(&self, when: i64) -> Option<i64> {
        let is_asking =
            |run: &&RanProgram| MANAGERS.contains(&name_of(&run.program)) && (0..SOON).contains(&(when - run.at));
        self.ran.iter().rev().find(is_asking).map(|run| run.began)
    }

    /// Every file that the deploy wrote.
    pub fn of_deploy(&self) -> impl Iterator<Item = &Written> {
        self.written.values().flatten().filter(|written| written.by == Writer::Deploy)
    }

    /// Files that are there and another way than before, and of which it could not be told who wrote them.
    pub fn of_nobody(&self) -> impl Iterator<Item = &Written> {
        let told = |path: &str| self.by_deploy(path).is_some();
        let lasts = |became| !matches!(became, Became::Gone | Became::Same);
        let nobody = self.written.values().flatten().filter(|written| written.by == Writer::Unknown);
        nobody.filter(move |written| lasts(written.became) && !told(&written.path))
    }
}

/// Programs by which somebody tells a manager to start, stop or restart something.
const MANAGERS: [&str; 6] = ["systemctl", "service", "invoke-rc.d", "supervisorctl", "docker", "loginctl"];
/// Between the question and what comes of it, in nanoseconds.
const SOON: i64 = 10_000_000_000;

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// What any script is run by, and what the harness runs around one: that these ran says nothing about the script.
const AROUND: [&str; 13] =
    ["sh", "dash", "bash", "zsh", "ksh", "env", "sudo", "su", "locale-check", "sftp-server", "mktemp", "tar", "rm"];

/// Whether a second run of a script ran none of the programs that the first one ran: then it was another run, and what it
/// left untouched shows nothing. A first run that ran no programs beside its shell's own says nothing either.
pub fn is_another_run(first: &Witnessed, second: &Witnessed) -> bool {
    let work = |seen: &Witnessed| -> BTreeSet<String> {
        let names = seen.ran.iter().map(|run| name_of(&run.program));
        names.filter(|name| !AROUND.contains(name)).map(str::to_owned).collect()
    };
    let (first, second) = (work(first), work(second));
    !first.is_empty() && first.is_disjoint(&second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(programs: &[&str]) -> Witnessed {
        let run = |(at, program): (i64, &&str)| RanProgram { program: (*program).to_owned(), at, began: 0 };
        Witnessed { ran: (0..).zip(programs).map(run).collect(), ..Witnessed::default() }
    }

    #[test]
    fn a_telling_that_breaks_off_says_so() {
        let written = r#"{"written":{"path":"/run/x","by":"deploy","program":"/bin/tee","last":5,"began":1,"modified":true,"became":"new"}}"#;
        let other = r#"{"written":{"path":"/run/x","by":{"unit":"app.service"},"program":"","last":6,"began":1,"modified":true,"became":"new"}}"#;
        let seen = Witnessed::read(&format!(
            "{written}\n{other}\n{{\"ran\":{{\"program\":\"/bin/tee\",\"at\":4,\"began\":1}}}}\n\"end\"\n"
        ));
        assert_eq!(seen.missed, [""; 0]);
        assert_eq!(seen.by_deploy("/run/x").map(|written| written.last), Some(5));
        assert_eq!(seen.of_deploy().count(), 1);
        assert!(seen.programs().contains("/bin/tee"));
        assert_eq!(Witnessed::read(written).missed, ["the telling breaks off"]);
        assert_eq!(Witnessed::read("nonsense\n\"end\"").missed.len(), 1);
    }

    #[test]
    fn a_writer_that_could_not_be_told_is_no_secret() {
        let line = |path: &str, by: &str| {
            format!(
                r#"{{"written":{{"path":"{path}","by":"{by}","program":"","last":1,"began":1,"modified":true,"became":"changed"}}}}"#
            )
        };
        let text = [
            line("/a", "unknown"),
            line("/b", "unknown"),
            line("/b", "deploy"),
            line("/c", "unknown").replace("changed", "gone"),
            "\"end\"".to_owned(),
        ]
        .join("\n");
        let seen = Witnessed::read(&text);
        let paths: Vec<&str> = seen.of_nobody().map(|written| written.path.as_str()).collect();
        assert_eq!(paths, ["/a"], "of the other it is told");
    }

    #[test]
    fn a_run_that_runs_nothing_of_what_the_first_ran_is_another_one() {
        let first = ran(&["/bin/sh", "/usr/bin/touch", "/usr/bin/apt-get"]);
        assert!(is_another_run(&first, &ran(&["/bin/sh"])));
        assert!(is_another_run(&first, &ran(&["/bin/sh", "/usr/bin/id"])));
        assert!(!is_another_run(&first, &ran(&["/bin/sh", "/bin/touch"])), "by another path it is the same program");
        assert!(!is_another_run(&ran(&["/bin/sh"]), &ran(&["/bin/sh"])), "a shell alone can do work too");
    }
}

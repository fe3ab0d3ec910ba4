//! The codes of findings, as data: what each means, what it does to a verdict, what mends it. `redrill explain` and the
//! reference page are drawn from this table.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::claim::{Claim, Severity};

macro_rules! codes {
    ($($variant:ident $word:literal $severity:ident [$($claim:ident)*] $meaning:literal $remedy:literal $example:literal)*) => {
        /// What a finding is about. The word stands in reports and never changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Code {
            $(#[doc = $meaning] $variant,)*
        }

        impl Code {
            /// Every code, in the order of the reference page.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The word in reports, such as `REAL_CHANGE`.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// What a finding of this code does to the verdict of its own claims.
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)* }
            }

            /// The claims it speaks about. Empty: it says why a drill did not get further, and any claim may be left
            /// open by it.
            pub fn claims(self) -> &'static [Claim] {
                match self { $(Self::$variant => &[$(Claim::$claim),*],)* }
            }

            /// One sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning,)* }
            }

            /// What to do about it.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)* }
            }

            /// Lines that bring it about, or mend it.
            pub fn example(self) -> &'static str {
                match self { $(Self::$variant => $example,)* }
            }
        }
    };
}

codes! {
    // Any claim: why a drill did not get further.
    NotRun "NOT_RUN" Unknown []
        "The drill did not get that far, so nothing was looked at."
        "Read the first finding of the report: what stopped the drill stands there."
        "rebuilds    FAILED    DEPLOY_FAILED\nidempotent  UNPROVEN  NOT_RUN: there was no second deploy to look at"
    NotProven "NOT_PROVEN" Unknown []
        "What ran does not suffice to tell: nothing was executed, the second run was another run, or an output could not be read."
        "Make both runs the same run: facts and variables must not decide at random which operations there are."
        "if not host.get_fact(File, '/etc/app.conf'):\n    files.put(...)     # missing from the second run; use _if instead"
    TimedOut "TIMED_OUT" Unknown []
        "Something took longer than its limit."
        "Look at the last lines of the log; if it is only slow, raise the limit in scenario.toml."
        "[limits]\ndeploy = \"40m\""
    Interrupted "INTERRUPTED" Unknown []
        "The drill was interrupted by its user."
        "Run it again: the report names the command."
        "^C while the second deploy ran"
    MachineLost "MACHINE_LOST" Unknown []
        "A machine ended, or stopped answering, under the drill. This says nothing about the repo."
        "Read the console in the run directory; a machine that ran out of memory needs more."
        "[[machine]]\nname = \"web\"\nmemory-mib = 2048"
    MachineNotReady "MACHINE_NOT_READY" Unknown []
        "A machine did not come up."
        "Read its console in the run directory, and run `redrill doctor`."
        "redrill doctor"
    HostFull "HOST_FULL" Unknown []
        "This host's disk is full. This says nothing about the repo."
        "Free some: `redrill image prune`, `redrill clean --all`."
        "redrill clean --all && redrill image prune"
    NoImage "NO_IMAGE" Unknown []
        "An image could not be built or read."
        "Build it by itself and read what it says: `redrill image build NAME`."
        "redrill image build debian-13"
    NoController "NO_CONTROLLER" Unknown []
        "The deploy tool could not be set up or started on the controller."
        "Read the evidence: a requirement that cannot be installed is named there."
        "pyinfra==99.0    # no such version"
    NoAcme "NO_ACME" Unknown []
        "The drill's certificate authority could not be started."
        "Install pebble (`ci/setup` does), or remove `acme` from [network]."
        "[network]\nacme = [\"web.example.org\"]"
    AcmeLost "ACME_LOST" Unknown []
        "The drill's certificate authority ended while machines relied on it."
        "Run the drill again; if it repeats, its log lies in the run directory."
        "redrill run SCENARIO --keep-on-failure"
    NoCapture "NO_CAPTURE" Unknown []
        "The state of a machine could not be captured, or read back."
        "Read the evidence; a machine that is out of disk or memory cannot be captured."
        "[[machine]]\nname = \"web\"\nmemory-mib = 2048"
    Unsealed "UNSEALED" Unknown []
        "This host can neither make namespaces nor run a container, so that no program of the repo was run."
        "`redrill doctor` names the setting that mends it; a waiver with a reason accepts it."
        "[[waiver]]\nclaim = \"rebuilds\"\npath = \"sandbox\"\nreason = \"this CI has neither\"\nby = \"ada\"\nuntil = 2027-01-31"
    WaiverExpired "WAIVER_EXPIRED" Fails []
        "A waiver is past its date."
        "Mend what it covered, or renew it with a new date and reason."
        "until = 2026-01-31"
    WaiverUnused "WAIVER_UNUSED" Fails []
        "A waiver covers nothing any more."
        "Remove it: what it covered is mended."
        "[[waiver]]\npath = \"/etc/motd\"     # /etc/motd is stable now"

    // rebuilds
    Production "PRODUCTION" Fails [Rebuilds]
        "A program of the repo tried to reach a production host. No packet left the sandbox."
        "Find out why the operation talks to a host itself; declare the way if it must, and it leads to the drill's machine."
        "local.shell('curl http://203.0.113.7/deploy-hook')"
    Outside "OUTSIDE" Unknown [Rebuilds]
        "A program of the repo wanted something of the world: this commit and the keys were not enough."
        "Put what it fetches into the repo, or declare the way in scenario.toml with a reason."
        "[network]\ncontroller = [{ to = \"vault.example.org:8200\", why = \"secrets\" }]"
    DeployFailed "DEPLOY_FAILED" Fails [Rebuilds]
        "The deploy into clean machines failed."
        "Mend the operation that the finding names: on a clean machine something it relies on is missing."
        "files.put(src='app.conf', dest='/etc/app/app.conf')   # nothing makes /etc/app"
    IgnoredError "IGNORED_ERROR" Warning [Rebuilds]
        "An operation failed, and its author allows that."
        "If it may fail, say when; if not, remove the permission."
        "ignore_errors: true"

    // idempotent
    RealChange "REAL_CHANGE" Fails [Idempotent]
        "The second deploy changed something, and the tool said so."
        "Make the operation look before it writes, or write the same each time."
        "server.shell(commands=['date > /etc/deployed-at'])"
    SilentChange "SILENT_CHANGE" Fails [Idempotent]
        "The second deploy changed something, and the tool did not say so."
        "Find what wrote it (a script's side effect, a fact that writes) and make it write only what is needed."
        "changed_when: false     # on a task that appends to a file"
    FlipFlop "FLIP_FLOP" Fails [Idempotent]
        "Two operations of the second deploy undo each other."
        "Let one operation own the path, with the final content."
        "files.template(dest='/etc/app.conf')\nfiles.line(path='/etc/app.conf', line='debug = no')"
    Disruptive "DISRUPTIVE" Fails [Idempotent]
        "The second deploy restarted a service, rebooted a machine, or left a port unanswered."
        "Restart only when something changed."
        "systemd.service(service='app', restarted=True)     # add _if=config.did_change"
    Stale "STALE" Fails [Idempotent]
        "After the first deploy a service runs with something older than what was deployed."
        "Restart (or daemon-reload) it after the operation that changes its files."
        "files.put(dest='/etc/systemd/system/app.service')   # and no daemon_reload"
    RerunFails "RERUN_FAILS" Fails [Idempotent]
        "The first deploy ended well, and the second failed."
        "Make the operation accept that its work is done already."
        "server.shell(commands=['useradd app'])     # exists the second time"
    ControllerDependent "CONTROLLER_DEPENDENT" Fails [Idempotent]
        "What the deploy makes depends on where it runs from: path, user, host name, TZ, LANG, HOME, hash seed."
        "Take the value out of the template, or sort what has no order; `same` under [deploy] switches one off with a reason."
        "# managed by {{ lookup('env', 'USER') }} from {{ playbook_dir }}"
    FalseChange "FALSE_CHANGE" Warning [Idempotent]
        "An operation reports a change, and none of what was compared changed. With `strict` it fails the claim."
        "Give the operation a condition by which it knows that nothing is to be done."
        "- command: systemctl is-active app     # changed_when: false"
    Rewrite "REWRITE" Info [Idempotent]
        "An operation wrote files with the content that they had."
        "Nothing must be done; a service that watches the file's time may still notice."
        "server.shell(commands=['cp /srv/a /etc/a'])"
    LeftRunning "LEFT_RUNNING" Unknown [Idempotent]
        "The second deploy left something that will still act: a process of its login, a timer, a job of at. What it does was not seen."
        "Let the deploy wait for it, or make it a unit; what acts within a minute is waited for."
        "server.shell(commands=['(sleep 3600; systemctl restart app) &'])"
    LeftBehind "LEFT_BEHIND" Warning [Idempotent]
        "The second deploy left a new file in /tmp or /var/tmp."
        "Remove it at the end, or give it a name that stays the same."
        "server.shell(commands=['echo {{ token }} > $(mktemp)'])"
    UnitRan "UNIT_RAN" Info [Idempotent]
        "A job ran once more during the second deploy, and interrupted nobody."
        "Nothing must be done."
        "systemd.service(service='backup.service', running=True)   # a oneshot"
    NoControl "NO_CONTROL" Unknown [Idempotent]
        "There was no idle twin, so that what changes by itself cannot be told from what the deploy did."
        "Read why the twin could not be made: mostly memory."
        "redrill doctor"
    NotCompared "NOT_COMPARED" Info [Idempotent]
        "Not everything in databases was compared."
        "The evidence lists what was left out, and why."
        "a table above the size that is read"
    Incomplete "INCOMPLETE" Unknown [Idempotent Resumes]
        "A part of a machine's state could not be read whole."
        "The finding names the part and the reason."
        "units: systemctl did not answer"

    // serves, survives-reboot
    CheckFailed "CHECK_FAILED" Fails [Serves SurvivesReboot Restores]
        "A check does not hold."
        "The evidence has what was seen; `redrill run SCENARIO --keep-on-failure` leaves the machine for a look."
        "[[check.http]]\nname = \"front page\"\nurl = \"http://web/\"\nstatus = 200"
    CheckUnknown "CHECK_UNKNOWN" Unknown [Serves SurvivesReboot]
        "A check could not be made."
        "The finding names the reason: a program that is missing in the machine, a machine that was lost."
        "[[check.command]]\nrun = [\"pg_isready\"]     # not installed"
    NotRebooted "NOT_REBOOTED" Unknown [SurvivesReboot]
        "The machine could not be rebooted."
        "Containers have no kernel of their own: use the QEMU backend for this claim."
        "redrill run SCENARIO --backend qemu"

    // resumes
    Stuck "STUCK" Fails [Resumes]
        "After a cut, the next deploy fails."
        "Make the operation accept work that is half done."
        "server.shell(commands=['mkdir /srv/app && tar -x ...'])   # fails if only mkdir was done"
    LostRestart "LOST_RESTART" Fails [Resumes]
        "A service was not restarted after a cut: it runs with what was there before."
        "Tie the restart to the state of the service, not only to the change in the same run."
        "_if=config.did_change     # the run that changed it was cut before the restart"
    ResumeDiffers "RESUME_DIFFERS" Fails [Resumes]
        "After a cut and another deploy, a machine differs from one without a cut."
        "Find the operation that is skipped because an earlier one left half of its work."
        "creates: /srv/app/.done     # made before the work was done"

    // restores: the repository
    NoRepository "NO_REPOSITORY" Fails [Restores]
        "There is no repository where the scenario says."
        "Mend the path, or the job that should have made it."
        "repository = \"backups/app\""
    EmptyRepository "EMPTY_REPOSITORY" Fails [Restores]
        "The repository is empty: there is not one file in it."
        "Find out why the job leaves nothing: it may run as a user who may not write there."
        "ls -la backups/app"
    NoPoints "NO_POINTS" Fails [Restores]
        "The repository holds no point to restore: the job never ran, or all was pruned."
        "Look at the job's log and at its prune policy."
        "restic forget --keep-last 0 --prune"
    NoPoint "NO_POINT" Fails [Restores]
        "The point that the scenario names is not in the repository."
        "Name one that is there, or leave `point` out for the newest."
        "point = \"sunday\""
    EmptyPoint "EMPTY_POINT" Fails [Restores]
        "The point holds no data."
        "The job backed up an empty or wrong directory: look at its paths."
        "restic backup /var/lib/ap     # a typing mistake"
    WrongPassphrase "WRONG_PASSPHRASE" Fails [Restores]
        "The passphrase among the keys does not open the repository."
        "Put the right one among the keys; without it the backup is lost."
        "passphrase = \"keys/restic\""
    NoPassphrase "NO_PASSPHRASE" Unknown [Restores]
        "The repository needs a passphrase, and the scenario names none that can be read."
        "Name the path of its file among the keys."
        "passphrase = \"keys/restic\""
    Damaged "DAMAGED" Fails [Restores]
        "The backup is damaged."
        "Make a new one now; then look for the disk or the job that damaged it."
        "restic check --read-data"
    Cut "CUT" Fails [Restores]
        "The backup was cut: it has no end."
        "Let the job write to a temporary name and rename it at the end, with `set -o pipefail`."
        "pg_dump app | gzip > app.sql.gz     # pg_dump died, gzip ended well"
    NewerServer "NEWER_SERVER" Fails [Restores]
        "The dump is of a newer server than the machine has."
        "Deploy the server that the dump needs, or dump with the older client."
        "pg_dump 17 -> PostgreSQL 15"
    NoTarget "NO_TARGET" Fails [Restores]
        "What it is restored into is not there: the deploy did not make it."
        "Let the deploy make the database, or the restore create it."
        "into = [\"postgres:app\"]     # the deploy makes no database `app`"
    Locked "LOCKED" Unknown [Restores]
        "The repository is locked: somebody works on it, or died at it."
        "Drill while no job runs; remove a stale lock by the backup tool's own command."
        "restic unlock"
    Unreachable "UNREACHABLE" Unknown [Restores]
        "The repository's host does not answer, or stopped answering."
        "Look at the host and at the access that the scenario declares."
        "repository = \"sftp://backup@backup.example.org/srv/app\""
    NoAccess "NO_ACCESS" Unknown [Restores]
        "The repository's host refuses the login, or its identity is not the declared one."
        "Check the key or login among the keys, and the host key in the scenario."
        "access = { login = \"keys/rest-server\" }"
    DiskFull "DISK_FULL" Unknown [Restores]
        "A disk was full before all was restored: this says nothing about the backup."
        "Give the machine a larger disk, or this host more room."
        "redrill clean --all"
    ToolMissing "TOOL_MISSING" Unknown [Restores]
        "What restores it is missing on the machine or on this host."
        "Let the deploy install the backup tool: in a real disaster it would be missing too."
        "apt.packages(packages=['restic'])"
    RepositoryChanged "REPOSITORY_CHANGED" Fails [Restores]
        "The repository is not as it was before the restore: something wrote to it."
        "Look at the restore script: it must only read."
        "restic forget --prune     # in a restore script"
    RepositoryBusy "REPOSITORY_BUSY" Unknown [Restores]
        "The repository's host lists other files after the restore: somebody else works on it."
        "Drill while no backup job runs."
        "systemctl list-timers     # on the host that makes the backups"

    // restores: the restore
    RestoreFailed "RESTORE_FAILED" Fails [Restores]
        "The restore ended with an error."
        "Read the tool's own words in the evidence."
        "psql: error: relation \"users\" already exists"
    RestoreUnknown "RESTORE_UNKNOWN" Unknown [Restores]
        "The restore could not be made, for a reason that says nothing about the backup."
        "Read the evidence."
        "cannot copy the repository"
    AroundFailed "AROUND_FAILED" Fails [Restores]
        "A command before or after the restore failed."
        "Mend the command in the scenario, or what it needs on the machine."
        "before = [[\"systemctl\", \"stop\", \"app\"]]"
    NotEmpty "NOT_EMPTY" Unknown [Restores]
        "The target holds data before anything was restored: what is there afterwards proves nothing."
        "Restore into a clean machine, or let the deploy leave the target empty."
        "into = [\"/var/lib/app\"]     # the deploy seeds it"
    EmptyRestore "EMPTY_RESTORE" Unknown [Restores]
        "The restore ended well, and restored nothing."
        "Check `into` and the paths inside of the backup."
        "into = [\"/srv/app\"]     # the backup holds /var/lib/app"
    ErrorText "ERROR_TEXT" Unknown [Restores]
        "The restore ended well, and its error output speaks of trouble."
        "Read the lines; declare as harmless what is."
        "harmless = [\"no ACLs\"]"
    NoOperation "NO_OPERATION" Unknown [Restores]
        "The deploy has no operation behind which the backup is to be restored."
        "Name one that is there: the finding lists them."
        "restore-after = \"Create the database\""

    // restores: the data
    NoOracle "NO_ORACLE" Unknown [Restores]
        "Nothing says whether the data is right."
        "Declare an oracle."
        "[backup.oracle]\nmin-rows = { \"app.users\" = 100 }\nnewest = \"26h\""
    NotLookedAt "NOT_LOOKED_AT" Unknown [Restores]
        "The restored data could not be read."
        "Read the evidence: a server that does not run cannot be asked."
        "systemctl start postgresql"
    DataDiffers "DATA_DIFFERS" Fails [Restores]
        "The data is not what was backed up, or not what the manifest says."
        "The evidence lists paths and tables; look at the job's paths and excludes."
        "restic backup --exclude '*.db' /var/lib/app"
    DataExtra "DATA_EXTRA" Warning [Restores]
        "There is data of which the manifest or the first machine knows nothing: a service at work adds some."
        "Nothing must be done, unless the list surprises you."
        "/var/lib/app/cache/1 is new"
    TooFew "TOO_FEW" Fails [Restores]
        "There are fewer files, bytes or rows than the oracle declares."
        "The backup is older or smaller than you think: look at the job."
        "min-files = 1000"
    TooOld "TOO_OLD" Fails [Restores]
        "The newest record is older than the oracle allows."
        "The job no longer backs up what is new."
        "newest = \"26h\""
    RpoMissed "RPO_MISSED" Fails [Restores]
        "The newest record is older than the declared recovery point."
        "Back up more often, or declare another `rpo`."
        "rpo = \"24h\""
    RtoMissed "RTO_MISSED" Fails [Restores]
        "Recovery takes longer than declared."
        "Restore faster, or declare another `rto`."
        "rto = \"1h\""
    RtoUnknown "RTO_UNKNOWN" Unknown [Restores]
        "Recovery took longer than declared, on a host that is slower than one with hardware virtualization."
        "Measure it on a host with KVM."
        "redrill doctor"
    NoAge "NO_AGE" Unknown [Restores]
        "Nothing in the data tells its age."
        "Add a canary, or a table with dates, or ask for something else than age."
        "[backup.oracle]\ncanary = { file = \"/var/lib/app/canary\", newest = \"26h\" }"
    ClockInFuture "CLOCK_IN_FUTURE" Unknown [Restores]
        "The newest record is in the future: a clock is wrong, and no age can be told."
        "Look at the clock of the host that makes the backup, and at time zones in the data."
        "timedatectl"
    Shrunk "SHRUNK" Fails [Restores]
        "There is much less data than in the last drill."
        "Find out whether somebody deleted it, or the job leaves it out."
        "10 000 rows in the last drill, 12 in this"
    CanaryMissing "CANARY_MISSING" Fails [Restores]
        "The canary is not in the backup."
        "Look whether the job that writes it runs, and whether it lies where the backup looks."
        "systemctl status redrill-canary.timer"
    CanaryOld "CANARY_OLD" Fails [Restores]
        "The canary is older than declared."
        "The backup is older than you think."
        "canary = { file = \"/var/lib/app/canary\", newest = \"26h\" }"
    QueryDiffers "QUERY_DIFFERS" Fails [Restores]
        "A query answers otherwise than declared."
        "Look at the data, or mend the expectation."
        "[[backup.oracle.query]]\nsql = \"select count(*) > 0 from users\"\nequals = \"t\""
    QueryUnknown "QUERY_UNKNOWN" Unknown [Restores]
        "A query could not be asked."
        "Read the server's words in the evidence."
        "ERROR: relation \"user\" does not exist"
    NoManifest "NO_MANIFEST" Unknown [Restores]
        "The manifest cannot be read."
        "Mend the path, or write it anew."
        "manifest = \"../backups/app.manifest.json\""
    EmptyManifest "EMPTY_MANIFEST" Unknown [Restores]
        "The manifest lists nothing."
        "Write it on a machine that has the data."
        "{\"files\": {}}"

    // restores: round trip, redeploy
    SeedFailed "SEED_FAILED" Fails [Restores]
        "The seed, which fills the service, failed."
        "Read its error output."
        "[backup.seed]\nrun = [\"seed-app\"]"
    JobFailed "JOB_FAILED" Fails [Restores]
        "The repo's own backup job failed."
        "Read its error output: this is the job that runs in production."
        "[backup.job]\nrun = [\"/usr/local/bin/backup\"]\nleaves = \"/var/backups/app\""
    NothingSeeded "NOTHING_SEEDED" Fails [Restores]
        "The seed ended well and left the targets empty: there was nothing to back up."
        "Let the seed write where the backup's `into` points."
        "into = [\"/var/lib/app\"]     # the seed writes /srv/app"
    NoBackupMade "NO_BACKUP_MADE" Fails [Restores]
        "The job ended well, and left no backup where the scenario says."
        "Check `leaves`; a job that ends well without a backup is the worst kind."
        "leaves = \"/var/backups/app\""
    Lost "LOST" Fails [Restores]
        "Something that lived on the first machine did not come back on the second, and nothing makes it anew."
        "Back it up, let the deploy make it, or declare it ephemeral with a reason."
        "[[ephemeral]]\npath = \"/var/lib/app/cache\"\nreason = \"made again on demand\""
    NoLossReport "NO_LOSS_REPORT" Unknown [Restores]
        "What was lost could not be told."
        "Read the reason: a machine that was not captured in both of its lives."
        "redrill run SCENARIO"
    RedeployFailed "REDEPLOY_FAILED" Fails [Restores]
        "The deploy after the restore failed."
        "Make the deploy accept data that is there."
        "createdb app     # exists after the restore"
    RedeployFights "REDEPLOY_FIGHTS" Fails [Restores]
        "The deploy after the restore changed the restored data."
        "The operation that the finding names must leave data alone that it did not make."
        "files.template(dest='/var/lib/app/settings.json')"
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// No code has this word; the nearest one, if it is like it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no code `{word}`")]
pub struct NoSuchCode {
    /// What was asked for.
    pub word: String,
}

impl FromStr for Code {
    type Err = NoSuchCode;

    /// Case is no matter, and neither is `-` for `_`: people type it.
    fn from_str(word: &str) -> Result<Self, NoSuchCode> {
        let asked = word.to_uppercase().replace('-', "_");
        let found = Self::ALL.iter().find(|code| code.word() == asked);
        found.copied().ok_or_else(|| NoSuchCode { word: word.to_owned() })
    }
}

impl JsonSchema for Code {
    fn schema_name() -> Cow<'static, str> {
        "Code".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = Self::ALL.iter().map(|code| code.word()).collect();
        json_schema!({ "type": "string", "enum": words, "description": "What a finding is about: `redrill explain CODE`." })
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.word())
    }
}

impl<'de> Deserialize<'de> for Code {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        word.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_word_of_its_own_and_says_what_to_do() {
        let words: BTreeSet<&str> = Code::ALL.iter().map(|code| code.word()).collect();
        assert_eq!(words.len(), Code::ALL.len(), "a word is there twice");
        for code in Code::ALL {
            let named = format!("{code:?}").to_uppercase();
            assert_eq!(code.word().replace('_', ""), named, "the word is the variant's name");
            assert!(code.meaning().ends_with('.') && code.remedy().ends_with('.'), "{code}: sentences");
            assert!(!code.example().trim().is_empty(), "{code}: no example");
        }
    }

    #[test]
    fn a_code_is_found_by_its_word_however_it_is_typed() {
        assert_eq!("real-change".parse(), Ok(Code::RealChange));
        assert_eq!("NOT_RUN".parse(), Ok(Code::NotRun));
        assert_eq!("REAL".parse::<Code>(), Err(NoSuchCode { word: "REAL".to_owned() }));
    }

    #[test]
    fn a_code_is_a_word_in_reports() {
        let text = serde_json::to_string(&Code::LostRestart).expect("written");
        assert_eq!(text, "\"LOST_RESTART\"");
        assert_eq!(serde_json::from_str::<Code>(&text).expect("read"), Code::LostRestart);
        assert!(serde_json::from_str::<Code>("\"X\"").is_err());
    }
}

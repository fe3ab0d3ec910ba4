//! Borg: in the machine if it is there, else on the host, from where the files are streamed into the machine.

use std::path::Path;
use std::time::Instant;

use redrill_machines::{Machine, Output};
use redrill_model::{Code, PointReport};
use serde::Deserialize;

use super::super::faults;
use super::super::repository;
use super::super::session::Session;
use crate::problem::Problem;

/// Nobody sits there to answer, and the repository is where it never was.
const SETTINGS: [(&str, &str); 2] =
    [("BORG_RELOCATED_REPO_ACCESS_IS_OK", "yes"), ("BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK", "yes")];
/// Borg keeps what it knows of a repository; this one is not to be known afterwards.
const BASE: &str = "/run/redrill-restore/.borg";

#[derive(Debug, Deserialize)]
struct BorgList {
    archives: Vec<BorgArchive>,
}

#[derive(Debug, Deserialize)]
struct BorgArchive {
    name: String,
    /// In lists beside `time`, in details alone.
    start: Option<String>,
    #[serde(default)]
    stats: Option<BorgStats>,
}

#[derive(Debug, Deserialize)]
struct BorgStats {
    nfiles: u64,
}

pub(super) async fn restore<M: Machine>(session: &mut Session<'_, M>) -> Result<PointReport, Problem> {
    if session.contents.paths.iter().any(|path| path.starts_with("lock.")) {
        return Err(faults::locked());
    }
    let here = session.has("borg").await?;
    let tool = Borg::make(session, here).await?;
    let listed = tool.run(session, "list", &["list", "--json", &tool.repository], None).await?;
    let points = archives(&listed)?.into_iter().map(|archive| (archive.name, archive.start)).collect::<Vec<_>>();
    let point = session.choose(&points)?;
    let archive = format!("{}::{}", tool.repository, point.id);
    let info = tool.run(session, "list", &["info", "--json", &archive], None).await?;
    if archives(&info)?.iter().any(|archive| archive.stats.as_ref().is_some_and(|stats| stats.nfiles == 0)) {
        return Err(Problem::new(Code::EmptyPoint, format!("archive {} holds no files", point.id)));
    }
    tool.load(session, &archive).await?;
    super::own(session).await?;
    Ok(point)
}

fn archives(output: &Output) -> Result<Vec<BorgArchive>, Problem> {
    let listed: BorgList = serde_json::from_slice(&output.stdout).map_err(|error| {
        Problem::new(Code::RestoreUnknown, format!("Borg's list of archives: {error}")).with(&output.text())
    })?;
    Ok(listed.archives)
}

/// Borg with its repository and settings.
struct Borg {
    repository: String,
    env: Vec<(String, String)>,
    in_machine: bool,
}

impl Borg {
    async fn make<M: Machine>(session: &mut Session<'_, M>, in_machine: bool) -> Result<Self, Problem> {
        let mut env: Vec<(String, String)> =
            SETTINGS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (repository, passphrase, base) = if in_machine {
            (session.at(""), session.secret().await?, BASE.to_owned())
        } else {
            let copy = session.scratch.join("repository");
            let began = Instant::now();
            repository::copy_on_host(session.source, &copy)
                .map_err(|error| Problem::new(Code::RestoreUnknown, format!("cannot copy the repository: {error}")))?;
            session.took("fetch", began);
            let passphrase = session.passphrase.as_ref().map(|path| path.display().to_string());
            (copy.display().to_string(), passphrase, session.scratch.join("borg").display().to_string())
        };
        env.push(("BORG_BASE_DIR".to_owned(), base));
        env.extend(passphrase.map(|file| ("BORG_PASSCOMMAND".to_owned(), format!("cat '{file}'"))));
        Ok(Self { repository, env, in_machine })
    }

    async fn run<M: Machine>(
        &self,
        session: &mut Session<'_, M>,
        phase: &str,
        words: &[&str],
        to: Option<&Path>,
    ) -> Result<Output, Problem> {
        let words = [&["borg", "--bypass-lock"], words].concat();
        if !self.in_machine {
            let env: Vec<(&str, &str)> = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            return session.run_on_host(phase, &words, &env, to).await;
        }
        let settings: Vec<String> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        // Borg extracts into the working directory, which is the root for every command.
        session.run(phase, &[&["env", "-C", "/"], &settings[..], &words[..]].concat()).await
    }

    async fn load<M: Machine>(&self, session: &mut Session<'_, M>, archive: &str) -> Result<(), Problem> {
        let arguments = session.backup.arguments.clone();
        let paths: Vec<String> = session.paths().iter().map(|path| path.trim_start_matches('/').to_owned()).collect();
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        if self.in_machine {
            let mut words = [&["extract", "--numeric-ids"], &words[..], &[archive]].concat();
            words.extend(paths.iter().map(String::as_str));
            return self.run(session, "load", &words, None).await.map(drop);
        }
        let file = session.scratch.join("restored.tar");
        let text = file.display().to_string();
        let mut words = [&["export-tar"], &words[..], &[archive, &text]].concat();
        words.extend(paths.iter().map(String::as_str));
        self.run(session, "load", &words, None).await?;
        let began = Instant::now();
        super::unpack_targets(session, &file).await?;
        session.took("unpack", began);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_read_from_lists_and_from_details() {
        let list = r#"{"archives":[{"name":"a","archive":"a","start":"2026-11-22T03:00:00.000000","time":"2026-11-22T03:00:00.000000"}],"repository":{}}"#;
        let info = r#"{"archives":[{"name":"a","start":"2026-11-22T03:00:00.000000","stats":{"nfiles":0,"original_size":0}}]}"#;
        let read = |text: &str| archives(&Output { stdout: text.into(), ..Output::default() }).expect("read");
        assert_eq!(
            (read(list)[0].name.as_str(), read(list)[0].start.as_deref()),
            ("a", Some("2026-11-22T03:00:00.000000"))
        );
        assert_eq!(read(info)[0].stats.as_ref().map(|stats| stats.nfiles), Some(0));
        assert_eq!(archives(&Output::default()).expect_err("nothing").code, Code::RestoreUnknown);
    }
}

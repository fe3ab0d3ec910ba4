//! What a servers repo says of itself before anything is booted: its tool, its hosts, and which of them a change touches.

use redrill_model::Tool;

use crate::deploy::controller::{self, Controller, ControllerError, Workplace};
use crate::loaded::Loaded;
use crate::scenario_error::ScenarioError;

/// A host of the inventory and the groups that it is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoHost {
    /// Inventory name.
    pub name: String,
    /// Groups.
    pub groups: Vec<String>,
}

/// What the repo says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The tool that deploys it.
    pub tool: Tool,
    /// Hosts, in the order of the inventory.
    pub hosts: Vec<RepoHost>,
    /// Files that changed since the commit that was asked for, relative to the repo.
    pub changed: Vec<String>,
}

/// Why it could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// What was asked for does not fit the repo: exit status 2.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// It could not be found out.
    #[error("the servers repo cannot be read")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<ControllerError> for SurveyError {
    fn from(error: ControllerError) -> Self {
        match error {
            ControllerError::Scenario(error) => Self::Scenario(error),
            other => Self::Unknown(other.into()),
        }
    }
}

/// Asks the deploy tool of `loaded`, whose machines do not matter yet. `since` is a commit to compare with. Leaves a
/// controller at `place`.
pub async fn survey(loaded: &Loaded, since: Option<&str>, place: &Workplace) -> Result<Survey, SurveyError> {
    let controller = Controller::survey(loaded, place).await?;
    let repo = loaded.directory.join(&loaded.scenario.servers.path);
    let changed = match since {
        Some(since) => controller::changed(&repo, since, &controller.source.commit, place.guard.run()).await?,
        None => Vec::new(),
    };
    let hosts = controller.hosts.iter().map(|host| RepoHost { name: host.name.clone(), groups: host.groups.clone() });
    Ok(Survey { tool: controller.found.tool, hosts: hosts.collect(), changed })
}

/// The hosts that a change touches, as far as the names of its files tell, each with a file that says so. A file that
/// may concern any host touches all of them.
pub fn touched(changed: &[String], hosts: &[RepoHost]) -> Vec<(String, String)> {
    let mut touched: Vec<(String, String)> = Vec::new();
    for file in changed.iter().filter(|file| !is_text_for_people(file)) {
        let concerns = |host: &&RepoHost| match scope(file) {
            Scope::Host(name) => host.name == name || !hosts.iter().any(|host| host.name == name),
            Scope::Group(name) => name == "all" || host.groups.contains(&name),
            Scope::All => true,
        };
        for host in hosts.iter().filter(concerns) {
            if !touched.iter().any(|(name, _)| *name == host.name) {
                touched.push((host.name.clone(), file.clone()));
            }
        }
    }
    touched
}

enum Scope {
    Host(String),
    Group(String),
    All,
}

/// `host_vars/NAME.yml`, `host_vars/NAME/x.yml`, `group_data/NAME.py`, wherever the directory lies.
fn scope(file: &str) -> Scope {
    let parts: Vec<&str> = file.split('/').collect();
    let named = |directories: [&str; 2]| {
        let at = parts.iter().position(|part| directories.contains(part))?;
        let name = parts.get(at + 1)?;
        let stem = [".yml", ".yaml", ".json", ".py"].iter().find_map(|ending| name.strip_suffix(ending));
        Some(stem.unwrap_or(name).to_owned())
    };
    match (named(["host_vars", "host_data"]), named(["group_vars", "group_data"])) {
        (Some(host), _) => Scope::Host(host),
        (None, Some(group)) => Scope::Group(group),
        (None, None) => Scope::All,
    }
}

/// Read by people only.
fn is_text_for_people(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.ends_with(".md") || ["LICENSE", ".gitignore", ".gitattributes", ".editorconfig"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(changed: &[&str]) -> Vec<String> {
        let host = |name: &str, group: &str| RepoHost { name: name.to_owned(), groups: vec![group.to_owned()] };
        let hosts = [host("web1", "web"), host("web2", "web"), host("db", "databases")];
        let changed: Vec<String> = changed.iter().map(|file| (*file).to_owned()).collect();
        touched(&changed, &hosts).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn files_tell_the_hosts_that_they_concern() {
        assert_eq!(names(&["host_vars/db.yml"]), ["db"]);
        assert_eq!(names(&["inventories/production/host_vars/web2/vault.yml"]), ["web2"]);
        assert_eq!(names(&["group_data/web.py"]), ["web1", "web2"]);
        assert_eq!(names(&["group_vars/web.yml", "host_vars/db.yml"]), ["web1", "web2", "db"]);
        assert_eq!(names(&["group_vars/all/main.yml"]).len(), 3);
        assert_eq!(names(&["tasks/nginx.py"]).len(), 3, "any host may run it");
        assert_eq!(names(&["host_vars/gone.yml"]).len(), 3, "a name that the inventory does not know");
        assert_eq!(names(&["README.md", "roles/web/README.md"]), [""; 0]);
        assert_eq!(names(&["templates/motd.txt"]).len(), 3, "a template is deployed");
    }
}

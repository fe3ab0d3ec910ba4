//! Which tool deploys a repo, with which files: found by the names that people use, or named by the scenario.

use std::path::{Path, PathBuf};

use redrill_model::{Deploy, Tool};
use thiserror::Error;

use crate::deploy::pyproject;

/// How a repo is deployed. Paths are relative to it, and something is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The tool.
    pub tool: Tool,
    /// The inventory; a shell script may have none.
    pub inventory: Option<PathBuf>,
    /// The deploy itself.
    pub script: PathBuf,
    /// What pins the tool; a shell script may need none.
    pub requirements: Option<PathBuf>,
}

/// Why that is not clear.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Undecided {
    /// What is unclear, and what was seen.
    pub message: String,
    /// What to write into `scenario.toml`.
    pub expected: String,
    /// The key of its table `deploy` that is about it.
    pub key: Option<&'static str>,
}

/// Usual names, the most telling first.
const PYINFRA: [&str; 4] = ["deploy.py", "site.py", "pyinfra/deploy.py", "deploys/deploy.py"];
const PYINFRA_HOSTS: [&str; 6] = [
    "inventory.py",
    "inventories/production.py",
    "inventory/production.py",
    "hosts.py",
    "pyinfra/inventory.py",
    "deploys/inventory.py",
];
const ANSIBLE: [&str; 14] = [
    "site.yml",
    "site.yaml",
    "playbook.yml",
    "playbook.yaml",
    "deploy.yml",
    "deploy.yaml",
    "main.yml",
    "setup.yml",
    "playbooks/site.yml",
    "playbooks/deploy.yml",
    "playbooks/main.yml",
    "ansible/site.yml",
    "ansible/playbook.yml",
    "ansible/deploy.yml",
];
const ANSIBLE_HOSTS: [&str; 18] = [
    "inventory.ini",
    "inventory.yml",
    "inventory.yaml",
    "hosts.ini",
    "hosts.yml",
    "hosts.yaml",
    "hosts",
    "production",
    "production.ini",
    "production.yml",
    "inventories/production/hosts",
    "inventories/production/hosts.yml",
    "inventories/production/hosts.ini",
    "inventories/production",
    "inventory",
    "ansible/inventory.ini",
    "ansible/inventory.yml",
    "ansible/hosts",
];
const SHELL: [&str; 5] = ["deploy.sh", "install.sh", "setup.sh", "deploy", "provision.sh"];
const SHELL_HOSTS: [&str; 4] = ["hosts", "hosts.txt", "inventory", "inventory.txt"];
const REQUIREMENTS: [&str; 4] =
    ["requirements.txt", "ansible/requirements.txt", "pyinfra/requirements.txt", "requirements/deploy.txt"];

/// No file that people write a deploy into is larger.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Finds out how the repo in `directory` is deployed, or says what was seen.
pub fn detect(directory: &Path) -> Result<Found, Undecided> {
    resolve(directory, &Deploy::default())
}

/// The same, where the scenario says some of it.
pub(crate) fn resolve(directory: &Path, deploy: &Deploy) -> Result<Found, Undecided> {
    let seen: Vec<Found> = [Tool::Pyinfra, Tool::Ansible, Tool::Shell]
        .into_iter()
        .filter(|tool| deploy.tool.is_none_or(|named| named == *tool))
        .filter_map(|tool| look_for(directory, deploy, tool))
        .collect();
    let named = deploy.tool.map_or_else(String::new, |tool| format!(" with {}", tool.name()));
    let found = match seen.as_slice() {
        [] => {
            let message = format!("cannot tell how the servers repo is deployed{named}: {}", listing(directory));
            return Err(Undecided { message, expected: expected(deploy.tool), key: None });
        }
        [one] => one.clone(),
        several => match pinned(directory, several) {
            Some(one) => one,
            None => {
                let each: Vec<String> =
                    several.iter().map(|f| format!("`{}` ({})", f.script.display(), f.tool.name())).collect();
                let message =
                    format!("cannot tell which tool deploys the servers repo: there are {}", each.join(" and "));
                let names: Vec<&str> = several.iter().map(|found| found.tool.name()).collect();
                return Err(Undecided {
                    message,
                    expected: format!("[deploy] with tool = \"{}\"", names.join("\" or \"")),
                    key: None,
                });
            }
        },
    };
    complete(directory, found)
}

/// A tool that deploys is of no use without its inventory and its version.
fn complete(directory: &Path, found: Found) -> Result<Found, Undecided> {
    let name = found.tool.name();
    let lacks = |what: &str, expected: String| Undecided {
        message: format!("{name} deploys the servers repo by `{}`, and {what}", found.script.display()),
        expected,
        key: None,
    };
    let paths = [
        ("script", Some(&found.script)),
        ("inventory", found.inventory.as_ref()),
        ("requirements", found.requirements.as_ref()),
    ];
    for (key, path) in paths.into_iter().filter_map(|(key, path)| Some((key, path?))) {
        inside(directory, path).map_err(|message| Undecided {
            message,
            expected: "a committed file, relative to the repo".to_owned(),
            key: Some(key),
        })?;
    }
    if found.tool != Tool::Shell && found.inventory.is_none() {
        return Err(lacks("there is no inventory with a usual name", "[deploy] with inventory = \"PATH\"".to_owned()));
    }
    if found.tool != Tool::Shell && found.requirements.is_none() {
        let expected = format!(
            "a committed requirements.txt with {0}==VERSION, or a pyproject.toml that depends on {0}",
            package(found.tool)
        );
        return Err(lacks("nothing pins its version", expected));
    }
    Ok(found)
}

/// What a repo names must be part of it: a link out would deploy something of the host that no commit holds.
fn inside(directory: &Path, path: &Path) -> Result<(), String> {
    match directory.join(path).canonicalize() {
        Ok(place) if directory.canonicalize().is_ok_and(|root| place.starts_with(root)) => Ok(()),
        Ok(_) => Err(format!("`{}` is a link that leads out of the servers repo", path.display())),
        Err(error) => match std::fs::symlink_metadata(directory.join(path)) {
            Ok(_) => Err(format!("`{}` is a link that leads nowhere in the servers repo: {error}", path.display())),
            Err(_) => Err(format!("there is no `{}` in the servers repo", path.display())),
        },
    }
}

fn look_for(directory: &Path, deploy: &Deploy, tool: Tool) -> Option<Found> {
    let first = |names: &[&str], fits: fn(&Path) -> bool| {
        names.iter().map(PathBuf::from).find(|name| fits(&directory.join(name)))
    };
    let usual = || match tool {
        Tool::Pyinfra => first(&PYINFRA, Path::is_file),
        Tool::Ansible => first(&ANSIBLE, is_playbook).or_else(|| only_playbook(directory)),
        Tool::Shell => first(&SHELL, is_script),
    };
    let script = match &deploy.script {
        Some(named) if deploy.tool.is_some() || suits(&directory.join(named), tool) => named.clone(),
        Some(_) => return None,
        None => usual()?,
    };
    let inventory = || match tool {
        Tool::Pyinfra => first(&PYINFRA_HOSTS, Path::is_file),
        Tool::Ansible => configured_inventory(directory).or_else(|| first(&ANSIBLE_HOSTS, Path::exists)),
        Tool::Shell => first(&SHELL_HOSTS, Path::is_file),
    };
    let requirements = deploy
        .requirements
        .clone()
        .or_else(|| first(&REQUIREMENTS, Path::is_file))
        .or_else(|| of_project(directory, tool));
    Some(Found { tool, inventory: deploy.inventory.clone().or_else(inventory), script, requirements })
}

/// A project that depends on the tool; any other Python project in the repo is not the deploy's. One that cannot be read
/// may be: whoever reads it next says where its mistake is.
fn of_project(directory: &Path, tool: Tool) -> Option<PathBuf> {
    let (name, place) = (PathBuf::from(pyproject::FILE), directory.join(pyproject::FILE));
    let broken = || tool != Tool::Shell && place.is_file() && pyproject::names(&place).is_none();
    (tool_of_requirements(&place).contains(&tool) || broken()).then_some(name)
}

/// Whether a file that the scenario names could be this tool's.
fn suits(script: &Path, tool: Tool) -> bool {
    let ending = script.extension().and_then(|ending| ending.to_str());
    match tool {
        Tool::Pyinfra => ending == Some("py"),
        Tool::Ansible => matches!(ending, Some("yml" | "yaml")),
        Tool::Shell => !matches!(ending, Some("py" | "yml" | "yaml")),
    }
}

/// Of several tools the one that the requirements pin, if they pin one only: a script beside it is its wrapper.
fn pinned(directory: &Path, several: &[Found]) -> Option<Found> {
    let mut pinned = several.iter().filter(|found| {
        let file = found.requirements.as_ref().map(|file| directory.join(file));
        found.tool != Tool::Shell && file.is_some_and(|file| tool_of_requirements(&file).contains(&found.tool))
    });
    pinned.next().filter(|_| pinned.next().is_none()).cloned()
}

/// The tools that a requirements file pins.
fn tool_of_requirements(file: &Path) -> Vec<Tool> {
    let name =
        |line: &str| line.trim().split(['=', '<', '>', '~', '!', '[', ' ', ';', '@']).next().map(str::to_lowercase);
    let names: Vec<String> = if file.ends_with(pyproject::FILE) {
        pyproject::names(file).unwrap_or_default()
    } else {
        text(file).lines().filter_map(name).collect()
    };
    let has = |wanted: &[&str]| names.iter().any(|name| wanted.contains(&name.as_str()));
    let pyinfra = has(&["pyinfra"]).then_some(Tool::Pyinfra);
    pyinfra.into_iter().chain(has(&["ansible", "ansible-core"]).then_some(Tool::Ansible)).collect()
}

/// Whether a YAML file holds plays: a list with `hosts` or an import of another playbook.
fn is_playbook(file: &Path) -> bool {
    let text = text(file);
    let key = |line: &str| line.trim_start_matches(['-', ' ']).split(':').next().map(str::to_owned);
    let keys: Vec<String> = text.lines().filter(|line| line.starts_with(['-', ' '])).filter_map(key).collect();
    keys.iter().any(|key| matches!(key.as_str(), "hosts" | "import_playbook" | "ansible.builtin.import_playbook"))
}

/// A playbook of whatever name, if it is the only one beside the inventory.
fn only_playbook(directory: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    let yaml = entries.filter(|path| matches!(path.extension().and_then(|e| e.to_str()), Some("yml" | "yaml")));
    let mut playbooks = yaml.filter(|path| is_playbook(path));
    let only = playbooks.next().filter(|_| playbooks.next().is_none())?;
    only.file_name().map(PathBuf::from)
}

/// What a regular file says. A link may lead to what never ends, or is waited for.
fn text(file: &Path) -> String {
    let sensible = std::fs::metadata(file).is_ok_and(|about| about.is_file() && about.len() <= LARGEST);
    let bytes = if sensible { std::fs::read(file).unwrap_or_default() } else { Vec::new() };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A script says what runs it.
fn is_script(file: &Path) -> bool {
    let named = file.extension().is_some_and(|ending| ending == "sh");
    file.is_file() && (named || text(file).starts_with("#!"))
}

/// The inventory that `ansible.cfg` names.
fn configured_inventory(directory: &Path) -> Option<PathBuf> {
    let text = text(&directory.join("ansible.cfg"));
    let named = super::ansible::setting(&text, "inventory")?;
    Some(PathBuf::from(named.trim_start_matches("./"))).filter(|path| directory.join(path).exists())
}

fn package(tool: Tool) -> &'static str {
    match tool {
        Tool::Ansible => "ansible-core",
        tool => tool.name(),
    }
}

fn expected(tool: Option<Tool>) -> String {
    let usual = match tool {
        Some(Tool::Pyinfra) => PYINFRA[0],
        Some(Tool::Ansible) => ANSIBLE[0],
        Some(Tool::Shell) => SHELL[0],
        None => return "deploy.py, site.yml or deploy.sh; or [deploy] with tool, script and inventory".to_owned(),
    };
    format!("{usual}, or [deploy] with script = \"PATH\"")
}

/// What lies in the directory, in words.
fn listing(directory: &Path) -> String {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| format!("`{}`", entry.file_name().display())).collect();
    names.sort();
    names.retain(|name| name != "`.git`");
    names.truncate(12);
    match names.is_empty() {
        true => "it is empty".to_owned(),
        false => format!("there are only {}", names.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// What is found in a directory with these files.
    fn found(files: &[(&str, &str)], deploy: &Deploy) -> Result<Found, Undecided> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let id = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("redrill-detect-{}-{id}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).expect("made");
        for (name, text) in files {
            let file = directory.join(name);
            std::fs::create_dir_all(file.parent().expect("inside")).expect("made");
            std::fs::write(file, text).expect("written");
        }
        let found = resolve(&directory, deploy);
        std::fs::remove_dir_all(&directory).expect("cleaned up");
        found
    }

    fn script(files: &[(&str, &str)]) -> (Tool, String) {
        let found = found(files, &Deploy::default()).expect("found");
        (found.tool, found.script.display().to_string())
    }

    const PLAY: &str = "---\n- name: all\n  hosts: web\n";

    #[test]
    fn each_tool_is_found_by_its_usual_files() {
        let python = [("deploy.py", ""), ("inventory.py", ""), ("requirements.txt", "pyinfra==3.10.0")];
        assert_eq!(script(&python), (Tool::Pyinfra, "deploy.py".to_owned()));
        let ansible = [("site.yml", PLAY), ("hosts", ""), ("requirements.txt", "ansible-core~=2.19")];
        assert_eq!(script(&ansible), (Tool::Ansible, "site.yml".to_owned()));
        let odd =
            [("web.yml", PLAY), ("vars.yml", "a: 1"), ("inv", ""), ("ansible.cfg", "[defaults]\ninventory = ./inv\n")];
        let odd = [&odd[..], &[("requirements.txt", "ansible")]].concat();
        assert_eq!(script(&odd), (Tool::Ansible, "web.yml".to_owned()));
        assert_eq!(script(&[("install.sh", "#!/bin/sh")]), (Tool::Shell, "install.sh".to_owned()));
    }

    #[test]
    fn what_is_pinned_decides_over_a_wrapper() {
        let both = [("deploy.py", ""), ("inventory.py", ""), ("deploy.sh", "pyinfra inventory.py deploy.py")];
        let pinned = [&both[..], &[("requirements.txt", "pyinfra[x]>=3")]].concat();
        assert_eq!(script(&pinned).0, Tool::Pyinfra);
        let error = found(&both, &Deploy::default()).expect_err("ambiguous");
        assert!(error.message.contains("`deploy.py` (pyinfra) and `deploy.sh` (shell)"), "{error}");
        assert!(error.expected.contains("tool = \"pyinfra\" or \"shell\""), "{}", error.expected);
    }

    #[test]
    fn what_is_missing_is_named_with_its_key() {
        let refused = |files: &[(&str, &str)]| found(files, &Deploy::default()).expect_err("refused");
        assert!(refused(&[("notes.txt", "")]).message.contains("there are only `notes.txt`"));
        assert!(refused(&[("site.yml", PLAY)]).expected.contains("inventory = "));
        assert!(refused(&[("site.yml", PLAY), ("hosts", "")]).expected.contains("ansible-core==VERSION"));
        assert!(refused(&[("site.yml", "key: value")]).message.contains("cannot tell how"), "no play in it");
    }

    #[test]
    fn what_never_ends_is_not_read() {
        let place = tempfile::tempdir().expect("a directory");
        for name in ["deploy.py", "site.yml", "x.yml", "deploy.sh", "requirements.txt", "ansible.cfg", "hosts"] {
            std::os::unix::fs::symlink("/dev/zero", place.path().join(name)).expect("linked");
        }
        assert!(detect(place.path()).expect_err("nothing to deploy by").message.contains("cannot tell how"));
    }

    #[test]
    fn a_link_out_of_the_repo_is_refused_with_the_key_that_is_about_it() {
        let place = tempfile::tempdir().expect("a directory");
        let repo = place.path().join("repo");
        std::fs::create_dir(&repo).expect("made");
        std::fs::write(place.path().join("outside"), "#!/bin/sh\n").expect("written");
        let refused = |script: &str, target: &Path| {
            let _ = std::fs::remove_file(repo.join(script));
            std::os::unix::fs::symlink(target, repo.join(script)).expect("linked");
            let deploy = Deploy { tool: Some(Tool::Shell), script: Some(script.into()), ..Deploy::default() };
            resolve(&repo, &deploy).expect_err("refused")
        };
        for target in [Path::new("../outside"), Path::new("/etc/passwd"), &place.path().join("outside")] {
            let error = refused("deploy.sh", target);
            assert!(error.message.contains("`deploy.sh` is a link that leads out of the servers repo"), "{error}");
            assert_eq!(error.key, Some("script"));
            assert!(detect(&repo).is_err());
        }
        assert!(refused("deploy.sh", Path::new("deploy.sh")).message.contains("leads nowhere"), "a loop");
        std::fs::remove_file(repo.join("deploy.sh")).expect("removed");
        std::fs::write(repo.join("real.sh"), "#!/bin/sh\n").expect("written");
        std::os::unix::fs::symlink("real.sh", repo.join("deploy.sh")).expect("linked");
        assert!(detect(&repo).is_ok(), "inside they are welcome");
        std::os::unix::fs::symlink("../outside", repo.join("hosts")).expect("linked");
        assert_eq!(detect(&repo).expect_err("refused").key, Some("inventory"));
    }

    #[test]
    fn what_the_scenario_names_is_taken_as_named() {
        let deploy = Deploy { script: Some("web.py".into()), ..Deploy::default() };
        let files = [("web.py", ""), ("inventory.py", ""), ("requirements.txt", "pyinfra"), ("deploy.sh", "#!/bin/sh")];
        assert_eq!(found(&files, &deploy).expect("found").tool, Tool::Pyinfra, "by the ending");
        let gone = Deploy { tool: Some(Tool::Shell), script: Some("gone.sh".into()), ..Deploy::default() };
        assert!(found(&files, &gone).expect_err("not there").message.contains("no `gone.sh`"));
    }

    #[test]
    fn requirements_come_from_the_scenario_then_their_own_file_then_the_project() {
        let project = ("pyproject.toml", "[dependency-groups]\ndeploy = ['pyinfra']");
        let base = [("deploy.py", ""), ("inventory.py", ""), ("other.txt", "pyinfra"), project];
        let of = |files: &[(&str, &str)], deploy: &Deploy| found(files, deploy).map(|found| found.requirements);
        let with = [&base[..], &[("requirements.txt", "pyinfra==3")]].concat();
        let named = Deploy { requirements: Some("other.txt".into()), ..Deploy::default() };
        assert_eq!(of(&with, &named).expect("found"), Some("other.txt".into()));
        assert_eq!(of(&with, &Deploy::default()).expect("found"), Some("requirements.txt".into()));
        assert_eq!(of(&base, &Deploy::default()).expect("found"), Some("pyproject.toml".into()));
        let of_project = |text| of(&[&base[..2], &[("pyproject.toml", text)]].concat(), &Deploy::default());
        assert!(of_project("[project]\ndependencies = ['django']").is_err(), "another's");
        assert_eq!(
            of_project("[project\n").expect("found"),
            Some("pyproject.toml".into()),
            "its mistake is told later"
        );
    }
}

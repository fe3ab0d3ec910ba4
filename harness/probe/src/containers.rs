//! Containers of Docker and Podman, from the files in which they keep them: asking their programs takes seconds in an
//! emulated machine, and Podman's would write.

use std::path::Path;

use redrill_state::{Container, Section};
use serde::Deserialize;
use serde_json::Value;

use crate::accounts;
use crate::found::{Found, Root};

const DOCKER: &str = "/var/lib/docker/containers";
const PODMAN: &str = "/var/lib/containers/storage";
const PODMAN_OF_USER: &str = ".local/share/containers/storage";

/// `config.v2.json` of Docker, as far as it matters.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Docker {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    created: String,
    #[serde(default)]
    state: Value,
    #[serde(default)]
    config: Value,
}

/// An entry of `containers.json` of Podman's storage.
#[derive(Deserialize)]
struct Podman {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    image: String,
    #[serde(default)]
    created: String,
    /// JSON in JSON.
    #[serde(default)]
    metadata: String,
}

pub(crate) fn read(root: &Root) -> Found {
    let mut found = Found::new(Section::Containers);
    docker(root, &mut found);
    podman(root, &mut found, PODMAN, "podman");
    for user in accounts::users(root).unwrap_or_default() {
        let storage = Path::new(&user.home).join(PODMAN_OF_USER);
        podman(root, &mut found, &storage.display().to_string(), &format!("podman of {}", user.name));
    }
    found
}

fn docker(root: &Root, found: &mut Found) {
    for directory in found.list(root, DOCKER) {
        let Some(text) = found.text_at(root, &directory.join("config.v2.json")) else { continue };
        match serde_json::from_str::<Docker>(&text) {
            Ok(it) => found.add(Container {
                engine: "docker".to_owned(),
                name: it.name.trim_start_matches('/').to_owned(),
                id: it.id,
                image: it.config["Image"].as_str().unwrap_or_default().to_owned(),
                created: it.created,
                started: it.state["StartedAt"].as_str().unwrap_or_default().to_owned(),
            }),
            Err(error) => found.gap(format!("{}: {error}", root.inside(&directory))),
        }
    }
}

fn podman(root: &Root, found: &mut Found, storage: &str, engine: &str) {
    for driver in ["overlay", "vfs", "btrfs", "zfs"] {
        let file = format!("{storage}/{driver}-containers/containers.json");
        let Some(text) = found.text(root, &file) else { continue };
        match serde_json::from_str::<Vec<Podman>>(&text) {
            Ok(list) => list.into_iter().for_each(|it| found.add(of_podman(it, engine))),
            Err(error) => found.gap(format!("{file}: {error}")),
        }
    }
}

fn of_podman(it: Podman, engine: &str) -> Container {
    let metadata: Value = serde_json::from_str(&it.metadata).unwrap_or_default();
    let image = metadata["image-name"].as_str().map_or(it.image, str::to_owned);
    Container {
        engine: engine.to_owned(),
        name: it.names.first().cloned().unwrap_or_else(|| it.id.clone()),
        id: it.id,
        image,
        created: it.created,
        started: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::found::testing::Tree;
    use redrill_state::Record;

    #[test]
    fn containers_of_both_engines_are_found_where_they_are_kept() {
        let tree = Tree::new("containers");
        tree.file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1:1::/home/ada:/bin/sh\n");
        let docker = r#"{"ID":"abc","Name":"/web","Created":"2026-01-01T00:00:00Z","State":{"StartedAt":"2026-01-02T00:00:00Z"},
            "Config":{"Image":"nginx:1","Env":["PASSWORD=hunter2"]}}"#;
        tree.file(&format!("{DOCKER}/abc/config.v2.json"), docker);
        let podman = r#"[{"id":"def","names":["db"],"image":"sha","created":"2026-01-01T00:00:00Z","metadata":"{\"image-name\":\"docker.io/mariadb\"}"}]"#;
        tree.file("/home/ada/.local/share/containers/storage/overlay-containers/containers.json", podman);
        let found = read(&tree.root());
        assert!(found.gaps.is_empty());
        let seen: Vec<String> = found
            .entries
            .iter()
            .map(|record| match record {
                Record::Container(it) => format!("{} {} {} {}", it.engine, it.name, it.id, it.image),
                _ => panic!("another section"),
            })
            .collect();
        assert_eq!(seen, ["docker web abc nginx:1", "podman of ada db def docker.io/mariadb"]);
        assert!(!serde_json::to_string(&found.entries).expect("plain data").contains("hunter2"));
        tree.file(&format!("{DOCKER}/abc/config.v2.json"), &docker[..40]);
        assert_eq!(read(&tree.root()).gaps.len(), 1, "half a file is no container");
    }
}

//! Where pip gets packages from: as the host's own configuration says, whatever the repo says.

use std::path::PathBuf;
use std::process::Stdio;

use reqwest::Url;
use tokio::process::Command;

/// What pip takes where nothing is configured, and where that index keeps its files.
const DEFAULT: &str = "https://pypi.org/simple";
const DEFAULT_FILES: (&str, &str) = ("pypi.org", "files.pythonhosted.org");

/// Settings that say where packages come from, and how: these hold in the sandbox too.
const SETTINGS: [&str; 11] = [
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "cert",
    "no-index",
    "default-timeout",
    "timeout",
    "retries",
    "only-binary",
    "no-binary",
];

/// Where packages come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Index {
    /// Variables that tell pip so.
    pub(super) environment: Vec<(String, String)>,
    /// Hosts and ports of its indexes.
    pub(super) hosts: Vec<(String, u16)>,
    /// Its directories and certificates on this host.
    pub(super) files: Vec<PathBuf>,
}

/// Asks pip itself, outside of any checkout.
pub(super) async fn of_host() -> Index {
    let mut pip = Command::new("python3");
    pip.args(["-I", "-m", "pip", "config", "list"]).current_dir("/").stdin(Stdio::null()).stderr(Stdio::null());
    let output = pip.kill_on_drop(true).output().await;
    // A host without pip has no configuration of it: virtual environments bring their own.
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    from_list(&text)
}

/// `global.index-url='https://...'` a line, where the environment beats `install`, and that `global`.
fn from_list(text: &str) -> Index {
    let mut index = Index::default();
    let value = |setting: &str| {
        let of = |section: &str| {
            let start = format!("{section}.{setting}=");
            text.lines().find_map(|line| line.trim().strip_prefix(&start).map(plain))
        };
        [":env:", "install", "global", "site", "user"].iter().find_map(|section| of(section))
    };
    for setting in SETTINGS {
        let Some(value) = value(setting) else { continue };
        if matches!(setting, "index-url" | "extra-index-url" | "find-links") {
            index.hosts.extend(value.split_whitespace().filter_map(host));
        }
        if matches!(setting, "find-links" | "cert") {
            let paths = value.split_whitespace().map(|place| place.strip_prefix("file://").unwrap_or(place));
            index.files.extend(paths.filter(|path| path.starts_with('/')).map(PathBuf::from));
        }
        index.environment.push((format!("PIP_{}", setting.to_uppercase().replace('-', "_")), value));
    }
    if value("index-url").is_none() {
        index.hosts.extend(host(DEFAULT));
    }
    if index.hosts.iter().any(|(host, _)| host == DEFAULT_FILES.0) {
        index.hosts.push((DEFAULT_FILES.1.to_owned(), 443));
    }
    index
}

/// A value as Python prints it: in quotes, with `\n` between several.
fn plain(printed: &str) -> String {
    printed.trim().trim_matches(['\'', '"']).replace("\\n", " ").trim().to_owned()
}

fn host(url: &str) -> Option<(String, u16)> {
    let url = Url::parse(url).ok()?;
    Some((url.host_str()?.to_owned(), url.port_or_known_default()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_index_is_the_way() {
        let text = "global.index-url='https://u:p@pypi.lan.test:8443/simple'\n\
                    install.extra-index-url='\\nhttps://a.test/x\\nhttp://b.test'\n:env:.find-links='/opt/wheels'\n";
        let index = from_list(text);
        let hosts: Vec<(&str, u16)> = index.hosts.iter().map(|(host, port)| (host.as_str(), *port)).collect();
        assert_eq!(hosts, [("pypi.lan.test", 8443), ("a.test", 443), ("b.test", 80)]);
        assert_eq!(index.files, [PathBuf::from("/opt/wheels")]);
        assert!(index.environment.contains(&("PIP_FIND_LINKS".to_owned(), "/opt/wheels".to_owned())));
        let hosts = from_list("").hosts;
        assert_eq!(hosts, [("pypi.org".to_owned(), 443), ("files.pythonhosted.org".to_owned(), 443)]);
    }
}

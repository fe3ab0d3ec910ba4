//! Where packages come from: the host's own apt knows a mirror that works here.

use std::process::Stdio;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::process::Command;

/// One source line of apt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AptSource {
    /// Address of the archive.
    pub uri: String,
    /// Suite, such as `trixie-security`.
    pub suite: String,
}

/// Sources for one suite, and the way to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// For the base, its updates and its security fixes.
    pub sources: Vec<AptSource>,
    /// The host's HTTP proxy for apt, as a URL.
    pub proxy: Option<String>,
}

/// No mirror was found.
#[derive(Debug, Error)]
pub enum MirrorError {
    /// apt could not be asked.
    #[error("cannot ask this host's apt for its mirror")]
    Apt(#[source] std::io::Error),
    /// Nothing of Debian in its configuration.
    #[error("this host's apt uses no Debian archive: name a `mirror` in image.toml or with --mirror")]
    None,
}

impl Mirror {
    /// The mirror named by the user, or that of the host's apt.
    pub async fn find(named: Option<&str>, suite: &str) -> Result<Self, MirrorError> {
        let proxy = proxy().await;
        if let Some(uri) = named {
            return Ok(Self { sources: vec![AptSource { uri: slash(uri), suite: suite.to_owned() }], proxy });
        }
        let lines = apt(&["apt-get", "indextargets", "--format", "$(REPO_URI)|$(LABEL)|$(ORIGIN)"]).await?;
        let sources = sources(&lines, suite);
        if sources.is_empty() { Err(MirrorError::None) } else { Ok(Self { sources, proxy }) }
    }

    /// Lines for apt.
    pub fn lines(&self) -> Vec<String> {
        self.sources.iter().map(|source| format!("deb {} {} main", source.uri, source.suite)).collect()
    }
}

/// Which archives the host uses, asked for another suite.
fn sources(lines: &str, suite: &str) -> Vec<AptSource> {
    let archive = |label: &str, path: &str| {
        let fields = lines.lines().map(|line| line.split('|').collect::<Vec<_>>());
        let fields = fields.filter(|fields| fields.len() == 3).collect::<Vec<_>>();
        let labelled = fields.iter().find(|fields| fields[1] == label && fields[2] == "Debian");
        // Before the first `apt-get update` apt knows addresses and no labels.
        let unlabelled = fields
            .iter()
            .find(|f| f[1].starts_with(['$', ' ']) || f[1].is_empty())
            .and(fields.iter().find(|f| f[0].trim_end_matches('/').ends_with(path)));
        labelled.or(unlabelled).and_then(|fields| address(fields[0]))
    };
    let mut sources = Vec::new();
    if let Some(uri) = archive("Debian", "/debian") {
        sources.push(AptSource { uri: uri.clone(), suite: suite.to_owned() });
        sources.push(AptSource { uri, suite: format!("{suite}-updates") });
        if let Some(uri) = archive("Debian-Security", "/debian-security") {
            sources.push(AptSource { uri, suite: format!("{suite}-security") });
        }
    }
    sources
}

/// An address that other programs understand: apt also knows lists of mirrors in files (`mirror+file:`), as Debian's
/// own cloud images use; the first of such a list is taken.
fn address(uri: &str) -> Option<String> {
    let web = |uri: &str| uri.starts_with("http://") || uri.starts_with("https://");
    match uri.strip_prefix("mirror+file:") {
        None => web(uri).then(|| slash(uri)),
        Some(file) => {
            let list = std::fs::read_to_string(file.trim_end_matches('/')).ok()?;
            list.split_whitespace().find(|word| web(word)).map(slash)
        }
    }
}

/// One spelling per address.
fn slash(uri: &str) -> String {
    format!("{}/", uri.trim_end_matches('/'))
}

async fn proxy() -> Option<String> {
    let text = apt(&["apt-config", "shell", "PROXY", "Acquire::http::Proxy"]).await.unwrap_or_default();
    let configured = text.trim().strip_prefix("PROXY='").and_then(|rest| rest.strip_suffix('\'')).map(str::to_owned);
    configured.or_else(|| std::env::var("http_proxy").ok()).filter(|value| value.starts_with("http://"))
}

async fn apt(words: &[&str]) -> Result<String, MirrorError> {
    let output = Command::new(words[0]).args(&words[1..]).stdin(Stdio::null()).stderr(Stdio::null()).output().await;
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).map_err(MirrorError::Apt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_archives_are_used_for_the_images_suite() {
        let lines = "http://m.test/debian/|Debian|Debian\nhttp://m.test/debian/|Debian|Debian\n\
                     http://other.test/apt|Other|Other\nhttp://s.test/security|Debian-Security|Debian\n";
        let found = Mirror { sources: sources(lines, "trixie"), proxy: None }.lines();
        assert_eq!(
            found,
            [
                "deb http://m.test/debian/ trixie main",
                "deb http://m.test/debian/ trixie-updates main",
                "deb http://s.test/security/ trixie-security main",
            ]
        );
        let unlabelled = "http://m.test/debian/||\nhttp://m.test/debian-security/||\n";
        assert_eq!(sources(unlabelled, "trixie").len(), 3, "before the first update");
        let list = std::env::temp_dir().join(format!("redrill-mirrors-{}", std::process::id()));
        std::fs::write(&list, "http://cloud.test/debian\n").expect("written");
        let lines = format!("mirror+file:{}|Debian|Debian\n", list.display());
        assert_eq!(sources(&lines, "trixie")[0].uri, "http://cloud.test/debian/");
        std::fs::remove_file(&list).expect("cleaned up");
        assert_eq!(sources("http://other.test/apt|Other|Other\n", "trixie"), []);
    }
}

//! Installed packages, from dpkg's own database.

use std::collections::BTreeMap;

use redrill_state::{Package, Section};

use crate::found::{Found, Root};

/// One paragraph per package, as in deb-control(5).
pub(crate) const STATUS: &str = "/var/lib/dpkg/status";

pub(crate) fn read(_: &Root) -> Found {
    let mut found = Found::new(Section::Packages);
    match std::fs::read_to_string(STATUS) {
        Ok(text) => parse(&text).into_iter().for_each(|package| found.add(package)),
        Err(error) => found.gap(format!("{STATUS}: {error}")),
    }
    found
}

/// The version of each package whose files are there; half of a step is none.
pub(crate) fn installed() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(STATUS).unwrap_or_default();
    let there = |package: &Package| !["config-files", "not-installed"].iter().any(|end| package.status.ends_with(end));
    parse(&text).into_iter().filter(there).map(|package| (package.name, package.version)).collect()
}

fn parse(text: &str) -> Vec<Package> {
    let mut by_name: BTreeMap<String, Vec<(String, Package)>> = BTreeMap::new();
    for paragraph in text.split("\n\n") {
        let field = |name: &str| {
            let line = paragraph.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_default().to_owned()
        };
        let (name, architecture) = (field("Package"), field("Architecture"));
        if !name.is_empty() {
            let package = Package { name: name.clone(), version: field("Version"), status: field("Status") };
            by_name.entry(name).or_default().push((architecture, package));
        }
    }
    let tell_apart = |mut packages: Vec<(String, Package)>| {
        if packages.len() > 1 {
            packages.iter_mut().for_each(|(arch, package)| package.name = format!("{}:{arch}", package.name));
        }
        packages.into_iter().map(|(_, package)| package)
    };
    by_name.into_values().flat_map(tell_apart).collect()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn packages_of_two_architectures_are_told_apart() {
        let text = "Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0-1\nDescription: x\n y\n\n\
                    Package: b\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 2\n\n\
                    Package: b\nStatus: install ok installed\nArchitecture: i386\nVersion: 3\n";
        let seen: Vec<String> = parse(text).iter().map(|p| format!("{} {} {}", p.name, p.version, p.status)).collect();
        assert_eq!(
            seen,
            ["a 1.0-1 install ok installed", "b:amd64 2 deinstall ok config-files", "b:i386 3 install ok installed"]
        );
    }
}

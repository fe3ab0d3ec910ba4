//! Variables of the environment, as data: the manual and the reference page are drawn from it.

/// Who sets a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// Whoever calls redrill.
    You,
    /// redrill, for programs that it starts.
    Redrill,
    /// Whoever works on redrill.
    Developers,
}

/// A variable that redrill reads or sets.
#[derive(Debug)]
pub(crate) struct Variable {
    pub(crate) name: &'static str,
    pub(crate) set_by: For,
    pub(crate) meaning: &'static str,
}

const fn you(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, set_by: For::You, meaning }
}

const fn redrill(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, set_by: For::Redrill, meaning }
}

const fn developers(name: &'static str, meaning: &'static str) -> Variable {
    Variable { name, set_by: For::Developers, meaning }
}

/// All of them.
pub(crate) const VARIABLES: &[Variable] = &[
    you(
        "REDRILL_CACHE_DIR",
        "Where images, templates, Python environments and copies of backup repositories are; \
         otherwise `$XDG_CACHE_HOME/redrill` or `~/.cache/redrill`.",
    ),
    you(
        "REDRILL_STATE_DIR",
        "Where run directories and the shared budget are; otherwise `$XDG_STATE_HOME/redrill` or `~/.local/state/redrill`.",
    ),
    you("REDRILL_MEMORY_MIB", "How much memory all drills together may take; four fifths of the host's by default."),
    you(
        "REDRILL_SANDBOX",
        "`namespaces` or `engine`: only this may seal programs of a repo. With any other word nothing may. \
         No value makes a program run unsealed.",
    ),
    you("REDRILL_PROGRAM", "The `redrill` that a test suite of your own runs; otherwise the one on the PATH."),
    you("REDRILL_TEST_LIMIT", "How long a drill that is a test may take before redrill ends it; `25m` by default."),
    you("DOCKER_HOST", "`unix://PATH` of the container engine; otherwise `/var/run/docker.sock`. No other form works."),
    you("XDG_CACHE_HOME", "See `REDRILL_CACHE_DIR`."),
    you("XDG_STATE_HOME", "See `REDRILL_STATE_DIR`."),
    you("http_proxy", "The way to the package mirror, if apt's configuration names no proxy."),
    you("NO_COLOR", "Set to anything: no colours. The same with `TERM=dumb`."),
    you("CI", "`true`: a trial that lacks a means of the host fails, and `ci/setup` does not ask."),
    you("NEXTEST_RUN_ID", "cargo-nextest sets it: trials of one test run share their drills."),
    redrill(
        "REDRILL_SSH_CONFIG",
        "For restore scripts on the controller: an SSH configuration that leads to the machines.",
    ),
    redrill("REDRILL_RUN", "On every process of a run: the run directory, so that a sweep knows whose process it is."),
    redrill("REDRILL_ANEW", "On redrill itself, started anew: the inherited descriptors are closed."),
    redrill("REDRILL_SUITE", "For test processes of `redrill test`: where the scenarios are."),
    redrill("REDRILL_SUITE_EXCEPT", "For test processes of `redrill test`: which scenarios to leave out."),
    redrill("REDRILL_EVENTS", "For helpers in deploy tools: the file that gets events."),
    redrill("REDRILL_ROOT", "For helpers in deploy tools: the checkout."),
    redrill(
        "REDRILL_CUT",
        "For helpers in deploy tools: the number of the operation before which to end, as if killed.",
    ),
    redrill("REDRILL_PAUSE", "For helpers in deploy tools: names of operations behind which to wait, as a JSON list."),
    redrill("REDRILL_GATE", "For helpers in deploy tools: the directory where a file lets a pause end."),
    redrill("REDRILL_RESULTS", "For the helper in pyinfra: the file that gets pyinfra's own results."),
    redrill(
        "REDRILL_INVENTORY",
        "For the helper in pyinfra: write the inventory's hosts to this file instead of deploying.",
    ),
    developers("REDRILL_BLESS", "Set to anything: the test of a generated page writes it instead of comparing it."),
    developers("REDRILL_SETUP_TESTS", "`1`: `ci/setup` also installs what tests need. `ci/test` sets it."),
    developers("REDRILL_CORPUS_RESULTS", "Where trials of the fault corpus leave their results. `ci/corpus` sets it."),
    developers("REDRILL_TESTS_NAMESPACE", "Set by tests that run again in a mount namespace of their own."),
    developers("REDRILL_PROBE", "Set by the build of `redrill-machines`: the probe that it embeds."),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Every `REDRILL_NAME` in the sources below `directory`, and every name that a program is asked for.
    fn named(directory: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(directory).expect("a directory of the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                named(&path, names);
            } else if let Ok(text) = std::fs::read_to_string(&path)
                && !path.ends_with("environment.rs")
            {
                let plain = |c: char| c.is_ascii_uppercase() || c == '_';
                let tail = |rest: &str| rest.chars().take_while(|c| plain(*c)).collect::<String>();
                names.extend(text.split("REDRILL_").skip(1).map(|rest| format!("REDRILL_{}", tail(rest))));
            }
        }
    }

    #[test]
    fn every_variable_of_the_sources_is_in_the_table_and_no_other() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut there = BTreeSet::new();
        for directory in ["harness", "ci", "tests/support"] {
            named(&root.join(directory), &mut there);
        }
        there.remove("REDRILL_"); // In prose, and in this test.
        let table: BTreeSet<String> =
            VARIABLES.iter().map(|v| v.name.to_owned()).filter(|name| name.starts_with("REDRILL_")).collect();
        assert_eq!(there, table);
    }
}

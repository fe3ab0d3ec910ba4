//! The command that makes a drill again, as a line to paste into a shell.

use std::fmt;
use std::path::Path;

/// Words of a command line; each is quoted where a shell would take it for something else.
#[derive(Debug, Clone)]
pub(crate) struct Repeat(Vec<String>);

impl Repeat {
    pub(crate) fn of(subcommand: &str, operand: &Path) -> Self {
        Self(vec!["redrill".to_owned(), subcommand.to_owned(), operand.display().to_string()])
    }

    /// `name`, where it was given.
    #[must_use]
    pub(crate) fn flag(mut self, name: &str, given: bool) -> Self {
        self.0.extend(given.then(|| name.to_owned()));
        self
    }

    /// `name` and its value, where it has one.
    #[must_use]
    pub(crate) fn option(mut self, name: &str, value: Option<impl fmt::Display>) -> Self {
        self.0.extend(value.map(|value| [name.to_owned(), value.to_string()]).into_iter().flatten());
        self
    }

    #[must_use]
    pub(crate) fn path(self, name: &str, path: Option<&Path>) -> Self {
        self.option(name, path.map(Path::display))
    }
}

impl fmt::Display for Repeat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments of a process hold no NUL, which is all that cannot be quoted.
        let quoted = |word: &String| shlex::try_quote(word).map_or_else(|_| word.clone(), std::borrow::Cow::into_owned);
        f.write_str(&self.0.iter().map(quoted).collect::<Vec<_>>().join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_the_words_that_were_given() {
        let repeat = Repeat::of("run", Path::new("my drills/it's web"))
            .flag("--mutate", true)
            .flag("--fresh", false)
            .option("--jobs", Some(2))
            .option("--host", None::<&str>)
            .path("--keys", Some(Path::new("$KEYS/a;b")));
        let words = shlex::split(&repeat.to_string()).expect("a line of a shell");
        assert_eq!(words, ["redrill", "run", "my drills/it's web", "--mutate", "--jobs", "2", "--keys", "$KEYS/a;b"]);
        assert_eq!(Repeat::of("run", Path::new("scenarios/web")).to_string(), "redrill run scenarios/web");
    }
}

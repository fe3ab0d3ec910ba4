//! Colours, where they are wanted.

use std::io::IsTerminal;

/// Control sequences, or nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Colours {
    coloured: bool,
}

/// No colours.
pub(super) const PLAIN: Colours = Colours { coloured: false };

/// Colours on a terminal, unless `NO_COLOR` is set to anything (no-color.org).
pub(super) fn for_stdout() -> Colours {
    wanted(std::io::stdout().is_terminal())
}

/// The same for the story.
pub(super) fn for_stderr() -> Colours {
    wanted(std::io::stderr().is_terminal())
}

fn wanted(terminal: bool) -> Colours {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    Colours { coloured: terminal && !refused && std::env::var_os("TERM").is_none_or(|term| term != "dumb") }
}

impl Colours {
    pub(super) fn coloured(self) -> bool {
        self.coloured
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.coloured { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("1;31", text)
    }

    pub(super) fn open(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(super) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }
}

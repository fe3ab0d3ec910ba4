//! What is wrong with a file that a person wrote, and where.

use std::ops::Range;

use thiserror::Error;

/// One mistake in an input file.
///
/// `span` counts bytes of the text that was parsed; [`InputError::position`] turns it into the line and column that
/// people and editors count.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct InputError {
    /// Where in the text, in bytes.
    pub span: Range<usize>,
    /// What is wrong there.
    pub message: String,
    /// What was expected instead, when the message does not say it.
    pub expected: Option<String>,
}

/// A place in a text as editors count it: both numbers start at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl InputError {
    /// What is wrong at `span`, and what would be right there.
    pub fn new(span: Range<usize>, message: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { span, message: message.into(), expected: Some(expected.into()) }
    }

    /// The line and column where the mistake starts.
    pub fn position(&self, text: &str) -> Position {
        let start = self.span.start.min(text.len());
        let before = text.get(..start).unwrap_or(text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Position { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
    }
}

impl From<toml::de::Error> for InputError {
    fn from(error: toml::de::Error) -> Self {
        let span = error.span().unwrap_or(0..0);
        Self { span, message: error.message().to_owned(), expected: None }
    }
}

/// Where in a TOML text the value of a key stands, for mistakes that only a look at the world shows. Tables of a list
/// are named by their number, from 0. The head of the innermost table that is written if the key itself is not.
pub fn span_of(text: &str, key: &[&str]) -> Option<Range<usize>> {
    let root = toml::de::DeTable::parse(text).ok()?;
    let (first, rest) = key.split_first()?;
    let mut value = root.get_ref().get(*first)?;
    for part in rest {
        let inner = match value.get_ref() {
            toml::de::DeValue::Table(table) => table.get(*part),
            toml::de::DeValue::Array(list) => part.parse::<usize>().ok().and_then(|at| list.get(at)),
            _ => None,
        };
        let Some(inner) = inner else { break };
        value = inner;
    }
    Some(value.span())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_where_it_is_written_or_would_be() {
        let text = "a = 1\n[servers]\npath = 'x'\n";
        let at = |key: &[&str]| span_of(text, key).map(|span| text[span].to_owned());
        assert_eq!(at(&["servers", "path"]).as_deref(), Some("'x'"));
        assert!(at(&["servers", "commit"]).expect("its table").starts_with("[servers]"));
        let machines = "[[machine]]\nname = 'a'\n[[machine]]\nname = 'b'\n";
        assert_eq!(span_of(machines, &["machine", "1", "name"]).map(|span| &machines[span]), Some("'b'"));
        assert_eq!((at(&["keys", "path"]), span_of("a = ", &["a"])), (None, None));
    }

    #[test]
    fn positions_count_characters_from_one() {
        let text = "a = 1\nü = x\n";
        let at = |start| InputError::new(start..start, "", "").position(text);
        assert_eq!(at(0), Position { line: 1, column: 1 });
        assert_eq!(at(6), Position { line: 2, column: 1 });
        assert_eq!(at(11), Position { line: 2, column: 5 });
        assert_eq!(at(999).line, 3);
    }
}

//! Errors, as people read them: what, where, what was expected, what mends it.

use std::error::Error;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use redrill_engine::ScenarioError;
use redrill_machines::image::CatalogError;
use redrill_model::InputError;

use super::{story, style};

/// Why a command could not do its work, and the exit status that says so.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A mistake in a file: status 2.
    Input { path: String, text: String, error: InputError },
    /// A mistake elsewhere in what the user gave: status 2.
    Usage { message: String, expected: Option<String> },
    /// The answer could not be found out: status 3.
    Unknown { message: String, mend: Option<String> },
}

impl Failure {
    pub(crate) fn usage(message: &str) -> Self {
        Self::Usage { message: message.to_owned(), expected: None }
    }

    pub(crate) fn plain(message: &str) -> Self {
        Self::Unknown { message: message.to_owned(), mend: None }
    }

    pub(crate) fn with_mend(message: &str, mend: &str) -> Self {
        Self::Unknown { message: message.to_owned(), mend: Some(mend.to_owned()) }
    }

    /// With every cause.
    pub(crate) fn unknown(what: &str, error: &(dyn Error + 'static)) -> Self {
        let mut message = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(source) = cause {
            message = format!("{message}: {source}");
            cause = source.source();
        }
        Self::plain(&message)
    }

    /// 2 for what the user wrote, 3 for all else.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Input { .. } | Self::Usage { .. } => 2,
            Self::Unknown { .. } => 3,
        }
    }
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Self {
        match error {
            ScenarioError::Invalid { path, text, error } => {
                Self::Input { path: path.display().to_string(), text, error }
            }
            ScenarioError::Unreadable { path, source } => {
                let message = format!("cannot read the scenario `{}`: {source}", path.display());
                let expected = Some("a directory with a scenario.toml, or such a file".to_owned());
                Self::Usage { message, expected }
            }
            ScenarioError::Mismatch { message, expected } => Self::Usage { message, expected: Some(expected) },
        }
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Invalid { path, text, error } => {
                Self::Input { path: path.display().to_string(), text, error }
            }
            CatalogError::Unknown { .. } => Self::usage(&error.to_string()),
            CatalogError::Unreadable { .. } => Self::unknown("no recipe", &error),
        }
    }
}

/// Tells it.
pub(crate) fn failure(failure: &Failure) {
    let style = style::for_stderr();
    match failure {
        Failure::Input { path, text, error } => story(&snippet(path, text, error, style.coloured())),
        Failure::Usage { message, expected } => {
            story(&format!("{} {message}", style.bad("error:")));
            if let Some(expected) = expected {
                story(&format!("  expected: {expected}"));
            }
        }
        Failure::Unknown { message, mend } => {
            story(&format!("{} {message}", style.bad("error:")));
            if let Some(mend) = mend {
                story(&format!("  mend it: {mend}"));
            }
        }
    }
}

/// The line with the mistake, underlined. Always begins with `FILE:LINE:COLUMN`, which editors can jump to.
fn snippet(path: &str, text: &str, error: &InputError, coloured: bool) -> String {
    let position = error.position(text);
    let start = error.span.start.min(text.len());
    let end = error.span.end.clamp(start, text.len());
    // A whole table would be underlined from its head to its end: the head is enough.
    let first_line = text[start..end].lines().next().map_or(0, str::len);
    let span = start..start + first_line;
    let label = error.expected.as_ref().map(|expected| format!("expected {expected}"));
    let mut annotation = AnnotationKind::Primary.span(span);
    if let Some(label) = &label {
        annotation = annotation.label(label.as_str());
    }
    let snippet = Snippet::source(text).path(path).annotation(annotation);
    let group = Level::ERROR.primary_title(error.message.as_str()).element(snippet);
    let renderer = if coloured { Renderer::styled() } else { Renderer::plain() };
    format!("{path}:{}:{}: {}\n{}", position.line, position.column, error.message, renderer.render(&[group]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_names_file_line_column_and_what_was_expected() {
        let text = "a = 1\nboot = 90\n";
        let error = InputError { span: 13..15, message: "invalid type".into(), expected: Some("a duration".into()) };
        let shown = snippet("scenario.toml", text, &error, false);
        assert!(shown.starts_with("scenario.toml:2:8: invalid type\n"), "{shown}");
        assert!(shown.contains("boot = 90") && shown.contains("^^ expected a duration"), "{shown}");
    }

    #[test]
    fn a_mistake_at_the_very_end_is_shown_too() {
        let error = InputError { span: 99..120, message: "cut off".into(), expected: None };
        assert!(snippet("s.toml", "a = 1\n", &error, false).starts_with("s.toml:2:1: cut off"));
    }
}

//! What of a drill is secret: everything in its keys, what the scenario's patterns match, and nothing that it calls public.

use redrill_model::InputError;
pub use redrill_redact::Redactor;
use redrill_redact::{PatternError, check_pattern};

use crate::loaded::Loaded;

/// Reads the keys of a scenario.
pub(crate) fn redactor(loaded: &Loaded) -> Result<Redactor, PatternError> {
    let text = std::fs::read_to_string(&loaded.file).unwrap_or_default();
    let rules = &loaded.scenario.redaction;
    let patterns: Vec<String> = rules.patterns.iter().map(|pattern| pattern.get_ref().clone()).collect();
    let builder = Redactor::builder().scenario(&text).public(&rules.public).patterns(&patterns);
    loaded.keys().into_iter().fold(builder, |builder, keys| builder.keys(&keys)).build()
}

/// The first pattern of a scenario that cannot be looked for.
pub(crate) fn wrong_pattern(loaded: &Loaded) -> Option<InputError> {
    loaded.scenario.redaction.patterns.iter().find_map(|pattern| {
        let error = check_pattern(pattern.get_ref()).err()?;
        let expected = Some("a regular expression that matches the whole of a secret".to_owned());
        Some(InputError { span: pattern.span(), message: error.to_string(), expected })
    })
}

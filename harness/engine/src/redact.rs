//! What of a drill is secret: everything in its keys, what the scenario's patterns match, and nothing that it calls public.

use std::path::Path;

use redrill_model::{InputError, Scenario, report_words};
pub use redrill_redact::Redactor;
use redrill_redact::{PatternError, check_pattern};

/// Reads the keys of a scenario, which lies in `file`.
pub(crate) fn redactor(scenario: &Scenario, file: &Path, keys: Option<&Path>) -> Result<Redactor, PatternError> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let rules = &scenario.redaction;
    let patterns: Vec<String> = rules.patterns.iter().map(|pattern| pattern.get_ref().clone()).collect();
    let builder = Redactor::builder().scenario(&text).public(&rules.public).patterns(&patterns).own(report_words());
    keys.into_iter().fold(builder, |builder, keys| builder.keys(keys)).build()
}

/// The first pattern of a scenario that cannot be looked for.
pub(crate) fn wrong_pattern(scenario: &Scenario) -> Option<InputError> {
    scenario.redaction.patterns.iter().find_map(|pattern| {
        let error = check_pattern(pattern.get_ref()).err()?;
        let expected = Some("a regular expression that matches the whole of a secret".to_owned());
        Some(InputError { span: pattern.span(), message: error.to_string(), expected })
    })
}

#[cfg(test)]
mod tests {
    use redrill_model::{Claim, Pass, Severity, Stage, StageReport, Status, Verdict};
    use serde_json::{Value, json};

    use super::*;
    use crate::loaded::Loaded;

    /// What a report must say to be read again, and what a secret that is a part of it must not change.
    fn words() -> Vec<Value> {
        let passes =
            [Pass::First, Pass::Second, Pass::Third, Pass::Fourth, Pass::Rebuilt, Pass::Restored, Pass::Resumed];
        let stages = passes.map(Stage::Deploy).into_iter().chain([Stage::Controller, Stage::BackUp, Stage::Teardown]);
        let report = |stage| StageReport { stage, status: Status::NotRun, seconds: 0.0, note: String::new() };
        let stages = stages.map(|stage| serde_json::to_value(report(stage)).expect("plain data"));
        let moments = ["redeployed", "backed-up", "restored", "deployed"];
        let moments = moments.map(|moment| json!({"stage": "capture", "of": moment}));
        let claims = Claim::ALL.map(|claim| json!({ "claim": claim }));
        let verdicts = [Verdict::Undeclared, Verdict::Unproven].map(|verdict| json!({ "verdict": verdict }));
        let others =
            [json!({"severity": Severity::Warning}), json!({"code": "DEPLOY_FAILED"}), json!({"unit": "operations"})];
        stages.chain(moments).chain(claims).chain(verdicts).chain(others).collect()
    }

    fn loaded(keys: &str) -> (String, Loaded) {
        let text = format!(
            "claims = ['rebuilds']\n[servers]\npath = 's'\n[keys]\npath = 'keys'\n{keys}\n[[machine]]\nname = 'web'\nimage = 'i'\n"
        );
        let scenario = redrill_model::Scenario::parse(&text).expect("valid");
        let directory = std::env::temp_dir().join(format!("redrill-rules-{}", std::process::id()));
        let file = directory.join("scenario.toml");
        (text, Loaded { name: "rules".to_owned(), directory, file, scenario, recipes: None })
    }

    #[test]
    fn a_pattern_that_cannot_be_looked_for_is_an_error_with_its_place() {
        for (pattern, why) in [("tok_(", "unclosed group"), ("x*", "it matches the empty text")] {
            let (text, loaded) = loaded(&format!("patterns = ['ok_[0-9]', '{pattern}']"));
            let error = wrong_pattern(&loaded.scenario).expect("wrong");
            assert!(error.message.contains(why) && text[error.span.clone()].contains(pattern), "{error:?}");
            assert!(loaded.redactor().is_err());
        }
        assert_eq!(wrong_pattern(&loaded("patterns = ['tok_[0-9]+']").1.scenario), None);
    }

    #[test]
    fn a_redactor_knows_the_keys_and_the_rules_of_a_scenario() {
        let (_, loaded) = loaded("patterns = ['tok_[0-9]+']\npublic = ['region-eu-7b']");
        let keys = loaded.directory.join("keys");
        std::fs::create_dir_all(&keys).expect("made");
        std::fs::write(keys.join("vars.yml"), "pw: plantedPW-1\nzone: region-eu-7b\n").expect("written");
        let redactor = loaded.redactor().expect("patterns");
        std::fs::remove_dir_all(&loaded.directory).expect("cleaned up");
        assert_eq!(redactor.clean("plantedPW-1 tok_77 region-eu-7b"), "[redacted] [redacted] region-eu-7b");
    }

    #[test]
    fn a_secret_that_is_part_of_a_word_of_redrills_leaves_the_word_and_names_alone() {
        let words = words();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let all = words.iter().flat_map(|word| word.as_object().expect("one").values().filter_map(text));
        let parts: Vec<String> =
            all.filter(|word| word.len() > 8).map(|word| word[..word.len() - 1].to_owned()).collect();
        assert!(parts.len() > 5, "{parts:?}");
        let own = Redactor::builder().own(report_words());
        let builder = parts.iter().fold(own, |builder, part| builder.value(part));
        let redactor = builder.value("severity").value("findings").build().expect("no patterns");
        for word in words {
            let mut cleaned = word.clone();
            redactor.clean_json(&mut cleaned);
            assert_eq!(cleaned, word);
        }
        assert!(redactor.finds("a redeploye b"), "elsewhere it is a secret");
    }
}

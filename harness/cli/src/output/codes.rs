//! Codes of findings, for people: one explained, all listed.

use std::fmt::Write;

use redrill_model::{Code, Severity};

use super::style::Colours;

/// What a finding of this severity makes of its claim.
fn effect(code: Code) -> &'static str {
    match code.severity() {
        Severity::Fails => "the claim FAILED",
        Severity::Unknown => "the claim is UNPROVEN",
        Severity::Warning => "a warning: the verdict stays",
        Severity::Info => "worth knowing: the verdict stays",
    }
}

fn claims(code: Code) -> String {
    let names: Vec<&str> = code.claims().iter().map(|claim| claim.name()).collect();
    if names.is_empty() { "any claim".to_owned() } else { names.join(", ") }
}

/// One code: meaning, effect, remedy, example.
pub(super) fn one(code: Code, style: Colours) -> String {
    let mut out = format!("{}\n\n{}\n\n", style.bold(code.word()), code.meaning());
    let _ = writeln!(out, "Claims     {}", claims(code));
    let _ = writeln!(out, "Verdict    {}", effect(code));
    let _ = writeln!(out, "What to do {}\n\nExample\n", code.remedy());
    for line in code.example().lines() {
        let _ = writeln!(out, "    {}", style.dim(line));
    }
    out.trim_end().to_owned()
}

/// All codes, a line each.
pub(super) fn list(style: Colours) -> String {
    let widest = Code::ALL.iter().map(|code| code.word().len()).max().unwrap_or_default();
    let line = |code: &Code| format!("{}  {}", style.bold(&format!("{code:<widest$}")), code.meaning());
    Code::ALL.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::super::style::PLAIN;
    use super::*;

    #[test]
    fn the_reference_page_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/codes.md");
        if std::env::var_os("REDRILL_BLESS").is_some() {
            std::fs::create_dir_all(std::path::Path::new(path).parent().expect("a directory")).expect("made");
            std::fs::write(path, page()).expect("written");
        }
        let there = std::fs::read_to_string(path).expect("docs/reference/codes.md is there");
        assert!(there == page(), "docs/reference/codes.md is old: REDRILL_BLESS=1 cargo nextest run -p redrill page");
    }

    #[test]
    fn one_code_is_explained_with_its_effect() {
        let text = one(Code::JobFailed, PLAIN);
        assert!(
            text.contains("the claim FAILED") && text.contains("restores") && text.contains("[backup.job]"),
            "{text}"
        );
        assert!(list(PLAIN).lines().count() == Code::ALL.len());
    }

    /// The reference page, in Markdown: `docs/reference/codes.md` is this text.
    fn page() -> String {
        let mut out = String::from(
            "# Codes of findings\n\nEvery finding in a report has a code. `redrill explain CODE` prints what stands here. This \
             page is generated from\n`harness/model/src/codes.rs`: `REDRILL_BLESS=1 cargo nextest run -p redrill page` writes \
             it anew.\n",
        );
        for code in Code::ALL {
            let _ = write!(
                out,
                "\n## {code}\n\n{}\n\n- Claims: {}\n- Verdict: {}\n- What to do: {}\n\n```text\n{}\n```\n",
                code.meaning(),
                claims(*code),
                effect(*code),
                code.remedy(),
                code.example()
            );
        }
        out
    }
}

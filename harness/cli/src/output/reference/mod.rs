//! The pages of `docs/reference`, in Markdown, drawn from what the code says. A test compares them with the tree.

mod commands;
mod keys;

use std::fmt::Write;

use redrill_state::{canonicalisers, compared, not_compared};

use crate::environment::{For, VARIABLES};
use crate::status::STATUSES;

/// How a generated page begins.
fn head(title: &str, of: &str, text: &str) -> String {
    format!(
        "# {title}\n\n{text}\n\nThis page is generated from {of}: `REDRILL_BLESS=1 cargo nextest run -p redrill page` writes \
         it anew.\n"
    )
}

/// Text in a cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

fn variables() -> String {
    let mut out = head(
        "Environment variables",
        "`harness/cli/src/environment.rs`",
        "What redrill reads from the environment, and what it sets for programs that it starts.",
    );
    for (title, set_by) in [
        ("What you may set", For::You),
        ("What redrill sets for its own programs", For::Redrill),
        ("For those who work on redrill", For::Developers),
    ] {
        let _ = writeln!(out, "\n## {title}\n\n| variable | meaning |\n|---|---|");
        for variable in VARIABLES.iter().filter(|variable| variable.set_by == set_by) {
            let _ = writeln!(out, "| `{}` | {} |", variable.name, cell(variable.meaning));
        }
    }
    out
}

fn statuses() -> String {
    let text = "Every command of redrill ends with one of these.";
    let mut out = head("Exit status", "`harness/cli/src/status.rs`", text);
    out.push_str("\n| status | meaning |\n|---|---|\n");
    for (status, meaning) in STATUSES {
        let _ = writeln!(out, "| {status} | {} |", cell(meaning));
    }
    out
}

fn left_out() -> String {
    let text = "Differences of these kinds say nothing about a deploy, each for a reason; \
        [the explanation](../explanation/left-out.md) says how the list is kept. `redrill plan --canonicalisers` also prints how \
        often each applied on this host.";
    let mut out = head("What comparisons leave out", "`harness/state/src/canonical.rs`", text);
    out.push_str("\n| kind | reason | places |\n|---|---|---|\n");
    for one in canonicalisers() {
        let _ = writeln!(out, "| {} | {} | {} |", one.name, cell(one.reason), places(&one.places));
    }
    out
}

fn scope() -> String {
    let text = "PROVEN under `idempotent` speaks of what was compared, and of nothing else. `redrill plan --scope` prints this \
        list, and every report holds it.";
    let mut out = head("What is compared", "`harness/state/src/sections.rs` and `scope.rs`", text);
    out.push_str("\n## Compared\n\n");
    compared().iter().for_each(|section| out.push_str(&format!("- {section}\n")));
    out.push_str("\n## Not compared\n\n| what | why | where |\n|---|---|---|\n");
    for one in not_compared(false) {
        let place = if one.only_shared_kernel { "containers" } else { "everywhere" };
        let _ = writeln!(out, "| {} | {} | {place} |", cell(one.what), cell(one.why));
    }
    out
}

/// Paths as code, words as they are.
fn places(text: &str) -> String {
    let word = |word: &str| {
        let (bare, comma) = word.strip_suffix(',').map_or((word, ""), |bare| (bare, ","));
        match bare.contains(['/', '*', '.', '_']) || bare.starts_with('-') {
            true => format!("`{bare}`{comma}"),
            false => word.to_owned(),
        }
    };
    cell(&text.split(' ').map(word).collect::<Vec<_>>().join(" "))
}

/// Every page, by its name in `docs/reference`.
fn pages() -> Vec<(&'static str, String)> {
    vec![
        ("scenario.md", keys::scenario()),
        ("image.md", keys::image()),
        ("command-line.md", commands::page()),
        ("environment.md", variables()),
        ("exit-status.md", statuses()),
        ("left-out.md", left_out()),
        ("scope.md", scope()),
    ]
}

#[test]
fn the_reference_pages_are_what_the_code_says() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference");
    for (name, text) in pages() {
        let path = directory.join(name);
        if std::env::var_os("REDRILL_BLESS").is_some() {
            std::fs::write(&path, &text).expect("written");
        }
        let there = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(there == text, "docs/reference/{name} is old: REDRILL_BLESS=1 cargo nextest run -p redrill page");
    }
}

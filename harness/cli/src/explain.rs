//! `redrill explain`: what a finding's code means, and what to do about it.

use std::str::FromStr;

use redrill_model::Code;

use crate::Ended;
use crate::output::{self, Failure};

/// Explain a code of the report, such as REAL_CHANGE; without one, list all codes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  redrill explain REAL_CHANGE
  redrill explain              every code, with one line each")]
pub(crate) struct Args {
    /// The word beside a finding in a report.
    code: Option<String>,
}

pub(crate) fn exec(args: &Args) -> Ended {
    let Some(word) = &args.code else {
        output::codes();
        return Ok(0);
    };
    let code = Code::from_str(word)
        .map_err(|unknown| Failure::Usage { message: unknown.to_string(), expected: Some(nearest(word)) })?;
    output::code(code);
    Ok(0)
}

/// A word that was likely meant, or how to see them all.
fn nearest(word: &str) -> String {
    let asked = word.to_uppercase().replace('-', "_");
    let shares =
        |code: &&Code| asked.split('_').any(|part| part.len() > 2 && code.word().split('_').any(|w| w == part));
    let like: Vec<String> = Code::ALL.iter().filter(shares).take(5).map(|code| format!("`{code}`")).collect();
    let list = "`redrill explain`, which lists all of them".to_owned();
    if like.is_empty() { list } else { format!("{}, or {list}", like.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_nearly_right_leads_to_codes_like_it() {
        assert_eq!(
            nearest("real_chance"),
            "`redrill explain`, which lists all of them".replace("`redrill", "`REAL_CHANGE`, or `redrill")
        );
        assert!(nearest("zzz").starts_with("`redrill explain`"));
    }
}

//! A canary: a line of text that is planted in a live service and looked for in what came back from its backup.

use std::time::{Duration, SystemTime};

/// How every canary begins.
const MARK: &str = "redrill-canary";

/// The text of a canary that is planted now.
pub fn canary_text(name: &str, now: SystemTime) -> String {
    format!("{MARK} {name} {}", humantime::format_rfc3339_seconds(now))
}

/// The age of the newest canary `name` in `text`, if there is one; zero for one of the future.
pub fn canary_age(name: &str, text: &str, now: SystemTime) -> Option<Duration> {
    let planted = |rest: &str| {
        let mut words = rest.split_whitespace();
        let named = words.next() == Some(name);
        let moment = words.next()?.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        named.then(|| humantime::parse_rfc3339(moment).ok()).flatten()
    };
    let newest = text.split(MARK).skip(1).filter_map(planted).max()?;
    Some(now.duration_since(newest).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_canary_of_a_name_is_found_in_any_text() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let text = format!(
            "<p>{}</p>\n\"{}\", {}",
            canary_text("notes", at(10)),
            canary_text("notes", at(50)),
            canary_text("wiki", at(70))
        );
        assert_eq!(canary_age("notes", &text, at(60)), Some(Duration::from_secs(10)));
        assert_eq!(canary_age("notes", &text, at(5)), Some(Duration::ZERO));
        assert_eq!(canary_age("mail", &text, at(60)), None);
        assert_eq!(canary_age("notes", "redrill-canary notes", at(60)), None);
    }
}

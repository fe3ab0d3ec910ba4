//! Values that stand in keys and give nothing away: words that redrill itself uses, words of every configuration, dates.

use std::collections::HashSet;
use std::sync::LazyLock;

/// Shorter values are not looked for: they stand in half of all words.
pub(crate) const FLOOR: usize = 6;
/// Shorter words and numbers are looked for as such, and not within other words.
const BOUND: usize = 8;

/// What redrill says itself: claims, verdicts, stages, outcomes, units, kinds, backends, tools.
static OWN: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "absent accepted adopted alternatives ansible apt-keys apt-sources arguments authorized-keys back-up \
     backed-up backup backups before between borgbackup cancelled capture captures changed changes \
     check-again checked checks command commands commit compare compared container containers control \
     controller copied created crontabs databases declared default deleted deploy deployed deploys \
     destroy directory diverges docker emulated emulation entries evidence exposed failed failure finding \
     findings firewall forked fourth frozen groups hash-seed hidden host-name idempotent ignored images \
     interrupted inventory killed language locale loopback machine machines manifest mirror missing \
     modified modules mounts mutant mutants mutate network not-run operation operations optional oracles \
     oscillates output packages passed podman postgresql progress proven pyinfra python reboot rebuilds \
     rebuilt redeploy redeployed redrill regular remark remarks removed report rescued restic restore \
     restored restores resume resumed resumes running scenario second seconds serves settings settled \
     settles settles-late severity shadow skipped sockets source sqlite stages started status stopped \
     subject success sudoers summary survives survives-reboot symlink sysctl systemd targets teardown \
     time-zone timers unchanged undeclared unknown unproven unreachable update updated user-name verdict \
     waived waiver waivers warning would-change written"
        .split(' ')
        .collect()
});

/// What configurations say: switches, levels, places, kinds of values.
static COMMON: LazyLock<HashSet<&str>> = LazyLock::new(|| {
    "0.0.0.0 127.0.0.1 active always boolean critical database debian development disable disabled enable \
     enabled example example.com example.net example.org external global inactive integer internal \
     localhost manual notice number object on-failure outside prefer present private production public \
     require required restart server service services staging static strict string system testing ubuntu \
     unless-stopped verify-ca verify-full version volume volumes"
        .split(' ')
        .collect()
});

/// Whether a value is one of these words, in whatever case.
pub(crate) fn is_vocabulary(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    OWN.contains(lower.as_str()) || COMMON.contains(lower.as_str())
}

/// Whether a value is a word that redrill says itself, as it says it.
pub(crate) fn is_own(text: &str) -> bool {
    OWN.contains(text.to_ascii_lowercase().as_str())
}

/// Whether a value is a date, with or without a time.
pub(crate) fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shape = bytes.len() >= 10 && bytes[4] == b'-' && bytes[7] == b'-';
    let day = |range: std::ops::Range<usize>| bytes[range].iter().all(u8::is_ascii_digit);
    shape && day(0..4) && day(5..7) && day(8..10) && bytes[10..].iter().all(|byte| b"0123456789:.TZ+- ".contains(byte))
}

/// Short words and numbers, which other words may hold by chance.
pub(crate) fn is_bound(value: &[u8]) -> bool {
    let word = value.iter().skip(1).all(u8::is_ascii_lowercase) && value.first().is_some_and(u8::is_ascii_alphabetic);
    value.len() < BOUND && (word || value.iter().all(u8::is_ascii_digit))
}

/// Whether a name says that its value is secret.
pub(crate) fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 21] = [
        "pass", "pwd", "secret", "token", "key", "cred", "auth", "pin", "salt", "seed", "private", "dsn", "hash",
        "psk", "sasl", "cookie", "session", "bearer", "api", "webhook", "licen",
    ];
    let lower = name.to_ascii_lowercase();
    lower == "pw" || lower.ends_with("_pw") || lower.ends_with("-pw") || PARTS.iter().any(|part| lower.contains(part))
}

/// Whether a word in a sentence announces a secret.
pub(crate) fn announces(word: &str) -> bool {
    const WORDS: [&str; 14] = [
        "password",
        "passwd",
        "passphrase",
        "passcode",
        "pass",
        "pw",
        "secret",
        "token",
        "account",
        "key",
        "pin",
        "by",
        "apikey",
        "bearer",
    ];
    let lower = word.trim_matches(|c: char| !c.is_alphanumeric()).to_ascii_lowercase();
    WORDS.contains(&lower.as_str())
        || ["_password", "-password", "_token", "_key"].iter().any(|end| lower.ends_with(end))
}

/// Whether a word out of a text looks made up by a machine or a password manager.
pub(crate) fn looks_secret(word: &str) -> bool {
    let any = |test: fn(char) -> bool| word.chars().any(test);
    let digits = word.chars().filter(char::is_ascii_digit).count();
    let (lower, upper) = (any(|c| c.is_ascii_lowercase()), any(|c| c.is_ascii_uppercase()));
    let odd = any(|c| "!@#$%^&*+=~?|".contains(c));
    let plain = word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c));
    let path = word.starts_with(['/', '.', '~']) || word.contains("://");
    let long = word.len() >= 16 && (digits >= 3 || (upper && !lower)) && !word.contains(['.', '/']);
    let mixed = (lower && upper) || (odd && (lower || upper));
    word.len() >= 8 && !path && !is_date(word) && digits > 0 && ((mixed && !plain) || (long && (lower || upper)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_known_in_any_case() {
        assert!(is_vocabulary("Container") && is_vocabulary("IDEMPOTENT") && !is_vocabulary("hunter2-hunter2"));
    }

    #[test]
    fn dates_are_told_from_what_begins_like_one() {
        assert!(is_date("2026-01-01") && is_date("2026-01-01T10:00:00Z") && is_date("2026-01-01 10:00:00.5"));
        assert!(!is_date("2026-01-01-pw") && !is_date("2026/01/01") && !is_date("1234567890"));
    }

    #[test]
    fn short_words_are_bound_and_what_no_language_has_is_not() {
        assert!(is_bound(b"hunter") && is_bound(b"Hunter") && is_bound(b"123456"));
        assert!(!is_bound(b"k7Qp2z") && !is_bound(b"correcthorse") && !is_bound(b"12345678"));
    }

    #[test]
    fn what_looks_secret_is_no_name_of_a_host_a_path_or_a_version() {
        for word in
            ["mdPW-Kk20ss", "0123456789abcdef0", "hunter2!hunter", "AKIAIOSFODNN7EXAMPLE", "sk-proj4f9a8b7c6d5e"]
        {
            assert!(looks_secret(word), "{word}");
        }
        for word in
            ["web-1.example.org", "/srv/App-1", "debian-13", "2026-01-01", "1.2.3-rc1", "README", "https://A1.example"]
        {
            assert!(!looks_secret(word), "{word}");
        }
    }
}

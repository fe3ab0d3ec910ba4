//! The forms in which programs print a value.

use std::collections::BTreeSet;
use std::fmt::Write;

use base64::Engine;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_encode};

use crate::words::FLOOR;

/// Longer forms are looked for in pieces, so that of a text that was cut no more than a piece remains.
const LONGEST_FORM: usize = 48;
const PIECE: usize = 32;
/// A piece with fewer different bytes says nothing by itself: padding, rulers.
const LEAST_DIFFERENT: usize = 6;
/// Of a passphrase with more words, only all line ends at once are thought of.
const MOST_WORDS: usize = 16;

const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Python's `quote`, and paths.
const SEGMENTS: &AsciiSet = &UNRESERVED.remove(b'/');
/// JavaScript's `encodeURIComponent`.
const COMPONENT: &AsciiSet = &UNRESERVED.remove(b'!').remove(b'\'').remove(b'(').remove(b')').remove(b'*');
/// What browsers and curl do to a query.
const QUERY: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>').add(b'\'');
const PATH: &AsciiSet = &QUERY.add(b'?').add(b'`').add(b'{').add(b'}').add(b'^').add(b'|').add(b'\\');

/// A value in every form, cut into pieces where it is long.
pub(crate) fn forms(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    let mut add = |form: &[u8]| all.extend(pieces(form).into_iter().map(<[u8]>::to_vec));
    add(value);
    base64(value).iter().for_each(|form| add(form.as_bytes()));
    hex(value).iter().for_each(|form| add(form.as_bytes()));
    percent(value).iter().for_each(|form| add(form.as_bytes()));
    match std::str::from_utf8(value) {
        Ok(text) => escaped(text).iter().for_each(|form| add(form.as_bytes())),
        Err(_) => {
            add(python_bytes(value).as_bytes());
            let lossy = String::from_utf8_lossy(value);
            escaped(&lossy).iter().for_each(|form| add(form.as_bytes()));
            add(lossy.as_bytes());
        }
    }
    all
}

/// A value of several lines in the forms that hide where they end, and as it stands if no line of it is long.
pub(crate) fn packed(value: &[u8]) -> BTreeSet<Vec<u8>> {
    let forms = base64(value).into_iter().chain(hex(value));
    let mut all: BTreeSet<Vec<u8>> =
        forms.flat_map(|form| pieces(form.as_bytes()).into_iter().map(<[u8]>::to_vec).collect::<Vec<_>>()).collect();
    if value.split(|byte| *byte == b'\n').all(|line| line.trim_ascii().len() < FLOOR) {
        all.extend(plain(value));
    }
    all
}

/// A value as it stands, cut into pieces if it is long.
pub(crate) fn plain(value: &[u8]) -> BTreeSet<Vec<u8>> {
    pieces(value).into_iter().map(<[u8]>::to_vec).collect()
}

fn pieces(form: &[u8]) -> Vec<&[u8]> {
    if form.len() < FLOOR {
        return Vec::new();
    }
    if form.len() <= LONGEST_FORM {
        return vec![form];
    }
    let mut pieces = Vec::new();
    let mut rest = form;
    while rest.len() > LONGEST_FORM {
        pieces.push(&rest[..PIECE]);
        rest = &rest[PIECE..];
    }
    pieces.push(rest);
    pieces.retain(|piece| piece.iter().collect::<BTreeSet<_>>().len() >= LEAST_DIFFERENT);
    pieces
}

/// At each of the three places that it can have in what was encoded, without the letters that others share.
fn base64(value: &[u8]) -> Vec<String> {
    let engines: [&GeneralPurpose; 2] = [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD];
    let mut all = Vec::new();
    for (engine, skip) in engines.iter().flat_map(|engine| (0..3).map(move |skip| (engine, skip))) {
        let padded = [vec![0; skip], value.to_vec()].concat();
        let text = engine.encode(&padded);
        let (from, to) = ([0, 2, 3][skip], padded.len() * 8 / 6);
        let own = text[from..to].to_owned();
        if own.contains(['+', '/']) {
            all.push(own.replace('/', "\\/"));
            let upper = own.replace('+', "%2B").replace('/', "%2F");
            all.extend([upper.replace("%2B", "%2b").replace("%2F", "%2f"), upper]);
        }
        // At the end of what was encoded, the last letter and the padding are the secret's too.
        all.push(format!("{}{}", &text[from..], ["", "=", "=="][(3 - padded.len() % 3) % 3]));
        all.push(own);
    }
    all
}

fn hex(value: &[u8]) -> [String; 2] {
    let lower = value.iter().fold(String::with_capacity(value.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    [lower.to_ascii_uppercase(), lower]
}

fn percent(value: &[u8]) -> Vec<String> {
    let mut all = Vec::new();
    for set in [UNRESERVED, SEGMENTS, COMPONENT, QUERY, PATH] {
        let upper = percent_encode(value, set).to_string();
        if upper.contains("%20") {
            all.push(upper.replace("%20", "+"));
        }
        // A URL in a URL.
        if upper.contains('%') {
            all.push(upper.replace('%', "%25"));
        }
        all.extend([lower_hex(&upper), upper]);
    }
    all
}

fn lower_hex(text: &str) -> String {
    let mut lower = String::with_capacity(text.len());
    let mut digits = 0;
    for c in text.chars() {
        lower.push(if digits > 0 { c.to_ascii_lowercase() } else { c });
        digits = if c == '%' { 2 } else { usize::saturating_sub(digits, 1) };
    }
    lower
}

/// What strings of languages and of file formats make of a text.
fn escaped(text: &str) -> Vec<String> {
    let json = json(text);
    let mut all = vec![
        json.replace('/', "\\/"),
        json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e"),
        json.replace('&', "\\u0026").replace('<', "\\u003C").replace('>', "\\u003E"),
        ascii(&json, |unit| format!("\\u{unit:04x}")),
        ascii(&json, |unit| format!("\\u{unit:04X}")),
        self::json(&json),
        self::json(&self::json(&json)),
        text.replace('\\', "\\\\").replace('\'', "\\'"),
        text.replace('\\', "\\\\"),
        text.replace('\'', "'\\''"),
        text.replace('\'', "'\"'\"'"),
        text.replace('\'', "''"),
        text.replace('"', "\"\""),
        text.replace('"', "'\"'"),
        text.replace('%', "%%"),
        text.replace('$', "$$"),
        before(text, "\"$`\\", '\\'),
        before(text, "\"$`\\!", '\\'),
        shell(text),
        before(text, ":\\", '\\'),
        unit(text),
        mount(text),
        quoted_printable(text),
        python_bytes(text.as_bytes()),
    ];
    // As it stands in an `sh -c '..'` that is logged as a string of JSON or Python.
    all.push(self::json(&text.replace('\'', "'\"'\"'")));
    all.push(self::json(&shell(text)));
    all.extend(html(text));
    all.extend(wrapped(text));
    // Logs in JSON hold whole lines; other forms with blanks are not thought of as broken at one.
    all.extend(wrapped(&json));
    all.push(json);
    all.retain(|form| form != text);
    all
}

fn json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

fn ascii(text: &str, escape: impl Fn(u16) -> String) -> String {
    let mut units = [0; 2];
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c.is_ascii() {
            true => out.push(c),
            false => c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&escape(*unit))),
        }
        out
    })
}

fn before(text: &str, these: &str, mark: char) -> String {
    text.chars().flat_map(|c| these.contains(c).then_some(mark).into_iter().chain([c])).collect()
}

/// What `printf %q` writes.
fn shell(text: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c) || !c.is_ascii();
    text.chars().flat_map(|c| (!safe(c)).then_some('\\').into_iter().chain([c])).collect()
}

/// What a name of a systemd unit makes of it.
fn unit(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'/' => out.push('-'),
            b':' | b'_' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => out.push(char::from(byte)),
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
        out
    })
}

/// What `/etc/fstab` and the kernel's lists make of it.
fn mount(text: &str) -> String {
    text.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('#', "\\043")
}

fn quoted_printable(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b' '..=b'~' if byte != b'=' => out.push(char::from(byte)),
            _ => drop(write!(out, "={byte:02X}")),
        }
        out
    })
}

fn python_bytes(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut out, byte| {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            b' '..=b'~' => out.push(char::from(*byte)),
            _ => drop(write!(out, "\\x{byte:02x}")),
        }
        out
    })
}

fn html(text: &str) -> Vec<String> {
    let base = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let double = base.replace('"', "&quot;");
    vec![
        double.replace('\'', "&#39;"),
        double.replace('\'', "&#x27;"),
        double.replace('\'', "&apos;"),
        base.replace('"', "&#34;").replace('\'', "&#39;"),
        double,
        base,
    ]
}

/// A passphrase that a line end took a blank of, or all.
fn wrapped(text: &str) -> Vec<String> {
    let blanks: Vec<usize> = text.match_indices(' ').map(|(at, _)| at).collect();
    let without = |at: &usize| format!("{}{}", &text[..*at], &text[at + 1..]);
    let mut all: Vec<String> =
        if blanks.len() < MOST_WORDS { blanks.iter().map(without).collect() } else { Vec::new() };
    all.push(text.replace(' ', ""));
    all
}

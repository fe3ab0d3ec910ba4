//! Secrets are planted in every form that a program could print them in, pushed through every writer, and looked for in
//! what came out.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use redrill_redact::{Lines, MARK, Redactor, Stream, Style};
use serde_json::{Value, json};

/// With every letter that something escapes.
const SECRET: &str = "pl&nt<ed>PW\"a/b c%d'e$f+g\\h=77?;ü";
const PLAIN: &str = "plantedPW-Zq81mmT4x";

fn redactor() -> Redactor {
    Redactor::builder().value(SECRET).value(PLAIN).build().expect("no patterns")
}

fn percent(text: &str, keep: &str, lower: bool) -> String {
    let one = |byte: u8| match byte {
        byte if byte.is_ascii_alphanumeric() || keep.contains(char::from(byte)) && byte.is_ascii() => {
            char::from(byte).to_string()
        }
        byte if lower => format!("%{byte:02x}"),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(one).collect()
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// What was planted: a name, and the text that must not come out.
fn planted() -> Vec<(&'static str, String)> {
    let json_text = Value::from(SECRET).to_string();
    let json_text = json_text[1..json_text.len() - 1].to_owned();
    let in_base64 = |before: &str, text: &str| {
        let all = STANDARD.encode(format!("{before}{text}"));
        // The letters that hold nothing but the secret.
        all[[0, 2, 3][before.len()]..(before.len() + text.len()) * 8 / 6].to_owned()
    };
    let basic = vec![
        ("raw", SECRET.to_owned()),
        ("raw, simple", PLAIN.to_owned()),
        ("base64", STANDARD.encode(PLAIN).trim_end_matches('=').to_owned()[..PLAIN.len() * 8 / 6].to_owned()),
        ("base64, after one byte", in_base64("a", PLAIN)),
        ("base64, after two bytes", in_base64("ab", PLAIN)),
        ("base64 of odd letters", in_base64("", SECRET)),
        ("base64 of odd letters, after one byte", in_base64("a", SECRET)),
        ("base64 of odd letters, after two bytes", in_base64("ab", SECRET)),
        ("base64 for URLs", URL_SAFE_NO_PAD.encode(SECRET)[..SECRET.len() * 8 / 6].to_owned()),
        ("base64 in a URL", in_base64("", SECRET).replace('/', "%2F").replace('+', "%2B")),
        ("hex", hex(PLAIN)),
        ("hex, capitals", hex(PLAIN).to_ascii_uppercase()),
        ("hex of odd letters", hex(SECRET)),
    ];
    let urls = vec![
        ("quote", percent(SECRET, "-._~", false)),
        ("quote, small digits", percent(SECRET, "-._~", true)),
        ("quote, slashes kept", percent(SECRET, "-._~/", false)),
        ("encodeURIComponent", percent(SECRET, "-._~!'()*", false)),
        ("form", percent(SECRET, "-._~ ", false).replace(' ', "+")),
        ("quoted twice", percent(SECRET, "-._~", false).replace('%', "%25")),
    ];
    let texts = vec![
        ("JSON", json_text.clone()),
        ("JSON with slashes escaped", json_text.replace('/', "\\/")),
        ("JSON of Go", json_text.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003e")),
        ("JSON in ASCII", json_text.replace('ü', "\\u00fc")),
        ("JSON in JSON", json_text.replace('\\', "\\\\").replace('"', "\\\"")),
        ("shell, single quotes", SECRET.replace('\'', "'\\''")),
        ("shell, Python's quotes", SECRET.replace('\'', "'\"'\"'")),
        ("shell, double quotes", SECRET.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "\\$")),
        ("shell, backslashes", "pl\\&nt\\<ed\\>PW\\\"a/b\\ c%d\\'e\\$f+g\\\\h=77\\?\\;ü".to_owned()),
        ("Python", SECRET.replace('\\', "\\\\").replace('\'', "\\'")),
        ("Python, bytes", SECRET.replace('\\', "\\\\").replace('ü', "\\xc3\\xbc")),
        ("HTML", "pl&amp;nt&lt;ed&gt;PW&quot;a/b c%d&#39;e$f+g\\h=77?;ü".to_owned()),
        ("HTML of Python", "pl&amp;nt&lt;ed&gt;PW&quot;a/b c%d&#x27;e$f+g\\h=77?;ü".to_owned()),
        ("XML", "pl&amp;nt&lt;ed&gt;PW\"a/b c%d'e$f+g\\h=77?;ü".to_owned()),
        ("YAML, SQL", SECRET.replace('\'', "''")),
        ("CSV", SECRET.replace('"', "\"\"")),
        ("systemd, percent signs", SECRET.replace('%', "%%")),
        ("compose, dollar signs", SECRET.replace('$', "$$")),
        ("the name of a unit", PLAIN.replace('-', "\\x2d")),
        ("fstab", SECRET.replace('\\', "\\134").replace(' ', "\\040")),
        ("quoted-printable", SECRET.replace('=', "=3D").replace('ü', "=C3=BC")),
    ];
    basic.into_iter().chain(urls).chain(texts).collect()
}

/// How often a form, or the secrets themselves, stand in a text.
fn count(text: &str, form: &str) -> usize {
    let flat: String = text.split(['\n', '\r']).map(|line| line.trim_start_matches([' ', '\t'])).collect();
    [form, SECRET, PLAIN].iter().map(|wanted| text.matches(wanted).count() + flat.matches(wanted).count()).sum()
}

#[test]
fn no_writer_lets_a_form_through() {
    let (redactor, forms, key) = (redactor(), planted(), [3; 32]);
    assert!(forms.len() >= 30, "{}", forms.len());
    let mut left = Vec::new();
    let mut tried = 0;
    for (name, form) in &forms {
        let text = format!("before {form} after\n");
        let mut document = json!({"note": text, "list": ["x", form], form: {"deep": [[form]]}});
        let line = json!({"file": {"path": format!("/etc/{form}"), "target": form}}).to_string();
        redactor.clean_json(&mut document);
        let written = [
            ("text", redactor.clean(&text)),
            ("bytes", String::from_utf8_lossy(&redactor.clean_bytes(text.as_bytes())).into_owned()),
            ("mask", redactor.clean_with(&text, Style::Mask)),
            ("JSON", document["note"].to_string() + &document.to_string()),
            ("JSON as text", redactor.clean(&json!({ "a": form }).to_string())),
            ("capture", redactor.clean_json_line(&line, Style::Keyed(&key)).unwrap_or(line)),
            ("lines", lines(&redactor, &[text.trim_end(), "next"])),
            ("stream", stream(&redactor, text.as_bytes(), 7)),
            ("stream, byte by byte", stream(&redactor, text.as_bytes(), 1)),
        ];
        for (writer, out) in written {
            tried += 1;
            if count(&out, form) > 0 || redactor.finds(&out) {
                left.push(format!("{name} by {writer}: {out}"));
            }
        }
    }
    let told =
        format!("{} forms through every writer: {tried} texts, {} with a secret left\n", forms.len(), left.len());
    std::io::stderr().write_all(told.as_bytes()).expect("told");
    assert_eq!(left, Vec::<String>::new());
}

/// As the lines of a log, with the time before each.
fn lines(redactor: &Redactor, all: &[&str]) -> String {
    let mut lines = Lines::new(redactor);
    let mut out: Vec<String> = all.iter().flat_map(|line| lines.push(line)).collect();
    out.extend(lines.flush());
    out.iter().map(|line| format!("2026-01-02T03:04:05.678Z {line}\n")).collect()
}

fn stream(redactor: &Redactor, bytes: &[u8], piece: usize) -> String {
    let mut stream = Stream::new(redactor, Style::Mark);
    let mut out = Vec::new();
    for piece in bytes.chunks(piece) {
        stream.push(piece, &mut out);
        stream.advance(&mut out);
    }
    stream.flush(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn a_form_that_is_broken_over_lines_is_found_wherever_it_is_broken() {
    let redactor = redactor();
    let wrapped = |name: &str, form: &str| !form.contains(' ') || ["raw", "JSON"].contains(&name);
    for (name, form) in planted().iter().filter(|(name, form)| wrapped(name, form)) {
        for at in (1..form.len()).filter(|at| form.is_char_boundary(*at)) {
            let (head, tail) = form.split_at(at);
            for end in ["\n", "\r\n", "\n    ", "\n2026-01-02T03:04:05.678Z "] {
                let text = format!("x {head}{end}{tail} y\n");
                let clean = redactor.clean(&text);
                // A long form is looked for in pieces: where one ends a line may end too.
                let whole = ["x [redacted]\n y\n".to_owned(), format!("x [redacted]{end}[redacted] y\n")];
                assert!(whole.contains(&clean), "{name} at {at}: {clean}");
            }
            let logged = lines(&redactor, &[&format!("x {head}"), &format!("{tail} y")]);
            let expected = "2026-01-02T03:04:05.678Z x [redacted]\n2026-01-02T03:04:05.678Z  y\n";
            assert_eq!(logged.replace("Z [redacted] y", "Z  y"), expected, "{name} at {at}");
        }
    }
}

#[test]
fn a_passphrase_is_found_where_a_line_end_took_its_blank() {
    let redactor = Redactor::builder().value("correct horse battery staple").build().expect("no patterns");
    for text in ["correct\nhorse battery staple", "correct horse\n  battery staple", "correct\nhorse\nbattery\nstaple"]
    {
        assert!(redactor.clean(text).starts_with("[redacted]\n"), "{text}");
    }
}

#[test]
fn a_stream_says_what_a_text_says_wherever_it_is_cut() {
    let redactor = redactor();
    let text = format!("a {PLAIN}{PLAIN} b\n{SECRET}\nplantedPW-Zq81\nmmT4x plantedPW-Zq8 {PLAIN}");
    let whole = redactor.clean(&text);
    assert_eq!(whole, "a [redacted] b\n[redacted]\n[redacted]\n plantedPW-Zq8 [redacted]");
    for piece in 1..text.len() {
        assert_eq!(stream(&redactor, text.as_bytes(), piece), whole, "in pieces of {piece}");
    }
}

#[test]
fn a_long_stream_is_cleaned_across_the_borders_of_its_windows() {
    let redactor = Redactor::builder().value(PLAIN).patterns(&["card-[0-9]+".to_owned()]).build().expect("a pattern");
    let plain = Redactor::builder().value(PLAIN).build().expect("no pattern");
    let window = 256 * 1024;
    for shift in (window - 40)..(window + 10) {
        let text = format!("{}\n{PLAIN}\ncard-12345\n{}", "x".repeat(shift), "y".repeat(window));
        for redactor in [&redactor, &plain] {
            let mut stream = Stream::new(redactor, Style::Mark);
            let mut out = Vec::new();
            stream.push(text.as_bytes(), &mut out);
            stream.flush(&mut out);
            assert_eq!(out, redactor.clean_bytes(text.as_bytes()), "{shift}");
            assert!(!redactor.finds(&out));
        }
    }
}

#[test]
fn nothing_that_repeats_makes_a_stream_grow() {
    let redactor = redactor();
    for text in [PLAIN.repeat(10_000), "\n".repeat(1 << 20), "\r\n \t".repeat(1 << 18), "p".repeat(1 << 20)] {
        let (mut stream, mut out) = (Stream::new(&redactor, Style::Mark), Vec::new());
        stream.push(text.as_bytes(), &mut out);
        stream.push(text.as_bytes(), &mut out);
        stream.flush(&mut out);
        assert_eq!(out, redactor.clean_bytes(text.repeat(2).as_bytes()), "{}", &text[..20]);
    }
    assert_eq!(redactor.clean(&PLAIN.repeat(1000)), MARK);
}

#[test]
fn a_line_is_held_back_only_while_it_may_end_in_a_secret() {
    let redactor = redactor();
    let mut lines = Lines::new(&redactor);
    assert_eq!(lines.push("nothing to hide!"), ["nothing to hide!"]);
    assert_eq!(lines.push("a plantedPW"), Vec::<String>::new());
    assert!(lines.holds_back());
    assert_eq!(lines.push("-Zq81mmT4x!"), ["a [redacted]", "!"]);
    assert_eq!(lines.push("a plantedPW"), Vec::<String>::new());
    assert_eq!(lines.push("and more!"), ["a plantedPW", "and more!"]);
    assert_eq!(lines.push(""), [""]);
    assert_eq!(lines.push("the last p"), Vec::<String>::new());
    assert_eq!(lines.flush(), ["the last p"]);
    assert!(!lines.holds_back());
}

#[test]
fn different_secrets_stay_different_in_a_capture_and_the_same_one_stays_the_same() {
    let redactor = redactor();
    let line = |secret: &str| json!({"user": {"name": "leaky", "gecos": format!("g-{secret}")}}).to_string();
    let clean =
        |secret: &str, key: u8| redactor.clean_json_line(&line(secret), Style::Keyed(&[key; 32])).expect("a secret");
    assert_eq!(clean(PLAIN, 1), clean(PLAIN, 1));
    assert_ne!(clean(PLAIN, 1), clean(SECRET, 1));
    assert_ne!(clean(PLAIN, 1), clean(PLAIN, 2), "nothing is told to who has not the key");
    assert_eq!(redactor.clean_json_line(&line("public"), Style::Keyed(&[1; 32])), None);
    assert_eq!(
        redactor.clean_json_line("{\"a\": \"plantedPW\\n-Zq81mmT4x\"}", Style::Mark).as_deref(),
        Some("{\"a\":\"[redacted]\\n\"}")
    );
}

#[test]
fn a_mask_is_as_long_as_what_it_covers() {
    let text = format!("a {PLAIN} b plantedPW-Zq81\nmmT4x c");
    let masked = redactor().clean_with(&text, Style::Mask);
    assert_eq!(masked.len(), text.len());
    assert_eq!(masked, format!("a {} b {}\n***** c", "*".repeat(PLAIN.len()), "*".repeat(14)));
}

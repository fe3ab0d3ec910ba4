//! What is taken for a secret, by the kind of file that it lies in.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use redrill_redact::Redactor;

const SCENARIO: &str = "summary = 'for web.example.org-scenPW'\n[servers]\npath = 'servers'\n[[machine]]\n\
                        name = 'web.example.org'\nimage = 'debian-13'\n";

/// A directory of keys with these files.
fn keys(files: &[(&str, &[u8])]) -> (tempfile::TempDir, Redactor) {
    let directory = tempfile::tempdir().expect("made");
    for (name, content) in files {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
    }
    let redactor = Redactor::from_keys(directory.path(), SCENARIO);
    (directory, redactor)
}

/// One file: these are secrets, and those are none.
#[track_caller]
fn file(name: &str, content: impl AsRef<[u8]>, secrets: &[&str], others: &[&str]) {
    let (_directory, redactor) = keys(&[(name, content.as_ref())]);
    for secret in secrets {
        let clean = redactor.clean(&format!("<{secret}>"));
        assert_eq!(clean.replace('\n', ""), "<[redacted]>", "{secret} in {name}");
    }
    for other in others {
        assert_eq!(redactor.clean(&format!("<{other}>")), format!("<{other}>"), "{other} in {name}");
    }
}

#[test]
fn a_file_is_a_secret_as_a_whole_and_by_its_lines() {
    file("password", "plainPW-Zq81\n", &["plainPW-Zq81"], &["plainPW"]);
    file("passphrase", "correct horse battery staple\n", &["correct horse battery staple"], &["correct horse"]);
    file("list", "one-PW-1x\r\ntwo-PW-2x\r\n", &["one-PW-1x", "two-PW-2x"], &[]);
    file("sub/deeper/inner", "innerPW-Xx39vv", &["innerPW-Xx39vv"], &[]);
    file("codes", "a1b2\nc3d4\ne5f6\n", &["a1b2\nc3d4\ne5f6", &STANDARD.encode("a1b2\nc3d4\ne5f6")[..20]], &["a1b2"]);
    file("colon", "aB3:xyzzy12\n", &["aB3:xyzzy12"], &[]);
}

#[test]
fn secrets_of_six_characters_are_looked_for_and_shorter_ones_are_not() {
    file("short", "k7Qp2z\n", &["k7Qp2z"], &[]);
    file("shorter", "k7Qp2\n", &[], &["k7Qp2"]);
    file("letters", "ÄÖÜäöü\n", &["ÄÖÜäöü"], &[]);
}

#[test]
fn a_short_word_is_a_secret_where_it_is_a_word() {
    let (_directory, redactor) = keys(&[("vars.yml", b"user: deplo\ngroup: hunter\npin: 123456\n")]);
    assert_eq!(redactor.clean("hunter, hunters; a-hunter"), "[redacted], hunters; a-[redacted]");
    assert_eq!(redactor.clean("1234567 123456 0.123456"), "1234567 [redacted] 0.[redacted]");
}

#[test]
fn words_of_redrill_and_of_the_scenario_are_no_secrets() {
    let vars = "runtime: container\nstate: unchanged\nclaim: idempotent\nhost: web.example.org\nimage: debian-13\ndate: 2026-01-01\n";
    let words = ["container", "unchanged", "idempotent", "web.example.org", "debian-13", "2026-01-01"];
    file("vars.yml", vars, &[], &words);
    let (_directory, redactor) = keys(&[("password", b"container\n")]);
    assert_eq!(redactor.left_out().len(), 1, "{:?}", redactor.left_out());
    let (_directory, redactor) = keys(&[("vars.yml", b"db_password: container\n")]);
    assert_eq!(
        redactor.left_out(),
        ["`vars.yml` says `db_password` with a common word as its value: it is not looked for"]
    );
}

#[test]
fn a_value_that_holds_a_public_name_is_a_secret_even_if_the_summary_says_it() {
    file("scen", "web.example.org-scenPW\n", &["web.example.org-scenPW"], &["web.example.org"]);
}

#[test]
fn json_gives_its_values() {
    file("one.json", r#"{"db_password": "onelinePW-Yy71ab"}"#, &["onelinePW-Yy71ab"], &["db_password"]);
    let conf =
        "{\n \"a\": {\"token\": \"jsonTK-Bn45\"}, \"l\": [\"listTK-1x\", 12345678],\n \"e\": \"q\\\"uote-PW\\n1\"\n}";
    file("conf.json", conf, &["jsonTK-Bn45", "listTK-1x", "12345678", "q\"uote-PW"], &[]);
    file("account.json", r#"{"url": "postgres://u:inner-PW1@h/d"}"#, &["inner-PW1"], &[]);
    file("broken.json", "{\"db_password\": \"brokenPW-1\",", &["brokenPW-1"], &[]);
    file("lines.jsonl", "{\"a\": \"linesPW-1\"}\n{\"a\": \"linesPW-2\"}\n", &["linesPW-1", "linesPW-2"], &[]);
}

#[test]
fn yaml_gives_its_values_without_comments() {
    let text = "db:\n  pw: yamlPW-Mm12cc # rotate in may\n  dsn: postgres://app:dsnPW-Oo98ii@db/app\nlist:\n  - listPW-Gg55tt\n\
                multi: |\n  blockPW-Ww44ee line\n  blockPW-second\nq: 'it''s-PW'\nd: \"tab\\tPW-1\"\nf: {a: flowPW-1, b: [flowPW-2]}\n\
                folded: >-\n  folded PW one\n  and two\n---\nsecond: documentPW-2\n";
    let secrets =
        ["yamlPW-Mm12cc", "dsnPW-Oo98ii", "listPW-Gg55tt", "blockPW-Ww44ee line", "blockPW-second", "it's-PW"];
    file("secrets.yml", text, &secrets, &["rotate in may"]);
    let more = ["tab\tPW-1", "flowPW-1", "flowPW-2", "folded PW one and two", "documentPW-2"];
    file("more.yaml", text, &more, &["second", "folded"]);
    file("broken.yml", "a: [\nb: brokenPW-77 # x\n", &["brokenPW-77"], &[]);
    file("tagged.yml", "pw: !vault taggedPW-1\n", &["taggedPW-1"], &[]);
}

#[test]
fn toml_and_ini_give_their_values() {
    file(
        "a.toml",
        "[db]\npw = 'tomlPW-1' # old\nl = [\"tomlPW-2\"]\nm = '''\nmultiPW-3\n'''\n",
        &["tomlPW-1", "tomlPW-2", "multiPW-3"],
        &[],
    );
    file(
        "a.ini",
        "[db]\npw = iniPW-Aa11 ; old one\nother=iniPW-Bb22\nq=\"iniPW-Cc33\"\n",
        &["iniPW-Aa11", "iniPW-Bb22", "iniPW-Cc33"],
        &[],
    );
    file(".my.cnf", "[client]\npassword=cnfPW#1\n", &["cnfPW#1"], &[]);
}

#[test]
fn dotenv_gives_its_values() {
    let text = "export API_TOKEN=\"shPW-Tt66oo\"; export B=2\nPLAIN=envPW-1x # note\nQ='envPW 2x'\nE=\"a\\\"b-PW\"\nset X envPW\n";
    file("env.sh", text, &["shPW-Tt66oo", "envPW-1x", "envPW 2x", "a\"b-PW"], &["API_TOKEN", "export"]);
    let pem = "KEY=\"-----BEGIN PRIVATE KEY-----\\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49\\n-----END PRIVATE KEY-----\"\n";
    file(".env", pem, &["MIGHAgEAMBMGByqGSM49AgEGCCqGSM49"], &[]);
}

#[test]
fn files_of_clients_give_their_passwords() {
    file(
        "netrc",
        "machine vault.example.org login app password netrcPW-Ee71uu\n",
        &["netrcPW-Ee71uu"],
        &["vault.example.org"],
    );
    file(".netrc", "machine h.example\n  login app\n  password netrcPW\n", &["netrcPW"], &[]);
    file("pgpass", "db.example.org:5432:app:app:pgpassPW-Rr29pp\n", &["pgpassPW-Rr29pp"], &["db.example.org"]);
    file(".pgpass", "db:5432:*:app:pg\\:PW\\\\x\n", &["pg:PW\\x", "pg\\:PW\\\\x"], &[]);
    file("htpasswd", "ada:$apr1$Xy12$abcDEF123/\n", &["$apr1$Xy12$abcDEF123/"], &[]);
    file("dsn", "Server=db;User Id=sa;Password=adoPW-1x;\n", &["adoPW-1x"], &[]);
    file("libpq", "host=db user=app password=libpqPW-1\n", &["libpqPW-1"], &[]);
    file("auth.json", format!("{{\"auth\": \"{}\"}}", STANDARD.encode("ada:dockerPW")), &["dockerPW"], &[]);
    file("curlrc", "header = \"Authorization: Bearer bearerPW\"\n", &["bearerPW"], &[]);
    file("nginx", "proxy_set_header X-Auth \"nginxPW-one\";\n", &["nginxPW-one"], &[]);
    file("url", "https://u:p%40ss-PW@h/?access_token=queryTK\n", &["p@ss-PW", "p%40ss-PW", "queryTK"], &[]);
}

#[test]
fn private_keys_are_secret_line_by_line_and_in_what_their_base64_says() {
    let der: Vec<u8> = (0..90_u8).map(|n| n.wrapping_mul(37).wrapping_add(11)).collect();
    let text = STANDARD.encode(&der);
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n{}\n-----END PRIVATE KEY-----\n", &text[..64], &text[64..]);
    let hex: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
    file("tls.key", &pem, &[&text[..64], &text[64..], &text, &hex], &["-----BEGIN PRIVATE KEY-----"]);
    let age =
        "# created: 2026-01-01T00:00:00Z\n# public key: age1publicpublic\nAGE-SECRET-KEY-1QSECAGEKEY7777XYZPQRS\n";
    file("age.txt", age, &["AGE-SECRET-KEY-1QSECAGEKEY7777XYZPQRS"], &["age1publicpublic", "created"]);
}

#[test]
fn what_is_public_is_told_by_what_it_is_and_not_by_its_name() {
    let key = "AAAAC3NzaC1lZDI1NTE5AAAAIJ7xXxYQ6GQvzZ8m7Wm8m2rWm2vQvzZ8m7Wm8m2rWm2v";
    let certificate = STANDARD.encode([&[0x30, 70, 0x30, 68][..], &(0..68).collect::<Vec<u8>>()].concat());
    let block = format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----\n");
    file("id.pub", format!("ssh-ed25519 {key} ada@here\n"), &[], &[key, "ada@here"]);
    file("no-name", format!("ssh-ed25519 {key} ada@here\n"), &[], &[key]);
    file("id.pub", "pubPW-Ll31dd\n", &["pubPW-Ll31dd"], &[]);
    file("cert.pem", &block, &[], &[&certificate]);
    file(
        "cert.pem",
        "-----BEGIN CERTIFICATE-----\nhunter2hunter2\n-----END CERTIFICATE-----\n",
        &["hunter2hunter2"],
        &[],
    );
    file("both.pem", format!("{block}combinedPW-Dd47ff\n"), &["combinedPW-Dd47ff"], &[&certificate]);
    file("README.md", "the admin password is mdPW-Kk20ss\n", &["mdPW-Kk20ss"], &[]);
    file(
        "README.md",
        "# Keys\n\nUse `Mark-Down77` for the *vault*.\n\n- itemPW-1\n",
        &["Mark-Down77", "itemPW-1"],
        &["vault"],
    );
    file("keys.md", "hunterhunter\n", &["hunterhunter"], &[]);
}

#[test]
fn a_line_that_begins_like_a_comment_may_be_a_secret() {
    file("hashline", "#hashPW-Ff64jj\n", &["#hashPW-Ff64jj", "hashPW-Ff64jj"], &[]);
    file(
        "old.env",
        "# password: oldPW-one\n#TOKEN=oldTK-two\n# only a remark\n",
        &["oldPW-one", "oldTK-two"],
        &["only a remark"],
    );
}

#[test]
fn what_a_value_says_in_base64_is_a_secret() {
    file("b64key", "cmF3LWJpbmFyeS1zZWNyZXQtYnl0ZXMtMDAwMQ==\n", &["raw-binary-secret-bytes-0001"], &[]);
    file("k8s.yml", "data:\n  pw: azhzLXNlY3JldA==\n", &["azhzLXNlY3JldA==", "k8s-secret"], &[]);
}

#[test]
fn files_that_are_no_utf_8_give_their_lines_as_programs_show_them() {
    let (_directory, redactor) = keys(&[("latin1", b"latin1PW-\xe9\xff-Nn15gg\n")]);
    assert_eq!(redactor.clean_bytes(b"<latin1PW-\xe9\xff-Nn15gg>"), b"<[redacted]>");
    for shown in [
        "latin1PW-\u{fffd}\u{fffd}-Nn15gg",
        "latin1PW-éÿ-Nn15gg",
        "latin1PW-\\xe9\\xff-Nn15gg",
        "latin1PW-\\u00e9\\u00ff-Nn15gg",
    ] {
        assert_eq!(redactor.clean(shown), "[redacted]", "{shown}");
    }
    let wide: Vec<u8> = "\u{feff}pw = widePW-1x\r\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    file("windows.ini", &wide, &["widePW-1x"], &[]);
    let (_directory, redactor) = keys(&[("random", &[0, 1, 2, 200, 201, 202, 203, 0xff, 7, 9])]);
    assert!(redactor.finds(STANDARD.encode([0, 1, 2, 200, 201, 202, 203, 0xff, 7, 9])));
}

#[test]
fn large_files_are_read_too() {
    let big = format!("{}\nbigPW-Cc83hh\n", "x".repeat(2 << 20));
    file("big", &big, &["bigPW-Cc83hh"], &[]);
    let lines: String = (0..20_000).map(|n| format!("row {n} with a text that nobody looks for\n")).collect();
    let (_directory, redactor) = keys(&[("dump.sql", format!("{lines}password = dumpPW\n{lines}").as_bytes())]);
    assert_eq!(redactor.clean("dumpPW row 77"), "[redacted] row 77");
    assert_eq!(redactor.left_out().len(), 1, "{:?}", redactor.left_out());
    assert!(redactor.left_out()[0].contains("`dump.sql` has more than 4096 lines"), "{:?}", redactor.left_out());
}

#[test]
fn values_of_the_user_are_public_and_patterns_of_the_user_are_secret() {
    let (directory, _) = keys(&[("vars.yml", b"region: eu-central-9x\nother: eu-central-9xx\nzone: region-eu-7b\n")]);
    let public = ["eu-central-9x".to_owned(), "region-eu-7b".to_owned()];
    let patterns = ["sk_live_[0-9a-z]{8,}".to_owned(), "^card \\d+$".to_owned()];
    let builder = || Redactor::builder().keys(directory.path()).public(&public);
    let redactor = builder().patterns(&patterns).build().expect("patterns");
    assert_eq!(redactor.clean("eu-central-9x eu-central-9xx region-eu-7b"), "eu-central-9x [redacted] region-eu-7b");
    assert_eq!(redactor.clean("a sk_live_12345678 b\ncard 77\nno card 7"), "a [redacted] b\n[redacted]\nno card 7");
    for (pattern, why) in
        [("(", "unclosed group"), ("a*", "the empty text"), ("\\b", "the empty text"), ("$", "the empty text")]
    {
        let error = builder().patterns(&[pattern.to_owned()]).build().expect_err(pattern);
        assert!(error.to_string().contains(why), "{error}");
    }
}

#[test]
fn links_are_followed_once_and_what_is_no_file_is_let_alone() {
    let (directory, _) = keys(&[
        ("a/pw", b"linkedPW-1"),
        ("repo/.git/config", b"url = https://gitTK-12345@h/x\n"),
        ("repo/.git/packed", b"packedPW-1"),
    ]);
    std::os::unix::fs::symlink(directory.path(), directory.path().join("a/loop")).expect("linked");
    std::os::unix::fs::symlink("/dev/zero", directory.path().join("zero")).expect("linked");
    let redactor = Redactor::from_keys(directory.path(), "");
    assert_eq!(redactor.clean("linkedPW-1 gitTK-12345 packedPW-1"), "[redacted] [redacted] packedPW-1");
}

#[test]
fn without_keys_nothing_is_changed() {
    assert_eq!(Redactor::default().clean("plain\ntext"), "plain\ntext");
    assert!(Redactor::from_keys(Path::new("/nonexistent"), "").left_out()[0].contains("cannot be read"));
}

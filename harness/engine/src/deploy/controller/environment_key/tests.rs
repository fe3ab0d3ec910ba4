use std::collections::BTreeSet;

use super::*;

/// A checkout with these files.
fn checkout(files: &[(&str, &str)]) -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let file = place.path().join("servers").join(name);
        fs::create_dir_all(file.parent().expect("inside")).expect("made");
        fs::write(file, text).expect("written");
    }
    place
}

fn read_in(place: &tempfile::TempDir, variables: &[(&str, &str)]) -> Result<Sources, ControllerError> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    read(&place.path().join("servers"), Path::new("requirements.txt"), &variables)
}

fn sources(files: &[(&str, &str)]) -> Sources {
    read_in(&checkout(files), &[]).expect("read")
}

/// File, line, column and what is wrong there.
fn refused(files: &[(&str, &str)]) -> String {
    match read_in(&checkout(files), &[]).expect_err("refused") {
        ControllerError::Scenario(ScenarioError::Invalid { path, text, error }) => {
            let position = error.position(&text);
            format!("{}:{}:{}: {}", path.display(), position.line, position.column, error.message)
        }
        other => panic!("no place: {other:?}"),
    }
}

const PROJECT: (&str, &str) = ("lib/setup.py", "from setuptools import setup");

/// The kind of `stalelib`: the requirements stay the same, the library in the repo does not.
#[test]
fn a_local_project_is_part_of_the_key_however_it_is_named() {
    for line in [
        "./lib",
        "lib/",
        "./lib[extra] ; python_version > '3'",
        "file:./lib",
        "mylib @ file:lib",
        "mylib[x]@ file:lib ; os_name == 'posix'",
        "-e ./lib",
        "--editable=lib",
        "-elib",
        "--edit lib",
        "--pre --constr=nested/more.txt",
        "./lib --config-settings=a=b",
        "  ./lib # ours",
        "./\\\nlib",
        "-r nested/more.txt",
    ] {
        let with = |value: &str| {
            sources(&[
                ("requirements.txt", line),
                PROJECT,
                ("lib/mylib/__init__.py", value),
                ("nested/more.txt", "./lib"),
            ])
        };
        assert_ne!(with("VALUE = 'one'").digest, with("VALUE = 'two'").digest, "{line}");
        assert_eq!(with("VALUE = 'one'"), with("VALUE = 'one'"), "{line}");
        assert!(with("").builds, "{line}");
    }
}

#[test]
fn names_modes_links_and_every_lock_file_of_a_project_count() {
    let digest = |change: &dyn Fn(&Path)| {
        let place = checkout(&[("requirements.txt", "./lib"), PROJECT, ("lib/data/x", "1"), ("shared/y", "1")]);
        change(&place.path().join("servers"));
        read_in(&place, &[]).expect("read").digest
    };
    let write = |name: &'static str, text: &'static str| {
        digest(&move |root| fs::write(root.join("lib").join(name), text).expect("written"))
    };
    let link = |to: &'static str, text: &'static str| {
        digest(&move |root| {
            std::os::unix::fs::symlink(to, root.join("lib/z")).expect("linked");
            fs::write(root.join("shared/y"), text).expect("written");
        })
    };
    let digests = [
        digest(&|_| ()),
        digest(&|root| fs::rename(root.join("lib/data/x"), root.join("lib/data/w")).expect("moved")),
        digest(&|root| fs::set_permissions(root.join("lib/data/x"), fs::Permissions::from_mode(0o755)).expect("set")),
        link("../shared/y", "1"),
        link("../shared/y", "2"),
        link("../shared", "2"),
        link("data", "1"),
        link(".", "1"),
        link("nowhere", "1"),
        write("uv.lock", ""),
        write("poetry.lock", ""),
        write("pdm.lock", ""),
        write("pyproject.toml", ""),
        write("setup.cfg", ""),
        write("uv.lock", "version = 1"),
        write(".gitignore", "x"),
    ];
    assert_eq!(digests.iter().map(blake3::Hash::as_bytes).collect::<BTreeSet<_>>().len(), digests.len());
    assert_eq!(digest(&|root| fs::create_dir(root.join("lib/.git")).expect("made")), digests[0]);
}

#[test]
fn includes_constraints_indexes_and_wheels_count() {
    let with = |requirements: &str, name: &str, text: &str| {
        sources(&[("requirements.txt", requirements), (name, text)]).digest
    };
    for (line, file) in [
        ("-r base.txt", "base.txt"),
        ("-cbase.txt", "base.txt"),
        ("--requirement base.txt", "base.txt"),
        ("--constraint='base.txt'", "base.txt"),
        ("--no-index --find-links=wheels", "wheels/a-1.whl"),
        ("-f ./wheels/", "wheels/a-1.whl"),
        ("./wheels/a-1.whl", "wheels/a-1.whl"),
        ("a-1.tar.gz", "a-1.tar.gz"),
        ("a @ file:wheels/a%2D1.whl#sha256=00", "wheels/a-1.whl"),
    ] {
        assert_ne!(with(line, file, "click==8"), with(line, file, "click==9"), "{line}");
    }
    let index = |url: &str| with(&format!("--index-url {url}\nclick==8"), "x", "");
    assert_ne!(index("https://one.test/simple"), index("https://two.test/simple"));
    assert_ne!(with("a==1\n", "x", ""), with("a==1\n\n", "x", ""), "bytes, not meaning: never too few environments");
}

#[test]
fn pips_own_settings_count_with_the_files_that_they_name() {
    let place = checkout(&[("requirements.txt", "click==${CLICK}")]);
    let digest = |variables: &[(&str, &str)]| read_in(&place, variables).expect("read").digest;
    let plain = digest(&[]);
    assert_eq!(digest(&[("PIP_CACHE_DIR", "/x"), ("PATH", "/x"), ("PIP_QUIET", "1")]), plain, "these change nothing");
    for name in ["PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_NO_BINARY", "PIP_ONLY_BINARY", "PIP_PRE", "CLICK"] {
        assert_ne!(digest(&[(name, "1")]), plain, "{name}");
    }
    let (limits, wheels) = (place.path().join("limits.txt"), place.path().join("wheels"));
    fs::create_dir(&wheels).expect("made");
    let home = place.path().join(".config/pip");
    fs::create_dir_all(&home).expect("made");
    let seen = || {
        digest(&[
            ("PIP_CONSTRAINT", &limits.display().to_string()),
            ("PIP_FIND_LINKS", &wheels.display().to_string()),
            ("HOME", &place.path().display().to_string()),
        ])
    };
    let mut digests = vec![seen()];
    for (file, text) in
        [(limits.clone(), "a"), (limits.clone(), "b"), (wheels.join("a.whl"), "a"), (home.join("pip.conf"), "a")]
    {
        fs::write(file, text).expect("written");
        digests.push(seen());
    }
    assert_eq!(digests.iter().map(blake3::Hash::as_bytes).collect::<BTreeSet<_>>().len(), digests.len());
}

#[test]
fn what_may_be_another_tomorrow_is_nobody_elses() {
    let own = |line: &str| sources(&[("requirements.txt", line), PROJECT]).own;
    for line in [
        "-e ./lib",
        "git+https://u:secret@example.org/lib@main",
        "-e git+ssh://git@example.org/lib#egg=lib",
        "lib @ https://example.org/lib-1.0.zip",
        "-r https://example.org/r.txt",
    ] {
        let why = own(line).unwrap_or_else(|| panic!("{line}"));
        assert!(!why.contains("secret"), "{why}");
    }
    let commit = "0123456789012345678901234567890123456789";
    for line in [
        &format!("git+https://example.org/lib@{commit}#egg=lib"),
        "lib @ https://example.org/lib-1.0.zip#sha256=00",
        "https://example.org/lib-1.0.zip --hash=sha256:00",
        "./lib",
        "click>=8",
    ] {
        assert_eq!(own(line), None, "{line}");
    }
}

#[test]
fn a_bad_requirements_file_is_an_error_with_its_place() {
    let one = |text: &str| refused(&[("requirements.txt", text), ("lib/readme", "")]);
    assert_eq!(
        one("click==8\n\n  -r more.txt\n"),
        "requirements.txt:3:3: `more.txt` cannot be found: No such file or directory (os error 2)"
    );
    assert_eq!(one("\u{feff}click\n-r lib"), "requirements.txt:2:1: `lib` is no file");
    assert_eq!(one("click\n./lib"), "requirements.txt:2:1: `./lib` is no Python project");
    assert_eq!(one("click\n-r"), "requirements.txt:2:1: `-r` has no value");
    assert_eq!(one("a\0b"), "requirements.txt:1:2: a control character stands here");
    for odd in ["pyinfra 3.10", "==3", "a==", "a=1 2", "lib @ nothing", "*", "[x]", "<<<<<<< HEAD"] {
        let said = one(odd);
        assert!(said.ends_with(&format!("`{odd}` is no requirement")), "{odd}: {said}");
    }
    let nested = [
        ("requirements.txt", "-r a/b.txt"),
        ("a/b.txt", "# first\n-c c.txt"),
        ("a/c.txt", "x\n\n-r ../requirements.txt"),
    ];
    assert_eq!(refused(&nested), "a/c.txt:3:1: `../requirements.txt` includes itself");
    let twice =
        [("requirements.txt", "-r a.txt\n-r b.txt"), ("a.txt", "-c c.txt"), ("b.txt", "-c c.txt"), ("c.txt", "x<2")];
    assert!(read_in(&checkout(&twice), &[]).is_ok(), "twice is no loop");
    let place = checkout(&[]);
    fs::create_dir_all(place.path().join("servers")).expect("made");
    fs::write(place.path().join("servers/requirements.txt"), b"click\nna\xefve==1\n").expect("written");
    let error = read_in(&place, &[]).expect_err("refused");
    let ControllerError::Scenario(ScenarioError::Invalid { text, error, .. }) = error else { panic!("{error}") };
    assert_eq!((error.position(&text).line, error.position(&text).column), (2, 3));
}

#[test]
fn what_leads_out_of_the_checkout_is_an_error_with_its_place() {
    for line in [
        "../lib",
        "/etc/passwd",
        "file:///etc/passwd",
        "-r /etc/passwd",
        "-e ../lib",
        "-f /etc",
        "-r ./out.txt",
        "./out",
    ] {
        let place = checkout(&[("requirements.txt", line), ("../lib/setup.py", "")]);
        let servers = place.path().join("servers");
        std::os::unix::fs::symlink("/etc/passwd", servers.join("out.txt")).expect("linked");
        std::os::unix::fs::symlink("../lib", servers.join("out")).expect("linked");
        let error = read_in(&place, &[]).expect_err("refused").to_string();
        assert!(error.contains("leads out of the servers repo"), "{line}: {error}");
    }
    let place = checkout(&[("requirements.txt", "./lib"), PROJECT]);
    std::os::unix::fs::symlink("/etc", place.path().join("servers/lib/etc")).expect("linked");
    assert!(read_in(&place, &[]).expect_err("refused").to_string().contains("`lib/etc` leads out"));
    let place = checkout(&[("real.txt", "")]);
    std::os::unix::fs::symlink("requirements.txt", place.path().join("servers/requirements.txt")).expect("linked");
    assert!(
        read_in(&place, &[]).expect_err("refused").to_string().contains("is no file of the servers repo"),
        "a loop"
    );
}

#[test]
fn a_copy_has_links_as_links() {
    let place = checkout(&[("a/b", "x")]);
    let servers = place.path().join("servers");
    std::os::unix::fs::symlink(".", servers.join("a/loop")).expect("linked");
    copy(&servers, &place.path().join("copy")).expect("copied");
    assert_eq!(fs::read_to_string(place.path().join("copy/a/b")).expect("there"), "x");
    assert_eq!(fs::read_link(place.path().join("copy/a/loop")).expect("there"), Path::new("."));
}

#[test]
fn usual_requirements_are_taken() {
    let usual = "# comment\npyinfra==3.10.0\nansible-core ~= 2.19 ; python_version >= '3.11'\npyinfra[x,y]>=3,<4\nclick\n\
                 Jinja2 (>=3)\npip-tools!=1.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nzope.event===6.2 # x\n\
                 --pre\n--trusted-host example.org\n--no-binary :all:\n-i https://example.org/simple\nurllib3==2.*\n";
    assert_eq!(sources(&[("requirements.txt", usual)]).own, None);
}

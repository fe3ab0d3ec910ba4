//! Projects and locks as texts; what pip is given.

use super::poetry::bounds;
use super::*;

fn of(files: &[(&str, &str)]) -> Result<Requirements, ScenarioError> {
    let directory = tempfile::tempdir().expect("a directory");
    files.iter().for_each(|(name, text)| std::fs::write(directory.path().join(name), text).expect("written"));
    read(directory.path(), Path::new(FILE))
}

fn lines(project: &str) -> Vec<String> {
    of(&[(FILE, project)]).expect("read").lines
}

#[track_caller]
fn refused(files: &[(&str, &str)], because: &str) {
    let error = of(files).expect_err("refused");
    let ScenarioError::Mismatch { message, .. } = error else { panic!("{error:?}") };
    assert!(message.contains(because), "{message}");
}

const PEP_621: &str = "[project]\nname = 'servers'\nversion = '0'\ndependencies = ['pyinfra>=3', 'Py_YAML']\n";

#[test]
fn dependencies_are_read_from_each_kind_of_table() {
    let found = of(&[(FILE, PEP_621)]).expect("read");
    assert_eq!((found.lines, found.from.as_str()), (vec!["pyinfra>=3".into(), "Py_YAML".into()], FILE));
    let poetry = "[tool.poetry.dependencies]\npython = '^3.11'\nansible-core = '^2.19'\nrich = {version = '~13.7', extras = ['jupyter']}\n";
    assert_eq!(of(&[(FILE, poetry)]).expect("read").lines, ["ansible-core>=2.19,<3", "rich[jupyter]>=13.7,<13.8"]);
    let group =
        "[project]\nname = 'a'\n[dependency-groups]\ndeploy = ['pyinfra', {include-group = 'x'}]\ndocs = ['mkdocs']\n";
    assert_eq!(lines(group), ["pyinfra"], "the group that brings a tool");
}

#[test]
fn a_lock_pins_what_it_has_in_one_version() {
    let lock = "version = 1\n[[package]]\nname = 'servers'\nsource = { virtual = '.' }\n\
        [[package]]\nname = 'pyinfra'\nversion = '3.2'\nsource = { registry = 'https://pypi.org/simple' }\n\
        [[package]]\nname = 'py-yaml'\nversion = '6'\nsource = { git = 'https://host/y?rev=main#abc1' }\n\
        [[package]]\nname = 'gevent'\nversion = '1'\n[[package]]\nname = 'gevent'\nversion = '2'\n";
    let found = of(&[(FILE, PEP_621), ("uv.lock", lock)]).expect("read");
    assert_eq!(found.from, "pyproject.toml, pinned by uv.lock");
    assert_eq!(found.lines, ["pyinfra>=3", "py-yaml @ git+https://host/y@abc1"]);
    assert_eq!(found.constraints, ["pyinfra==3.2"]);
    assert_eq!(found.remarks, ["`uv.lock` has 2 versions of `gevent`: pip chose one"]);
    let poetry = "[[package]]\nname = 'pyinfra'\nversion = '3.1'\n[[package]]\nname = 'py-yaml'\nversion = '6'\n\
        [package.source]\ntype = 'git'\nurl = 'https://host/y'\nreference = 'main'\nresolved_reference = 'abc2'\n";
    let found = of(&[(FILE, PEP_621), ("poetry.lock", poetry)]).expect("read");
    assert_eq!(
        (found.lines[1].as_str(), found.constraints[0].as_str()),
        ("py-yaml @ git+https://host/y@abc2", "pyinfra==3.1")
    );
}

#[test]
fn a_lock_that_is_behind_and_a_mistake_are_errors_with_their_place() {
    let behind = of(&[(FILE, PEP_621), ("uv.lock", "[[package]]\nname = 'pyinfra'\nversion = '3.2'\n")]);
    let ScenarioError::Mismatch { message, expected } = behind.expect_err("behind") else { panic!("no mismatch") };
    assert!(message.contains("does not have `py-yaml`") && expected.contains("`uv lock`"), "{message}: {expected}");
    let wrong = of(&[(FILE, "[project]\ndependencies = 'pyinfra'\n")]).expect_err("no list");
    assert!(matches!(wrong, ScenarioError::Invalid { ref error, .. } if error.span.start > 9), "{wrong:?}");
}

#[test]
fn poetrys_bounds_are_those_that_pip_has() {
    for (poetry, pip) in [("^0.3.1", ">=0.3.1,<0.4"), ("^1", ">=1,<2"), ("~2", ">=2,<3"), ("~=2.1", "~=2.1")] {
        assert_eq!(bounds(poetry), pip);
    }
    assert_eq!((bounds("*"), bounds("1.2"), bounds(">=1")), (String::new(), "==1.2".into(), ">=1".into()));
}

#[test]
fn groups_bring_what_they_include_and_a_project_never_brings_itself() {
    let included = "[dependency-groups]\ndeploy = ['pyinfra', {include-group = 'Keys_x'}]\n\
        keys-x = ['pynacl', {include-group = 'deploy'}]\ndocs = ['mkdocs']\n";
    assert_eq!(lines(included), ["pyinfra", "pynacl"]);
    let extras = "[project]\nname = 'My_Servers'\ndependencies = ['click']\n[project.optional-dependencies]\n\
        all = ['my-servers[run,docs]']\nrun = ['ansible-core>=2']\ndocs = ['mkdocs', 'my.servers[all]']\n";
    assert_eq!(lines(extras), ["click", "ansible-core>=2", "mkdocs"]);
    let poetry = "[tool.poetry.dependencies]\nclick = '8'\nother = {version = '*', optional = true}\n\
        [tool.poetry.group.ops.dependencies]\npyinfra = '^3.1'\n[tool.poetry.group.docs.dependencies]\nmkdocs = '*'\n";
    assert_eq!(lines(poetry), ["click==8", "pyinfra>=3.1,<4"]);
}

#[test]
fn poetrys_tables_keep_places_systems_and_pythons() {
    let poetry = "[tool.poetry.dependencies]\na = {git = 'git@host:x/a.git', tag = 'v1', subdirectory = 'lib'}\n\
        b = [{version = '1', python = '<3.9'}, {version = '^2', python = '^3.9'}]\n\
        c = {version = '>= 1.2, <2 !=1.5', platform = 'win32'}\nd = {url = 'https://host/d.whl', markers = \"x == 'y'\"}\n\
        e = '^1 || ^2'\n";
    let expected = [
        "a @ git+ssh://git@host/x/a.git@v1#subdirectory=lib",
        "b==1 ; python_version < '3.9'",
        "b>=2,<3 ; python_version >= '3.9' and python_version < '4'",
        "c>=1.2,<2,!=1.5 ; sys_platform == 'win32'",
        "d @ https://host/d.whl ; (x == 'y')",
        "e",
    ];
    assert_eq!(lines(poetry), expected);
}

#[test]
fn what_lies_on_a_path_is_never_looked_for_in_the_index() {
    const BECAUSE: &str = "depends on `lib`, which is no package of an index";
    refused(&[(FILE, "[tool.poetry.dependencies]\nlib = {path = '../lib', develop = true}\n")], BECAUSE);
    for source in ["{workspace = true}", "{path = 'lib'}", "[{path = 'lib'}, {index = 'own'}]"] {
        refused(&[(FILE, &format!("[project]\ndependencies = ['Lib']\n[tool.uv.sources]\nlib = {source}\n"))], BECAUSE);
    }
    refused(&[(FILE, "[project]\ndependencies = ['lib @ file:///srv/lib']\n")], BECAUSE);
    let project = "[project]\ndependencies = ['lib']\n";
    for lock in ["source = {type = 'directory', url = 'lib'}", "path = './lib'", "source = {editable = 'lib'}"] {
        let lock = format!("[[package]]\nname = 'lib'\nversion = '1'\n{lock}\n");
        refused(&[(FILE, project), ("pdm.lock", &lock)], BECAUSE);
    }
}

#[test]
fn places_of_a_lock_keep_extras_and_markers_and_install_nothing_that_nobody_asks_for() {
    let project = "[project]\ndependencies = [\"a[x] >= 1 ; os_name == 'posix'\", 'b @ git+https://host/b@main']\n\
        [tool.uv.sources]\na = {git = 'https://host/a'}\n";
    assert_eq!(lines(project)[0], "a[x] @ git+https://host/a ; os_name == 'posix'", "uv's source, without a lock");
    let lock = "[[package]]\nname = 'a'\nversion = '1'\nsource = {git = 'https://host/a?subdirectory=s&rev=main#c1'}\n\
        [[package]]\nname = 'b'\nversion = '1'\nsource = {git = 'https://host/b#c2'}\n\
        [[package]]\nname = 'docs'\nversion = '1'\nsource = {git = 'https://host/docs#c3'}\n\
        [[package]]\nname = 'w'\nversion = '1'\nsource = {url = 'https://host/w.whl'}\nwheels = [{hash = 'sha256:ab'}]\n";
    let found = of(&[(FILE, project), ("uv.lock", lock)]).expect("read");
    let a = "a[x] @ git+https://host/a@c1#subdirectory=s ; os_name == 'posix'";
    assert_eq!(found.lines, [a, "b @ git+https://host/b@c2"]);
    assert_eq!(found.constraints, ["docs @ git+https://host/docs@c3", "w @ https://host/w.whl#sha256=ab"]);
}

#[test]
fn a_package_that_pdm_lists_for_each_extra_is_one_version() {
    let lock = "[[package]]\nname = 'pyinfra'\nversion = '3.2'\n[[package]]\nname = 'py-yaml'\nversion = '6'\n\
        [[package]]\nname = 'py-yaml'\nversion = '6'\nextras = ['c']\n\
        [[package]]\nname = 'g'\nversion = '1'\ngit = 'https://host/g'\nrevision = 'c1'\n";
    let found = of(&[(FILE, PEP_621), ("pdm.lock", lock)]).expect("read");
    assert_eq!(found.constraints, ["g @ git+https://host/g@c1", "py-yaml==6", "pyinfra==3.2"]);
    assert!(found.remarks.is_empty(), "{:?}", found.remarks);
}

#[test]
fn mistakes_are_told_with_the_name_that_the_repo_has_for_the_file() {
    for (name, files) in [
        (FILE, &[(FILE, "[project]\nname = \n")][..]),
        ("uv.lock", &[(FILE, PEP_621), ("uv.lock", "version = 1\n[[package]\n")][..]),
    ] {
        let error = of(files).expect_err("no TOML");
        let ScenarioError::Invalid { path, text, error } = error else { panic!("{error:?}") };
        assert_eq!((path.as_path(), text[..error.span.start].lines().count()), (Path::new(name), 2), "{error:?}");
    }
}

#[test]
fn a_lock_that_leads_out_of_the_repo_or_never_ends_is_not_read() {
    let place = tempfile::tempdir().expect("a directory");
    let repo = place.path().join("repo");
    std::fs::create_dir(&repo).expect("made");
    std::fs::write(repo.join(FILE), PEP_621).expect("written");
    std::fs::write(place.path().join("uv.lock"), "").expect("written");
    std::os::unix::fs::symlink("../uv.lock", repo.join("uv.lock")).expect("linked");
    let error = read(&repo, Path::new(FILE)).expect_err("refused");
    assert!(error.to_string().contains("`uv.lock` is a link that leads out of the servers repo"), "{error}");
    std::os::unix::fs::symlink("/dev/zero", repo.join("endless")).expect("linked");
    assert_eq!(names(&repo.join("endless")), None);
}

#[test]
fn versions_for_several_systems_are_pinned_by_what_each_lock_says_of_these() {
    let project = "[project]\ndependencies = ['a']\n";
    let of = |file: &str, [one, two]: [&str; 2]| {
        let of_one = |version, about| format!("[[package]]\nname = 'a'\nversion = '{version}'\n{about}\n");
        let found = of(&[(FILE, project), (file, &[of_one(1, one), of_one(2, two)].concat())]).expect("read");
        (found.constraints, found.remarks.len())
    };
    let pinned = |one: &str, two: &str| (vec![format!("a==1 ; {one}"), format!("a==2 ; {two}")], 0);
    let (old, new) = ("python_version < '3.10'", "python_version >= '3.10'");
    let uv = ["resolution-markers = [\"x < '1'\", \"x > '2'\"]", "resolution-markers = [\"x == '1'\"]"];
    assert_eq!(of("uv.lock", uv), pinned("(x < '1') or (x > '2')", "(x == '1')"));
    for (file, key) in [("poetry.lock", "markers"), ("pdm.lock", "marker")] {
        let about = [old, new].map(|marker| format!("{key} = \"{marker}\""));
        assert_eq!(of(file, [&about[0], &about[1]]), pinned(old, new));
    }
    let unknown = (Vec::new(), 1);
    assert_eq!(of("uv.lock", ["resolution-markers = [\"extra == 'extra-1-a-b'\"]", uv[1]]), unknown, "a choice");
    assert_eq!(of("poetry.lock", ["markers = {main = \"x == '1'\"}", "markers = \"x == '2'\""]), unknown);
}

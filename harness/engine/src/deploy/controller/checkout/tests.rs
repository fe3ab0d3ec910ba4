use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::process::Command;

use super::*;

/// A scenario and its repo, `repo/inner` below it, as a person has them.
struct Repo {
    place: tempfile::TempDir,
    format: &'static [&'static str],
}

impl Repo {
    fn new() -> Self {
        Self::with(&[])
    }

    /// Made by `git init` with these options.
    fn with(format: &'static [&'static str]) -> Self {
        let repo = Self { place: tempfile::tempdir().expect("a directory"), format };
        std::fs::create_dir_all(repo.top().join("inner")).expect("made");
        repo.git_in(&repo.top(), &[&["init", "--quiet", "-b", "main"], format].concat());
        repo.write("inner/deploy.py", "committed");
        repo.commit("First step");
        repo
    }

    fn place(&self) -> PathBuf {
        self.place.path().canonicalize().expect("there")
    }

    fn top(&self) -> PathBuf {
        self.place().join("repo")
    }

    fn marker(&self) -> PathBuf {
        self.place().join("executed")
    }

    fn write(&self, name: &str, content: &str) {
        let file = self.top().join(name);
        std::fs::create_dir_all(file.parent().expect("inside")).expect("made");
        std::fs::write(file, content).expect("written");
    }

    fn commit(&self, title: &str) {
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", title]);
    }

    fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.top(), args)
    }

    /// git as the repo's owner has it, but for this host's configuration.
    #[track_caller]
    fn git_in(&self, directory: &Path, args: &[&str]) -> String {
        let mut git = Command::new("git");
        git.arg("-C").arg(directory).args(["-c", "user.name=a", "-c", "user.email=a@b.test"]);
        git.args(["-c", "protocol.file.allow=always"]).args(args);
        git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
        let output = git.output().expect("git runs");
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn loaded(&self, path: &str, commit: &str) -> Loaded {
        let text = format!(
            "claims = ['rebuilds']\n[servers]\npath = '{path}'\ncommit = '{commit}'\n[[machine]]\nname = 'w'\nimage = 'i'\n"
        );
        let file = self.place().join("scenario.toml");
        std::fs::write(&file, &text).expect("written");
        let scenario = redrill_model::Scenario::parse(&text).expect("valid");
        Loaded { name: "s".into(), directory: self.place(), file, scenario, recipes: None }
    }

    fn out(&self) -> PathBuf {
        self.place().join("run/servers")
    }

    async fn check_out(&self, path: &str, commit: &str) -> Result<SourceReport, ControllerError> {
        let _ = std::fs::remove_dir_all(self.place().join("run"));
        std::fs::create_dir_all(self.place().join("run")).expect("made");
        let loaded = self.loaded(path, "HEAD");
        let report = checkout(&loaded, commit, &self.out()).await;
        let left: Vec<_> = std::fs::read_dir(self.place().join("run")).expect("there").flatten().collect();
        assert!(left.iter().all(|entry| entry.file_name() == "servers"), "no view is left: {left:?}");
        report
    }

    fn got(&self, name: &str) -> String {
        std::fs::read_to_string(self.out().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// What is wrong with the scenario, with its line and what would be right.
    async fn refused(&self, path: &str, commit: &str) -> String {
        match self.check_out(path, commit).await.expect_err("refused") {
            ControllerError::Scenario(ScenarioError::Invalid { text, error, .. }) => {
                let line = error.position(&text).line;
                format!("{line}: {}: {}", error.message, error.expected.unwrap_or_default())
            }
            other => panic!("no mistake of the scenario: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_directory_inside_a_repo_is_taken_as_committed() {
    let repo = Repo::new();
    repo.write("inner/deploy.py", "edited");
    repo.write("inner/new.py", "new");
    repo.write("elsewhere.py", "new");
    let source = repo.check_out("repo/inner", "HEAD").await.expect("checked out");
    assert_eq!(repo.got("deploy.py"), "committed");
    assert!(!repo.out().join("new.py").exists() && !repo.out().join(".git").exists());
    assert_eq!(source.title, "First step");
    assert_eq!(source.uncommitted, ["M inner/deploy.py", "?? inner/new.py"]);
}

#[tokio::test]
async fn a_directory_has_all_that_was_committed_in_it_and_the_line_ends_of_the_whole_repo() {
    let repo = Repo::new();
    repo.write(".gitattributes", "*.bat text eol=crlf\ninner/secret export-ignore\n");
    repo.write("inner/run.bat", "a\nb\n");
    repo.write("inner/secret", "x");
    repo.write("inner/*/x", "odd");
    repo.commit("attributes");
    repo.check_out("repo/inner", "HEAD").await.expect("checked out");
    assert_eq!((repo.got("run.bat"), repo.got("secret")), ("a\r\nb\r\n".to_owned(), "x".to_owned()));
    repo.check_out("repo/inner/*", "HEAD").await.expect("a name, not a pattern");
    assert_eq!(repo.got("x"), "odd");
}

#[tokio::test]
async fn a_repo_of_its_own_is_cloned_with_its_history_and_without_its_hooks_and_configuration() {
    let repo = Repo::new();
    repo.git(&["tag", "-m", "one", "v1"]);
    repo.git(&["config", "remote.origin.url", "ssh://production.example.org/servers"]);
    repo.write(".git/hooks/pre-commit", "#!/bin/sh\n");
    repo.write("more", "");
    repo.commit("Second step");
    repo.git(&["branch", "other", "v1"]);
    let index = std::fs::metadata(repo.top().join(".git/index")).expect("there");
    let source = repo.check_out("repo", "main").await.expect("checked out");
    let after = std::fs::metadata(repo.top().join(".git/index")).expect("there");
    assert_eq!((index.ino(), index.ctime_nsec()), (after.ino(), after.ctime_nsec()), "nothing is written there");
    assert_eq!((source.commit.len(), source.uncommitted.len()), (40, 0));
    let git = |args: &[&str]| repo.git_in(&repo.out(), args);
    assert_eq!(git(&["describe"]), format!("v1-1-g{}", &source.commit[..7]));
    assert_eq!(
        (git(&["status", "--porcelain"]), git(&["log", "--format=%s"])),
        ("".into(), "Second step\nFirst step".into())
    );
    assert_eq!(git(&["rev-parse", "origin/other"]), git(&["rev-parse", "v1^{commit}"]));
    let config = repo.got(".git/config");
    assert!(!config.contains("url") && !config.contains(&*repo.place().to_string_lossy()), "{config}");
    assert!(!repo.out().join(".git/hooks").exists());
    assert!(!repo.out().join(".git/objects/info/alternates").exists(), "it stands alone");
    assert_eq!(git(&["fsck", "--full"]), "");
}

#[tokio::test]
async fn every_kind_of_repository_is_read() {
    for format in [&["--object-format=sha256"][..], &["--ref-format=reftable"]] {
        let repo = Repo::with(format);
        repo.git(&["branch", "side"]);
        repo.write("later", "");
        repo.commit("Later");
        repo.check_out("repo", "side").await.unwrap_or_else(|error| panic!("{:?}: {error}", repo.format));
        assert!(repo.out().join("inner/deploy.py").exists() && !repo.out().join("later").exists());
        // A second work tree, on a branch of its own.
        repo.git(&["worktree", "add", "--quiet", "../tree", "side"]);
        std::fs::write(repo.place().join("tree/inner/deploy.py"), "theirs").expect("written");
        let source = repo.check_out("tree", "HEAD").await.expect("checked out");
        assert_eq!((source.title.as_str(), source.uncommitted), ("First step", vec!["M inner/deploy.py".to_owned()]));
        repo.check_out("tree/inner", "main").await.expect("checked out");
    }
    let repo = Repo::new();
    repo.commit("Second step");
    repo.git(&["pack-refs", "--all"]);
    repo.git(&["gc", "--quiet"]);
    assert_eq!(repo.check_out("repo", "main~1").await.expect("packed").title, "First step");
    let url = format!("file://{}", repo.top().display());
    for (name, options) in [("shallow", &["--depth=1", &url][..]), ("shared", &["--shared", "repo"])] {
        repo.git_in(&repo.place(), &[&["clone", "--quiet"], options, &[name]].concat());
        assert_eq!(repo.check_out(name, "HEAD").await.expect(name).title, "Second step");
        assert_eq!(
            repo.git_in(&repo.out(), &["rev-list", "--count", "HEAD"]),
            if name == "shallow" { "1" } else { "2" }
        );
    }
    let alternates = repo.place().join("shared/.git/objects/info/alternates");
    std::fs::write(alternates, "../../../repo/.git/objects\n").expect("written");
    repo.check_out("shared", "HEAD").await.expect("relative alternates");
}

#[tokio::test]
async fn a_partial_clone_gives_what_it_has_and_fetches_nothing() {
    let repo = Repo::new();
    repo.git(&["config", "uploadpack.allowFilter", "true"]);
    repo.write("inner/deploy.py", "changed");
    repo.commit("Second step");
    let url = format!("file://{}", repo.top().display());
    repo.git_in(&repo.place(), &["clone", "--quiet", "--filter=blob:none", &url, "partial"]);
    assert_eq!(repo.check_out("partial", "HEAD").await.expect("checked out").title, "Second step");
    let refused = repo.refused("partial", "HEAD~1").await;
    assert!(refused.starts_with("3: commit ") && refused.contains("is not whole"), "{refused}");
}

/// Puts a program into every place of the configuration that git runs something from, and looks whether it ran.
#[tokio::test]
async fn nothing_that_a_repo_names_is_run() {
    let repo = Repo::new();
    let program = repo.place().join("program");
    std::fs::write(&program, format!("#!/bin/sh\necho \"$0 $*\" >> {}\ncat\n", repo.marker().display()))
        .expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("set");
    let run = program.display().to_string();
    repo.write(".gitattributes", "*.py filter=evil diff=evil merge=evil\n*.long filter=slow\n");
    repo.write("x.long", "x");
    repo.write("sub.txt", "x");
    repo.commit("attributes");
    let submodule = repo.place().join("lib");
    repo.git_in(&repo.place(), &["clone", "--quiet", "repo", "lib"]);
    repo.git(&["submodule", "--quiet", "add", &submodule.display().to_string(), "lib"]);
    repo.commit("submodule");
    let include = repo.place().join("included");
    std::fs::write(&include, format!("[core]\n\tfsmonitor = {run}\n\tsshCommand = {run}\n")).expect("written");
    let keys = [
        "core.fsmonitor",
        "core.sshCommand",
        "core.gitProxy",
        "core.alternateRefsCommand",
        "core.pager",
        "core.editor",
        "core.askPass",
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.clean",
        "filter.slow.clean",
        "credential.helper",
        "gpg.program",
        "gpg.ssh.program",
        "sequence.editor",
        "uploadpack.packObjectsHook",
        "remote.origin.uploadpack",
        "remote.origin.receivepack",
        "pager.log",
        "pager.status",
        "pager.diff",
        "merge.evil.driver",
        "interactive.diffFilter",
        "submodule.lib.update",
    ];
    let modules = repo.top().join(".git/modules/lib");
    for directory in [repo.top().join(".git"), modules.clone()] {
        for key in keys {
            let value = if key == "submodule.lib.update" { format!("!{run}") } else { run.clone() };
            repo.git_in(&directory, &["config", key, &value]);
        }
        for alias in ["rev-parse", "status", "log", "diff", "clone", "checkout", "upload-pack", "archive", "config"] {
            repo.git_in(&directory, &["config", &format!("alias.{alias}"), &format!("!{run}")]);
        }
        for (key, value) in [
            ("core.hooksPath", repo.place().join("hooks").display().to_string()),
            ("include.path", include.display().to_string()),
            ("includeIf.gitdir:/.path", include.display().to_string()),
            ("remote.origin.url", format!("ext::{run}")),
            ("remote.origin.promisor", "true".to_owned()),
            ("remote.origin.partialclonefilter", "blob:none".to_owned()),
            ("extensions.partialClone", "origin".to_owned()),
            ("core.repositoryFormatVersion", "1".to_owned()),
            ("protocol.allow", "always".to_owned()),
            ("log.showSignature", "true".to_owned()),
            ("status.submoduleSummary", "true".to_owned()),
            ("diff.submodule", "log".to_owned()),
        ] {
            repo.git_in(&directory, &["config", key, &value]);
        }
        for hooks in [directory.join("hooks"), repo.place().join("hooks")] {
            std::fs::create_dir_all(&hooks).expect("made");
            for hook in
                ["post-checkout", "post-index-change", "reference-transaction", "pre-auto-gc", "fsmonitor-watchman"]
            {
                std::fs::copy(&program, hooks.join(hook)).expect("copied");
            }
        }
    }
    // Work trees whose state git has to find out by content: another time, the same length.
    for file in ["inner/deploy.py", "x.long", "lib/inner/deploy.py", "lib/x.long"] {
        let content = std::fs::read_to_string(repo.top().join(file)).expect("there");
        std::fs::write(repo.top().join(file), content).expect("written");
    }
    let _ = std::fs::remove_file(repo.marker());
    // The trap works: git itself runs it.
    let trapped = Command::new("git").arg("-C").arg(repo.top()).args(["ls-files", "-m"]).output().expect("git runs");
    assert!(trapped.status.success() && repo.marker().exists(), "a test that cannot fail is none");
    std::fs::remove_file(repo.marker()).expect("removed");
    for path in ["repo", "repo/inner", "repo/lib"] {
        for commit in ["HEAD", "HEAD~1", "main", "main@{0}"] {
            repo.check_out(path, commit).await.unwrap_or_else(|error| panic!("{path} {commit}: {error:?}"));
            assert!(
                !repo.marker().exists(),
                "{path} {commit}: {}",
                std::fs::read_to_string(repo.marker()).unwrap_or_default()
            );
        }
    }
    let refused = repo.check_out("repo", "0123456789012345678901234567890123456789").await;
    assert!(refused.is_err(), "what is not there is not fetched");
    for directory in [repo.top(), repo.top().join("inner"), repo.top().join("lib")] {
        changed(&directory, "HEAD~1", "HEAD", &repo.place()).await.expect("told");
    }
    assert!(!repo.marker().exists(), "{}", std::fs::read_to_string(repo.marker()).unwrap_or_default());
}

#[tokio::test]
async fn what_changed_between_two_commits_is_told_relative_to_the_directory() {
    let repo = Repo::new();
    repo.write("inner/deploy.py", "changed");
    repo.write("outer", "");
    repo.commit("Second step");
    let changed = async |directory: &str| {
        changed(&repo.place().join(directory), "HEAD~1", "HEAD", &repo.place()).await.expect("told")
    };
    assert_eq!(changed("repo/inner").await, ["deploy.py"]);
    assert_eq!(changed("repo").await, ["inner/deploy.py", "outer"]);
}

#[tokio::test]
async fn what_is_no_repo_or_no_commit_is_the_scenarios_mistake() {
    let repo = Repo::new();
    assert!(repo.refused("repo", "v9").await.starts_with("4: there is no commit `v9`"));
    for odd in ["--upload-pack=touch x", "-h", "a\nb", "HEAD\0", "", "HEAD:inner", "\u{1b}[31m"] {
        let refused = repo.refused("repo", odd).await;
        assert!(
            refused.starts_with("4: there is no commit") && !refused.contains(['\0', '\u{1b}']),
            "{odd:?}: {refused}"
        );
    }
    std::fs::create_dir_all(repo.top().join("new")).expect("made");
    assert!(repo.refused("repo/new", "HEAD").await.starts_with("3: `new` is not in commit"));
    std::fs::create_dir_all(repo.place().join("plain")).expect("made");
    let refused = repo.refused("plain", "HEAD").await;
    assert!(refused.starts_with("3: ") && refused.contains("is no git repository"), "{refused}");
}

#[tokio::test]
async fn what_a_filter_stands_before_is_an_error_and_names_file_and_filter() {
    let repo = Repo::new();
    repo.write(".gitattributes", "secrets/** filter=git-crypt\n*.tidy filter=tidy\n");
    repo.write("x.tidy", "x");
    repo.write("secrets/plain", "x");
    repo.commit("Filters that nobody has set up");
    repo.check_out("repo", "HEAD").await.expect("the commit holds them as they are");
    repo.git(&["config", "filter.tidy.clean", "indent"]);
    repo.check_out("repo", "HEAD").await.expect("and so it does where one tidies only what goes in");
    repo.git(&["config", "filter.tidy.smudge", "untidy %f"]);
    let refused = repo.refused("repo", "HEAD").await;
    assert!(refused.contains("`x.tidy` passes through `untidy %f` (filter `tidy`)"), "{refused}");
    repo.git(&["config", "--unset", "filter.tidy.smudge"]);
    std::fs::write(repo.top().join("secrets/key"), b"\0GITCRYPT\0abc").expect("written");
    repo.commit("Encrypted");
    for path in ["repo", "repo/secrets"] {
        let refused = repo.refused(path, "HEAD").await;
        assert!(refused.contains("`secrets/key` is encrypted in the commit (filter `git-crypt`)"), "{refused}");
    }
    assert!(repo.check_out("repo/inner", "HEAD").await.is_ok(), "it is none of what is deployed");
}

#[tokio::test]
async fn files_of_git_lfs_come_from_the_repos_own_store_or_are_an_error() {
    const ID: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"; // Of `hello`.
    let repo = Repo::new();
    repo.write(".gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n");
    repo.write("inner/a.bin", &format!("version https://git-lfs.github.com/spec/v1\noid sha256:{ID}\nsize 5\n"));
    repo.commit("Pointer");
    let refused = repo.refused("repo", "HEAD").await;
    assert!(refused.contains("`inner/a.bin` is kept by git-lfs") && refused.contains("git lfs fetch"), "{refused}");
    let kept = format!(".git/lfs/objects/2c/f2/{ID}");
    repo.write(&kept, "damaged");
    assert!(repo.refused("repo/inner", "HEAD").await.contains("`inner/a.bin` is kept by git-lfs"));
    repo.write(&kept, "hello");
    for (path, name) in [("repo/inner", "a.bin"), ("repo", "inner/a.bin")] {
        repo.check_out(path, "HEAD").await.expect("checked out");
        assert_eq!(repo.got(name), "hello");
    }
    assert_eq!(repo.git_in(&repo.out(), &["status", "--porcelain"]), "");
}

/// A repo with a submodule in a submodule, cloned to `clone` with or without them.
fn nested(recursive: bool) -> Repo {
    let repo = Repo::new();
    for (name, holds) in [("deep", None), ("role", Some("deep"))] {
        let directory = repo.place().join(name);
        std::fs::create_dir_all(&directory).expect("made");
        repo.git_in(&directory, &["init", "--quiet", "-b", "main"]);
        std::fs::write(directory.join("tasks.py"), name).expect("written");
        if let Some(holds) = holds {
            let url = repo.place().join(holds).display().to_string();
            repo.git_in(&directory, &["submodule", "--quiet", "add", &url, holds]);
        }
        repo.git_in(&directory, &["add", "."]);
        repo.git_in(&directory, &["commit", "--quiet", "-m", name]);
    }
    let url = repo.place().join("role").display().to_string();
    repo.git(&["submodule", "--quiet", "add", "--name", "odd/name", &url, "inner/roles/role"]);
    repo.commit("Submodules");
    // The submodule goes on: what counts is what the repo names.
    std::fs::write(repo.place().join("role/tasks.py"), "later").expect("written");
    repo.git_in(&repo.place().join("role"), &["commit", "--quiet", "-a", "-m", "Later"]);
    let how = if recursive { "--recurse-submodules" } else { "--no-recurse-submodules" };
    repo.git_in(&repo.place(), &["clone", "--quiet", how, "repo", "clone"]);
    repo
}

#[tokio::test]
async fn submodules_come_at_their_commits_from_what_is_there() {
    let repo = nested(true);
    repo.git_in(&repo.place().join("clone/inner/roles/role"), &["pull", "--quiet", "origin", "main"]);
    for (path, role) in [("clone", "inner/roles/role"), ("clone/inner", "roles/role"), ("clone/inner/roles", "role")] {
        let source = repo.check_out(path, "HEAD").await.expect("checked out");
        assert_eq!(source.uncommitted, ["M inner/roles/role"], "it stands at another commit");
        assert_eq!(repo.got(&format!("{role}/tasks.py")), "role");
        assert_eq!(repo.got(&format!("{role}/deep/tasks.py")), "deep");
    }
    std::fs::write(repo.place().join("clone/inner/roles/role/deep/tasks.py"), "edited").expect("written");
    std::fs::write(repo.place().join("clone/inner/roles/role/new"), "new").expect("written");
    let source = repo.check_out("clone", "HEAD").await.expect("checked out");
    let uncommitted =
        ["M inner/roles/role", "?? inner/roles/role/new", "M inner/roles/role/deep/tasks.py"].map(str::to_owned);
    assert_eq!(source.uncommitted, uncommitted);
    assert_eq!(repo.git_in(&repo.out(), &["status", "--porcelain"]), "");
    // A repository of old has them in the work tree, not among its modules.
    let clone = repo.place().join("clone");
    let role = clone.join("inner/roles/role");
    std::fs::remove_file(role.join(".git")).expect("removed");
    std::fs::rename(clone.join(".git/modules/odd/name"), role.join(".git")).expect("moved");
    repo.check_out("clone", "HEAD").await.expect("checked out");
    assert_eq!(repo.got("inner/roles/role/deep/tasks.py"), "deep");
}

#[tokio::test]
async fn a_submodule_that_is_not_there_is_an_error_that_names_it() {
    let repo = nested(false);
    for path in ["clone", "clone/inner"] {
        let refused = repo.refused(path, "HEAD").await;
        assert!(refused.contains("of the submodule `inner/roles/role` is not there"), "{refused}");
        assert!(refused.contains("git submodule update --init --recursive -- inner/roles/role"), "{refused}");
    }
    repo.git_in(&repo.place().join("clone"), &["submodule", "--quiet", "update", "--init"]);
    assert!(repo.refused("clone", "HEAD").await.contains("of the submodule `deep` is not there"));
    let repo = Repo::new();
    repo.git_in(&repo.place(), &["clone", "--quiet", "repo", "repo/stray"]);
    repo.commit("A repository inside");
    assert!(repo.refused("repo", "HEAD").await.contains("`stray` is a repository of its own"));
}

#[tokio::test]
async fn what_git_would_wait_for_is_no_repository() {
    let repo = Repo::new();
    let fifo = |name: &str| {
        let made = Command::new("mkfifo").arg(repo.top().join(name)).status().expect("mkfifo runs");
        assert!(made.success());
    };
    for name in
        [".git/config", ".git/packed-refs", ".git/index", ".git/shallow", ".git/refs/heads/x", ".git/info/exclude"]
    {
        let _ = std::fs::remove_file(repo.top().join(name));
        fifo(name);
    }
    symlink("..", repo.top().join(".git/refs/heads/loop")).expect("linked");
    let about = std::fs::metadata(repo.top().join(".git/config")).expect("there");
    assert!(about.file_type().is_fifo());
    let limit = std::time::Duration::from_secs(60);
    let done = tokio::time::timeout(limit, repo.check_out("repo", "main")).await.expect("nothing is waited for");
    assert_eq!(done.expect("checked out").title, "First step");
}

#[tokio::test]
async fn a_work_tree_that_git_waits_for_is_told_with_the_file() {
    let repo = Repo::new();
    let fifo = repo.top().join("inner/.gitignore");
    assert!(Command::new("mkfifo").arg(&fifo).status().expect("mkfifo runs").success());
    let source = GitSource::around(&repo.top(), &repo.place()).await.expect("a view");
    let limit = std::time::Duration::from_millis(500);
    let error = source.uncommitted(&repo.top(), limit).await.expect_err("git waits").to_string();
    assert!(error.contains(&format!("`{}` is no regular file", fifo.display())), "{error}");
}

#[test]
fn paths_are_bytes() {
    let dir = Path::new(std::ffi::OsStr::from_bytes(b"/x/\xff"));
    assert_eq!(beside(&dir.join("servers")), dir);
}

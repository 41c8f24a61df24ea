//! A git repository whose commits have the same ids wherever they are made.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::ran::Ran;

/// The program under test.
pub(crate) const TW: &str = env!("CARGO_BIN_EXE_tw");
/// The moment of the first commit; each is a minute after the one before.
const BEGIN: u64 = 1_750_000_000;

/// A repository in a temporary folder, with a cache of its own beside it.
pub(crate) struct Repository {
    folder: TempDir,
    commits: u64,
}

impl Repository {
    pub(crate) fn new() -> Repository {
        let repository = Repository {
            folder: tempfile::tempdir().unwrap(),
            commits: 0,
        };
        std::fs::create_dir(repository.root()).unwrap();
        repository.git(&["init", "--quiet", "--initial-branch", "main"]);
        repository
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root().join(path)).unwrap()
    }

    /// Replaces text that must be there.
    #[track_caller]
    pub(crate) fn replace(&self, path: &str, old: &str, new: &str) {
        let text = self.read(path);
        assert!(text.contains(old), "{path} has no {old}");
        self.write(path, text.replace(old, new));
    }

    pub(crate) fn rename(&self, from: &str, to: &str) {
        let to = self.root().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::rename(self.root().join(from), to).unwrap();
    }

    pub(crate) fn remove(&self, path: &str) {
        std::fs::remove_file(self.root().join(path)).unwrap();
    }

    /// Commits all that is there.
    pub(crate) fn commit(&mut self, message: &str) {
        self.git(&["add", "--all", "."]);
        self.commits += 1;
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
    }

    pub(crate) fn git(&self, words: &[&str]) -> String {
        let done = self.git_command(words).output().expect("git is installed");
        assert!(
            done.status.success(),
            "git {words:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// git without the settings of whoever runs the test, and with `tw` on its path.
    pub(crate) fn git_command(&self, words: &[&str]) -> Command {
        let date = format!("{} +0000", BEGIN + 60 * self.commits);
        let mut command = Command::new("git");
        command
            .args(words)
            .current_dir(self.root())
            .env("PATH", path_with_tw())
            .env("TW_CACHE", self.cache())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_AUTHOR_DATE", &date)
            .env("GIT_COMMITTER_DATE", &date)
            .env("GIT_AUTHOR_NAME", "Ann")
            .env("GIT_AUTHOR_EMAIL", "ann@example.com")
            .env("GIT_COMMITTER_NAME", "Ann")
            .env("GIT_COMMITTER_EMAIL", "ann@example.com");
        command
    }

    pub(crate) fn tw(&self, words: &[&str]) -> Ran {
        Ran::of(self.tw_command(words).output().unwrap())
    }

    pub(crate) fn tw_command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(TW);
        command
            .args(words)
            .current_dir(self.root())
            .env("TW_CACHE", self.cache())
            .env("TW_STATE", self.folder.path().join("nobody"));
        command
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }
}

/// The search path with `tw` first.
pub(crate) fn path_with_tw() -> String {
    let folder = Path::new(TW).parent().unwrap().display().to_string();
    match std::env::var("PATH") {
        Ok(path) => format!("{folder}:{path}"),
        Err(_) => folder,
    }
}

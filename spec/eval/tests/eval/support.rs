//! A repository in a temporary folder, and an evaluator of it.

use std::fs;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use nix::unistd::Pid;
use tempfile::TempDir;
use tw_spec::{EvalConfig, Evaluator, Outcome, RenderOptions, Source, evaluate, render_errors};

/// A git repository that goes away with the test.
pub(crate) struct Repo {
    folder: TempDir,
    git: git2::Repository,
}

impl Repo {
    pub(crate) fn new() -> Repo {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let git = git2::Repository::init(folder.path()).expect("git init");
        let mut config = git.config().expect("a configuration");
        config.set_str("user.name", "Test").expect("set");
        config
            .set_str("user.email", "test@example.com")
            .expect("set");
        Repo { folder, git }
    }

    /// A repository with these files in its work tree.
    pub(crate) fn with(files: &[(&str, &str)]) -> Repo {
        let repo = Repo::new();
        files.iter().for_each(|(path, text)| repo.write(path, text));
        repo
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let file = self.path().join(path);
        fs::create_dir_all(file.parent().expect("a folder")).expect("mkdir");
        fs::write(file, text).expect("write");
    }

    pub(crate) fn remove(&self, path: &str) {
        fs::remove_file(self.path().join(path)).expect("remove");
    }

    /// Commits the whole work tree; returns the commit's id.
    pub(crate) fn commit(&self, message: &str) -> String {
        let mut index = self.git.index().expect("index");
        index
            .add_all(["*"], git2::IndexAddOption::DEFAULT, None)
            .expect("add");
        index.update_all(["*"], None).expect("update");
        index.write().expect("write index");
        let tree = index
            .write_tree()
            .and_then(|tree| self.git.find_tree(tree))
            .expect("tree");
        let who = git2::Signature::now("Test", "test@example.com").expect("signature");
        let parent = self
            .git
            .head()
            .ok()
            .and_then(|head| head.peel_to_commit().ok());
        let parents: Vec<&git2::Commit<'_>> = parent.iter().collect();
        let commit = self
            .git
            .commit(Some("HEAD"), &who, &who, message, &tree, &parents)
            .expect("commit");
        commit.to_string()
    }

    pub(crate) fn work_tree(&self) -> Source {
        Source::work_tree(self.path()).expect("a work tree")
    }

    pub(crate) fn revision(&self, revision: &str) -> Source {
        Source::revision(self.path(), revision).expect("a revision")
    }

    /// Evaluates every spec of the work tree.
    pub(crate) fn evaluate(&self) -> Outcome {
        evaluate_all(evaluator(), &self.work_tree())
    }
}

pub(crate) fn evaluate_all(evaluator: &Evaluator, source: &Source) -> Outcome {
    let specs = source.find_specs(&[String::new()]).expect("specs");
    evaluate(evaluator, source, &specs).expect("an evaluator that runs")
}

pub(crate) fn config() -> EvalConfig {
    EvalConfig {
        program: Some(env!("CARGO_BIN_EXE_tw-eval").into()),
        cpu: Duration::from_secs(1),
        deadline: Duration::from_secs(20),
        ..EvalConfig::default()
    }
}

/// An evaluator that the tests share: what a spec does ends with its child.
pub(crate) fn evaluator() -> &'static Evaluator {
    static SHARED: LazyLock<Evaluator> = LazyLock::new(own_evaluator);
    &SHARED
}

/// An evaluator for a test that looks at its process, or ends it.
pub(crate) fn own_evaluator() -> Evaluator {
    Evaluator::start(config()).expect("tw-eval starts")
}

/// The errors as a person sees them.
pub(crate) fn rendered(outcome: &Outcome) -> String {
    render_errors(&outcome.errors, RenderOptions::default())
}

/// The children of a process.
pub(crate) fn children_of(process: u32) -> Vec<Pid> {
    let listed = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let listed = listed.expect("a kernel that lists children");
    let number = |word: &str| Pid::from_raw(word.parse().expect("a number"));
    listed.split_whitespace().map(number).collect()
}

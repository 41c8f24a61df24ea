//! What is kept between evaluations: that it saves them, and that nothing wrong with it ever shows.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tw_spec::{
    Cache, EvalConfig, Evaluator, Outcome, Provenance, Source, Tree, diff, evaluate,
    evaluate_strictly,
};

use crate::support::{Repo, config, rendered};

/// A spec of one job that takes its command from a shared module.
fn spec(name: &str) -> String {
    format!(
        "from shared.base import COMMAND\nfrom tw import Job, export\n\nexport(Job(name=\"{name}\", command=COMMAND))\n"
    )
}

/// Three specs, two of which import a module.
fn repo() -> Repo {
    Repo::with(&[
        ("shared/base.py", "COMMAND = \"sleep 60\"\n"),
        ("a/config.tw", &spec("a")),
        ("b/config.tw", &spec("b")),
        (
            "c/config.tw",
            "from tw import Job, export, repo\n\nexport(Job(name=\"c\", command=\"x\", env={\"LIST\": \",\".join(repo.list(\"data\"))}))\n",
        ),
        ("data/one", "1"),
    ])
}

fn with_cache(folder: &Path) -> EvalConfig {
    EvalConfig {
        cache: Some(Arc::new(Cache::open(folder))),
        ..config()
    }
}

/// Evaluates everything as a new process would; returns what came of it and how many specs were evaluated.
fn run_in(source: &Source, config: EvalConfig) -> (Outcome, usize) {
    let source = match &config.cache {
        Some(cache) => source.clone().with_cache(cache),
        None => source.clone(),
    };
    let evaluator = Evaluator::start(config).expect("tw-eval starts");
    let specs = source.find_specs(&[String::new()]).expect("specs");
    let outcome = evaluate(&evaluator, &source, &specs).expect("an evaluator that runs");
    (outcome, evaluator.evaluations())
}

fn run(repo: &Repo, cache: &Path) -> (Outcome, usize) {
    run_in(&repo.work_tree(), with_cache(cache))
}

/// Everything that people see of an outcome.
type Shown = (
    Vec<(String, String, String, Provenance)>,
    Vec<String>,
    String,
);

fn shown(outcome: &Outcome) -> Shown {
    let jobs = outcome.jobs.iter().map(|job| {
        let spec = serde_json::to_string(&job.spec).expect("JSON");
        let closure = format!("{:?}", job.closure);
        (
            format!("{spec} {}", job.source),
            job.file.clone(),
            closure,
            job.provenance.clone(),
        )
    });
    let printed = outcome.specs.iter().map(|spec| spec.output.clone());
    (jobs.collect(), printed.collect(), rendered(outcome))
}

#[test]
fn an_equal_tree_asks_nothing() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    let (plain, _) = run_in(&repo.work_tree(), config());
    let (first, evaluated) = run(&repo, cache.path());
    let (second, again) = run(&repo, cache.path());
    assert_eq!((evaluated, again), (3, 0));
    assert_eq!(shown(&first), shown(&plain));
    assert_eq!(shown(&second), shown(&plain));
}

#[test]
fn only_what_a_change_can_reach_is_evaluated() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    run(&repo, cache.path());
    let check = |what: &str, evaluated: usize| {
        let (outcome, found) = run(&repo, cache.path());
        assert_eq!(found, evaluated, "{what}");
        let (plain, _) = run_in(&repo.work_tree(), config());
        assert_eq!(shown(&outcome), shown(&plain), "{what}");
    };
    repo.write("a/config.tw", &spec("a2"));
    check("a leaf", 1);
    repo.write("shared/base.py", "COMMAND = \"sleep 61\"\n");
    check("a module with two importers", 2);
    repo.write("shared/base.py", "COMMAND = \"sleep 60\"\n");
    check("a module as it was", 0);
    repo.write("unrelated.py", "1 / 0\n");
    check("a module nobody imports", 0);
    repo.write("a/shared/base.py", "COMMAND = \"from beside\"\n");
    check("a module that now comes first for one spec", 1);
    repo.remove("a/shared/base.py");
    repo.write("data/two", "2");
    check("a name in a listed folder, and a module gone again", 2);
    repo.write("shared/__init__.py", "");
    check("a package that was none", 2);
    repo.write("d/config.tw", &spec("d"));
    check("a new spec", 1);
    repo.remove("d/config.tw");
    check("a spec less", 0);
}

#[test]
fn what_is_listed_follows_what_git_ignores() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    repo.write("data/secret", "");
    let list = |outcome: &Outcome| {
        let job = outcome
            .jobs
            .iter()
            .find(|job| job.spec.name.as_str() == "c");
        job.expect("a job").spec.env.values().next().cloned()
    };
    assert_eq!(
        list(&run(&repo, cache.path()).0).as_deref(),
        Some("one,secret")
    );
    repo.write(".gitignore", "secret\n");
    assert_eq!(list(&run(&repo, cache.path()).0).as_deref(), Some("one"));
    repo.write(".gitignore", "one\n");
    assert_eq!(list(&run(&repo, cache.path()).0).as_deref(), Some("secret"));
}

#[test]
fn a_changed_file_of_a_package_is_noticed() {
    let cache = tempfile::tempdir().expect("a folder");
    let repo = Repo::with(&[
        (
            "config.tw",
            "from tw import Job, Package, export\nexport(Job(name=\"web\", command=\"x\", packages=[Package.folder(\"app\")]))\n",
        ),
        ("app/lib/server.py", "print(1)\n"),
    ]);
    let digest = || {
        let (outcome, evaluated) = run(&repo, cache.path());
        (outcome.jobs[0].spec.packages[0].digest.0.clone(), evaluated)
    };
    let (first, _) = digest();
    assert_eq!(digest(), (first.clone(), 0));
    repo.write("app/lib/server.py", "print(2)\n");
    let (second, evaluated) = digest();
    assert_eq!(evaluated, 1);
    assert_ne!(first, second);
    repo.write("app/lib/server.py", "print(1)\n");
    assert_eq!(digest(), (first, 0));
}

#[test]
fn revisions_and_the_work_tree_share_results() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    run(&repo, cache.path());
    repo.commit("first");
    let evaluated = |revision: &str| run_in(&repo.revision(revision), with_cache(cache.path())).1;
    assert_eq!(evaluated("HEAD"), 0, "what the work tree had");
    repo.write("a/config.tw", &spec("a2"));
    repo.write("shared/link.py", "X = 1\n");
    repo.commit("second");
    assert_eq!(evaluated("HEAD"), 1);
    assert_eq!(evaluated("HEAD~1"), 0);
    let (cached, _) = run_in(&repo.revision("HEAD"), with_cache(cache.path()));
    let (plain, _) = run_in(&repo.revision("HEAD"), config());
    assert_eq!(shown(&cached), shown(&plain));
}

#[test]
fn a_module_behind_a_link_is_noticed_in_revisions() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    repo.write("real/base.py", "COMMAND = \"one\"\n");
    fs::remove_dir_all(repo.path().join("shared")).expect("remove");
    std::os::unix::fs::symlink("real", repo.path().join("shared")).expect("link");
    repo.commit("first");
    let command = || {
        let (outcome, _) = run_in(&repo.revision("HEAD"), with_cache(cache.path()));
        outcome.jobs[0].spec.command.0.clone()
    };
    assert_eq!(command(), ["one"]);
    repo.write("real/base.py", "COMMAND = \"two\"\n");
    repo.commit("second");
    assert_eq!(command(), ["two"]);
}

#[test]
fn a_comparison_looks_into_what_differs_alone() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    repo.commit("first");
    let compare = |config: EvalConfig| {
        let (base, head) = (repo.revision("HEAD"), repo.work_tree());
        let evaluator = Evaluator::start(config).expect("tw-eval starts");
        let specs = |source: &Source| source.find_specs(&[String::new()]).expect("specs");
        let (old, new) = (specs(&base), specs(&head));
        let tree = |source, specs| Tree { source, specs };
        let found = diff(&evaluator, tree(&base, &old), tree(&head, &new)).expect("a comparison");
        let json = serde_json::to_value(&found.diff).expect("JSON");
        (json, evaluator.evaluations())
    };
    let (nothing, _) = compare(with_cache(cache.path()));
    assert_eq!(nothing["summary"]["unchanged"], 3);
    repo.write("shared/base.py", "COMMAND = \"sleep 61\"\n");
    let (cached, evaluated) = compare(with_cache(cache.path()));
    assert_eq!(evaluated, 2);
    assert_eq!(cached, compare(config()).0);
    assert_eq!(cached["modules"][0]["importers"], 2);
    repo.write("b/config.tw", "export(\n");
    assert_eq!(compare(with_cache(cache.path())).0, compare(config()).0);
    repo.write("b/config.tw", &spec("a"));
    assert_eq!(compare(with_cache(cache.path())).0, compare(config()).0);
}

fn file_of(cache: &Path) -> PathBuf {
    let found = fs::read_dir(cache).expect("a folder");
    let mut files = found.map(|entry| entry.expect("an entry").path());
    files
        .find(|file| file.extension().is_some_and(|name| name == "sqlite"))
        .expect("the file")
}

#[test]
fn damage_costs_time_and_nothing_else() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    let (expected, _) = run(&repo, cache.path());
    let file = file_of(cache.path());
    let whole = fs::read(&file).expect("the file");
    let damages: Vec<(String, Vec<u8>)> = [0, 1, 99, 4096, whole.len() / 2, whole.len() - 1]
        .into_iter()
        .map(|length| (format!("cut to {length}"), whole[..length].to_vec()))
        .chain((0..8).map(|nth| {
            let mut flipped = whole.clone();
            // Spread over the file, never twice the same bit.
            let at = nth * (whole.len() / 8) + 37 * nth;
            flipped[at] ^= 1 << (nth % 8);
            (format!("flipped at {at}"), flipped)
        }))
        .chain([("foreign".to_owned(), b"no database at all\n".repeat(999))])
        .collect();
    for (damage, bytes) in damages {
        fs::write(&file, bytes).expect("write");
        let (outcome, _) = run(&repo, cache.path());
        assert_eq!(shown(&outcome), shown(&expected), "{damage}");
        let (_, evaluated) = run(&repo, cache.path());
        assert_eq!(evaluated, 0, "{damage}, and then again");
    }
}

#[test]
fn what_another_build_left_is_not_taken() {
    let (repo, folder) = (repo(), tempfile::tempdir().expect("a folder"));
    let cache = folder.path().join("cache");
    run(&repo, &cache);
    let other = folder.path().join("tw-eval");
    let mut program = fs::read(env!("CARGO_BIN_EXE_tw-eval")).expect("the program");
    program.push(0);
    fs::write(&other, program).expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&other, mode).expect("chmod");
    let config = EvalConfig {
        program: Some(other),
        ..with_cache(&cache)
    };
    assert_eq!(run_in(&repo.work_tree(), config).1, 3);
}

#[test]
fn several_processes_share_a_cache() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    let (expected, _) = run_in(&repo.work_tree(), config());
    let source = repo.work_tree();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (outcome, _) = run_in(&source, with_cache(cache.path()));
                assert_eq!(shown(&outcome), shown(&expected));
            });
        }
    });
    assert_eq!(run(&repo, cache.path()).1, 0);
}

#[test]
fn a_folder_that_takes_nothing_is_named_once() {
    let repo = repo();
    let cache = Arc::new(Cache::open(Path::new("/proc/no-such-folder")));
    let config = EvalConfig {
        cache: Some(Arc::clone(&cache)),
        ..config()
    };
    let (outcome, evaluated) = run_in(&repo.work_tree(), config);
    assert_eq!((outcome.errors.len(), evaluated), (0, 3));
    let trouble = cache.trouble().expect("a note");
    assert!(trouble.contains("/proc/no-such-folder"), "{trouble}");
}

/// A file system of a few pages, gone with the test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new() -> Option<SmallDisk> {
        use nix::mount::{MsFlags, mount};
        let folder = tempfile::tempdir().expect("a folder");
        let size = Some("size=24k");
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            size,
        )
        .ok()?;
        Some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_named_and_evaluation_goes_on() {
    // Only root can make a small disk.
    let Some(disk) = SmallDisk::new() else { return };
    let repo = repo();
    let cache = Arc::new(Cache::open(disk.0.path()));
    let config = EvalConfig {
        cache: Some(Arc::clone(&cache)),
        ..config()
    };
    let (outcome, evaluated) = run_in(&repo.work_tree(), config);
    assert_eq!((outcome.errors.len(), evaluated), (0, 3));
    let trouble = cache.trouble().expect("a note");
    assert!(trouble.contains("full"), "{trouble}");
}

#[test]
fn old_entries_give_way_to_new_ones() {
    let folder = tempfile::tempdir().expect("a folder");
    let repo = repo();
    let bounded = || EvalConfig {
        cache: Some(Arc::new(Cache::bounded(folder.path(), 96 * 1024))),
        ..config()
    };
    for round in 0..12 {
        let filler = format!(
            "# {round}{}\nCOMMAND = \"sleep {round}\"\n",
            "x".repeat(8000)
        );
        repo.write("shared/base.py", &filler);
        run_in(&repo.work_tree(), bounded());
    }
    let bytes = fs::metadata(file_of(folder.path()))
        .expect("the file")
        .len();
    assert!(bytes < 256 * 1024, "{bytes}");
    assert_eq!(run_in(&repo.work_tree(), bounded()).0.errors, []);
}

fn strictly(repo: &Repo, config: EvalConfig) -> (Outcome, usize) {
    let source = repo.work_tree();
    let evaluator = Evaluator::start(config).expect("tw-eval starts");
    let specs = source.find_specs(&[String::new()]).expect("specs");
    let outcome = evaluate_strictly(&evaluator, &source, &specs).expect("an evaluator that runs");
    (outcome, evaluator.evaluations())
}

#[test]
fn what_hangs_on_a_hash_or_an_address_is_named_with_both_values() {
    let cache = tempfile::tempdir().expect("a folder");
    let repo = Repo::with(&[
        (
            "set.tw",
            "from tw import Job, export\nexport(Job(name=\"a\", command=\"x\", env={\"ORDER\": \",\".join({\"web\", \"db\", \"cache\", \"proxy\", \"mail\"})}))\n",
        ),
        (
            "address.tw",
            "from tw import Job, export\n\nclass Thing:\n    pass\n\nthings = [Thing() for _ in range(4000)]\nfirst = {id(t): i for i, t in enumerate(things)}\nexport(Job(name=\"b\", command=\"x\", env={\"ORDER\": str([first[id(t)] for t in set(things)][:40])}))\n",
        ),
        (
            "good.tw",
            "from tw import Job, export\nexport(Job(name=\"c\", command=\"x\"))\n",
        ),
    ]);
    for _ in 0..2 {
        let (outcome, _) = strictly(&repo, with_cache(cache.path()));
        let said = rendered(&outcome);
        assert_eq!(outcome.errors.len(), 2, "{said}");
        for error in &outcome.errors {
            assert_eq!(error.code.as_str(), "spec.nondeterministic", "{said}");
            assert!(error.message.contains("env.ORDER: "), "{said}");
            assert!(error.message.contains(" and then "), "{said}");
            assert!(error.line.is_some(), "{said}");
        }
    }
    assert_eq!(
        strictly(&repo, with_cache(cache.path())).1,
        2,
        "only the bad ones again"
    );
}

#[test]
fn two_jobs_of_one_name_are_no_difference_between_two_evaluations() {
    let repo = Repo::with(&[(
        "twice.tw",
        "from tw import Job, export\nexport(Job(name=\"a\", command=\"x\"), Job(name=\"a\", command=\"y\"))\n",
    )]);
    let (outcome, _) = strictly(&repo, config());
    let codes = outcome.errors.iter().map(|error| error.code.as_str());
    assert_eq!(Vec::from_iter(codes), ["spec.duplicate_job"]);
}

#[test]
fn what_was_found_the_same_once_is_not_evaluated_again() {
    let (repo, cache) = (repo(), tempfile::tempdir().expect("a folder"));
    run(&repo, cache.path());
    let (_, evaluated) = strictly(&repo, with_cache(cache.path()));
    assert_eq!(evaluated, 0, "the first of the two was known");
    assert_eq!(strictly(&repo, with_cache(cache.path())).1, 0);
}

#[test]
fn the_address_of_an_object_is_refused() {
    let repo = Repo::with(&[(
        "a.tw",
        "from tw import Job, export\nexport(Job(name=\"a\", command=\"x\", env={\"WHAT\": str(object())}))\n",
    )]);
    let (outcome, _) = run_in(&repo.work_tree(), config());
    let error = &outcome.errors[0];
    assert_eq!(error.code.as_str(), "spec.nondeterministic");
    assert!(error.message.contains("address of an object"), "{error:?}");
    assert_eq!(error.line, Some(2));
}

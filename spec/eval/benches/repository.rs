//! A repository of many specs: what it costs to evaluate all of it, and to look again after nothing, one spec, or one
//! shared module has changed. The calls are those of `tw check` and `tw diff`. One JSON line a figure.
//!
//! `TW_BENCH_SPECS` sets how many specs there are. `TW_BENCH_FOLDER` keeps the repository and the cache in a folder, and
//! uses those that it finds there, as they are.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use common::{config, print, round};
use git2::{IndexAddOption, Repository, Signature};
use serde_json::json;
use tw_spec::{
    Cache, Compared, EvalConfig, Evaluator, Outcome, Source, Tree, diff, evaluate,
    evaluate_strictly,
};

const SPECS: usize = 10_000;
const MODULES: usize = 50;
/// Specs that import the last module, which no module imports.
const IMPORTERS: usize = 200;
const TEAMS: usize = 100;
/// The generated repository follows from this.
const SEED: u64 = 20_261_121;

fn main() {
    tw_allocator::begin();
    let specs = std::env::var("TW_BENCH_SPECS").ok();
    let specs = specs
        .and_then(|number| number.parse().ok())
        .unwrap_or(SPECS);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kept = std::env::var_os("TW_BENCH_FOLDER").map(PathBuf::from);
    let folder = kept.as_deref().unwrap_or(folder.path());
    let (root, cache) = (&folder.join("repository"), &folder.join("cache"));
    if !root.exists() {
        generate(root, specs);
    }
    let print_run = |name: &str, seconds: f64, evaluated: usize, goal: Option<f64>| {
        print(&json!({
            "bench": format!("spec.repository.{name}"), "specs": specs, "modules": MODULES,
            "seconds": round(seconds), "goal_seconds": goal, "specs_evaluated": evaluated,
            "peak_memory_mib": peak_memory_mib(),
        }));
    };

    let (seconds, evaluated) = check(root, cache, false);
    print_run("check_with_empty_cache", seconds, evaluated, Some(20.0));
    let (seconds, evaluated) = check(root, cache, false);
    print_run("check_unchanged", seconds, evaluated, Some(0.5));
    let (seconds, evaluated, _) = compare(root, cache);
    print_run("first_diff_with_a_revision", seconds, evaluated, None);
    let (seconds, evaluated, compared) = compare(root, cache);
    assert!(compared.diff.is_empty());
    print_run("diff_unchanged", seconds, evaluated, Some(0.5));

    let leaf = root.join("team-007/svc-00007/config.tw");
    let text = fs::read_to_string(&leaf).expect("read");
    let changed = text.replace("replicas=", "replicas=1 + ");
    fs::write(&leaf, never_seen(&changed)).expect("write");
    let (seconds, evaluated, compared) = compare(root, cache);
    assert!(compared.diff.summary.modified >= 1);
    print_run("diff_one_leaf", seconds, evaluated, Some(0.2));
    fs::write(&leaf, text).expect("write");

    let module = root.join(format!("shared/m{:02}.py", MODULES - 1));
    let text = fs::read_to_string(&module).expect("read");
    let changed = text.replace("MEMORY = ", "MEMORY = 4096 + ");
    fs::write(&module, never_seen(&changed)).expect("write");
    let (seconds, evaluated, compared) = compare(root, cache);
    assert!(compared.diff.summary.modified >= IMPORTERS.min(specs));
    print_run(
        "diff_module_with_200_importers",
        seconds,
        evaluated,
        Some(1.5),
    );
    fs::write(&module, text).expect("write");

    let (seconds, evaluated) = check(root, cache, true);
    print_run("second_seed", seconds, evaluated, None);
}

/// The text with a line that no earlier run has written, whose results a kept cache may have.
fn never_seen(text: &str) -> String {
    format!("# {}\n{text}", std::process::id())
}

/// Everything as a new process has it.
fn opened(root: &Path, cache: &Path) -> (Evaluator, Source, Arc<Cache>) {
    let cache = Arc::new(Cache::open(cache));
    let config = EvalConfig {
        cache: Some(Arc::clone(&cache)),
        ..config()
    };
    let source = Source::work_tree(root).expect("a tree").with_cache(&cache);
    (
        Evaluator::start(config).expect("tw-eval starts"),
        source,
        cache,
    )
}

/// As `tw check`; returns the seconds it takes and how many specs were evaluated.
fn check(root: &Path, cache: &Path, is_strict: bool) -> (f64, usize) {
    let start = Instant::now();
    let (evaluator, source, _cache) = opened(root, cache);
    let specs = source.find_specs(&[String::new()]).expect("specs");
    let outcome: Outcome = match is_strict {
        true => evaluate_strictly(&evaluator, &source, &specs),
        false => evaluate(&evaluator, &source, &specs),
    }
    .expect("an evaluator that runs");
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(outcome.errors, []);
    assert!(outcome.jobs.len() >= specs.len());
    (seconds, evaluator.evaluations())
}

/// As `tw diff`, from the last commit to the work tree.
fn compare(root: &Path, cache: &Path) -> (f64, usize, Compared) {
    let start = Instant::now();
    let (evaluator, head, cache) = opened(root, cache);
    evaluator.wake();
    let base = Source::revision(root, "HEAD").expect("a revision");
    let base = base.with_cache(&cache);
    let old = base.specs_if_any(&[String::new()]).expect("specs");
    let new = head.specs_if_any(&[String::new()]).expect("specs");
    let tree = |source, specs| Tree { source, specs };
    let compared = diff(&evaluator, tree(&base, &old), tree(&head, &new)).expect("a comparison");
    (
        start.elapsed().as_secs_f64(),
        evaluator.evaluations(),
        compared,
    )
}

/// Memory that the process itself has had at most, in MiB.
fn peak_memory_mib() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    round(usage.map_or(0.0, |usage| usage.max_rss() as f64 / 1024.0))
}

/// Numbers that follow from a seed (SplitMix64, Steele and others 2014).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// Writes and commits the repository: teams with a folder a service, and modules that build on each other.
fn generate(root: &Path, specs: usize) {
    let mut numbers = Numbers(SEED);
    fs::create_dir_all(root.join("shared")).expect("mkdir");
    fs::write(root.join("shared/__init__.py"), "").expect("write");
    fs::write(root.join(".gitignore"), "target/\n*.pyc\n").expect("write");
    for number in 0..MODULES {
        let text = module(number, &mut numbers);
        fs::write(root.join(format!("shared/m{number:02}.py")), text).expect("write");
    }
    for number in 0..specs {
        let folder = root.join(format!("team-{:03}/svc-{number:05}", number % TEAMS));
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(folder.join("config.tw"), spec(number, specs, &mut numbers)).expect("write");
    }
    let repository = Repository::init(root).expect("git init");
    let mut index = repository.index().expect("an index");
    index
        .add_all(["*"], IndexAddOption::DEFAULT, None)
        .expect("git add");
    index.write().expect("write");
    let tree = index.write_tree().expect("a tree");
    let tree = repository.find_tree(tree).expect("a tree");
    let who = Signature::now("Bench", "bench@example.com").expect("a signature");
    repository
        .commit(Some("HEAD"), &who, &who, "all specs", &tree, &[])
        .expect("git commit");
}

fn module(number: usize, numbers: &mut Numbers) -> String {
    let mut text = String::from("from tw import HttpCheck, Job, MiB, Resources, SECOND\n\n");
    // The last module stands alone, so that its importers are known.
    if number > 0 && number < MODULES - 1 && numbers.below(2) == 0 {
        let _ = writeln!(
            text,
            "from shared.m{:02} import CPU as CPU_BELOW\n",
            numbers.below(number)
        );
    }
    let (memory, cpu) = (64 + numbers.below(400), 1 + numbers.below(8));
    let _ = write!(
        text,
        r#"MEMORY = {memory} * MiB
CPU = {cpu} / 8
ENVIRONMENT = {{"LOG_LEVEL": "info", "MODULE": "m{number:02}"}}


def service(name, *, replicas=2, memory=MEMORY, **more):
    """A service that answers on HTTP."""
    return Job(
        name=name,
        command=["./server", "--port", "{{port:http}}"],
        replicas=replicas,
        resources=Resources(cpu=CPU, memory=memory),
        ports=["http"],
        env=ENVIRONMENT,
        health=[HttpCheck(port="http", path="/healthz", every=5 * SECOND)],
        **more,
    )
"#
    );
    text
}

fn spec(number: usize, specs: usize, numbers: &mut Numbers) -> String {
    let every = (specs / IMPORTERS).max(1);
    let module = match number.is_multiple_of(every) && number / every < IMPORTERS {
        true => MODULES - 1,
        false => numbers.below(MODULES - 1),
    };
    let mut text = format!("from shared.m{module:02} import service\nfrom tw import export\n\n");
    let replicas = 1 + numbers.below(20);
    let _ = writeln!(
        text,
        "export(service(\"svc-{number:05}\", replicas={replicas}))"
    );
    if numbers.below(4) == 0 {
        let _ = writeln!(
            text,
            "export(service(\"svc-{number:05}-canary\", replicas=1))"
        );
    }
    text
}

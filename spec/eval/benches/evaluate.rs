//! The cost of evaluating one spec of five jobs with a shared module, and beside it that of a plain `python3 config.py`.
//! One JSON line a figure.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::{config, print, round};
use serde_json::json;
use tw_spec::{Cache, Detail, EvalConfig, Evaluator, Source, evaluate};

const ROUNDS: usize = 400;
const PLAIN_ROUNDS: usize = 40;
const BATCH: usize = 600;
const JOBS: usize = 5;
const IN_FLIGHT: usize = 2;

const SHARED: &str = r#"from tw import HttpCheck, Job, MiB, Resources, SECOND


def service(name, replicas=2, memory=256 * MiB, **more):
    return Job(
        name=name,
        command=["./server", "--port", "{port:http}"],
        replicas=replicas,
        resources=Resources(cpu=0.5, memory=memory),
        ports=["http"],
        health=[HttpCheck(port="http", path="/healthz", every=5 * SECOND)],
        **more,
    )
"#;

const SPEC: &str = r#"from shared.base import service
from tw import MiB, export

export(*(service(f"web-{i}", replicas=i + 1, memory=(64 + i) * MiB) for i in range(5)))
"#;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| fs::write(folder.path().join(path), text).expect("write");
    fs::create_dir(folder.path().join("shared")).expect("mkdir");
    write("shared/base.py", SHARED);
    write("config.tw", SPEC);
    let source = Source::work_tree(folder.path()).expect("a tree");

    let start = Instant::now();
    let evaluator = Evaluator::start(config()).expect("tw-eval starts");
    print(&json!({ "bench": "spec.evaluator_start", "ms": milliseconds(start.elapsed()) }));

    let interpreter = interpreter();
    let plain = times(PLAIN_ROUNDS, |_| run_plainly(&interpreter, folder.path()));
    let plain_ms = quantile(&plain, 0.5);
    let figure = |name: &str, times: &[f64]| {
        let p50 = quantile(times, 0.5);
        print(&json!({
            "bench": name, "jobs": JOBS, "p50_ms": p50, "p99_ms": quantile(times, 0.99),
            "python3_process_p50_ms": plain_ms, "ratio_to_python3_process": round(plain_ms / p50),
        }));
    };
    // Text that was never seen: both files are parsed, in a sealed child of their own.
    let cold = times(ROUNDS, |round| {
        write("shared/base.py", &format!("{SHARED}# {round}\n"));
        write("config.tw", &format!("{SPEC}# {round}\n"));
        one(&evaluator, &source);
    });
    figure("spec.evaluate_cold", &cold);
    let known = times(ROUNDS, |round| {
        write("config.tw", &format!("{SPEC}# known {round}\n"));
        one(&evaluator, &source);
    });
    figure("spec.evaluate_with_known_module", &known);
    let kept = tempfile::tempdir().expect("a temporary folder");
    let cached = Evaluator::start(EvalConfig {
        cache: Some(Arc::new(Cache::open(kept.path()))),
        ..config()
    });
    let cached = cached.expect("tw-eval starts");
    figure(
        "spec.evaluate_unchanged",
        &times(ROUNDS, |_| one(&cached, &source)),
    );

    rates(&source, folder.path(), &interpreter);
}

/// Specs a second, two at a time, each with text of its own; beside it two interpreters at a time.
fn rates(source: &Source, folder: &Path, interpreter: &str) {
    let specs: Vec<String> = (0..BATCH)
        .map(|number| format!("spec-{number}.tw"))
        .collect();
    for (number, spec) in specs.iter().enumerate() {
        fs::write(folder.join(spec), format!("{SPEC}# {number}\n")).expect("write");
    }
    let config = EvalConfig {
        in_flight: IN_FLIGHT,
        ..config()
    };
    let evaluator = Evaluator::start(config).expect("tw-eval starts");
    let start = Instant::now();
    let done = evaluator.evaluate_all(source, &specs, Detail::Places);
    let rate = BATCH as f64 / start.elapsed().as_secs_f64();
    assert!(
        done.expect("answers")
            .iter()
            .all(|done| done.error.is_none())
    );
    let start = Instant::now();
    thread::scope(|scope| {
        for _ in 0..IN_FLIGHT {
            scope.spawn(|| (0..PLAIN_ROUNDS).for_each(|_| run_plainly(interpreter, folder)));
        }
    });
    let plain = (IN_FLIGHT * PLAIN_ROUNDS) as f64 / start.elapsed().as_secs_f64();
    print(&json!({
        "bench": "spec.evaluate_all", "in_flight": IN_FLIGHT, "specs": BATCH, "specs_per_second": round(rate),
        "python3_processes_per_second": round(plain), "ratio_to_python3_process": round(rate / plain),
    }));
}

fn one(evaluator: &Evaluator, source: &Source) {
    let outcome = evaluate(evaluator, source, &["config.tw".to_owned()]).expect("an answer");
    assert_eq!((outcome.jobs.len(), outcome.errors.len()), (JOBS, 0));
}

/// Runs the same spec under plain Python with the same library.
fn run_plainly(interpreter: &str, folder: &Path) {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../stdlib_py");
    let paths = std::env::join_paths([library.as_path(), folder]).expect("paths");
    let ended = Command::new(interpreter)
        .arg("config.tw")
        .current_dir(folder)
        .env("PYTHONPATH", paths)
        .stdout(Stdio::null())
        .status()
        .expect("python3 runs");
    assert!(ended.success());
}

/// The interpreter itself, where `python3` is a script that looks for one.
fn interpreter() -> String {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .stderr(Stdio::null())
        .output();
    String::from_utf8(asked.expect("python3 runs").stdout)
        .expect("a path")
        .trim()
        .to_owned()
}

/// Milliseconds of each round, sorted.
fn times(rounds: usize, mut run: impl FnMut(usize)) -> Vec<f64> {
    run(rounds);
    let mut times: Vec<f64> = (0..rounds)
        .map(|round| {
            let start = Instant::now();
            run(round);
            milliseconds(start.elapsed())
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times
}

fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * fraction).round() as usize]
}

fn milliseconds(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1000.0)
}

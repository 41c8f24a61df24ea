//! The cost of evaluating one spec, and beside it that of a plain `python3 config.py`. One JSON line a figure.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tw_spec::{Detail, EvalConfig, Evaluator, Source, evaluate};

const ROUNDS: usize = 200;
const PLAIN_ROUNDS: usize = 40;
const BATCH: usize = 400;

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

export(*(service(f"web-{i}", replicas=i + 1, memory=(64 + i) * MiB) for i in range(10)))
"#;

fn main() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("shared")).expect("mkdir");
    fs::write(folder.path().join("shared/base.py"), SHARED).expect("write");
    fs::write(folder.path().join("config.tw"), SPEC).expect("write");
    let source = Source::work_tree(folder.path()).expect("a tree");
    let config = EvalConfig {
        program: Some(env!("CARGO_BIN_EXE_tw-eval").into()),
        ..EvalConfig::default()
    };

    let start = Instant::now();
    let evaluator = Evaluator::start(config).expect("tw-eval starts");
    print(json!({ "bench": "spec.evaluator_start", "ms": milliseconds(start.elapsed()) }));

    let interpreter = interpreter();
    let sealed = times(ROUNDS, || one(&evaluator, &source));
    let plain = times(PLAIN_ROUNDS, || run_plainly(&interpreter, folder.path()));
    let (sealed_ms, plain_ms) = (quantile(&sealed, 0.5), quantile(&plain, 0.5));
    print(json!({
        "bench": "spec.evaluate", "jobs": 10, "p50_ms": sealed_ms, "p99_ms": quantile(&sealed, 0.99),
        "python3_process_p50_ms": plain_ms, "ratio_to_python3_process": round(plain_ms / sealed_ms),
    }));

    let specs = vec!["config.tw".to_owned(); BATCH];
    let start = Instant::now();
    evaluator
        .evaluate_all(&source, &specs, Detail::Places)
        .expect("an answer");
    let rate = BATCH as f64 / start.elapsed().as_secs_f64();
    print(json!({
        "bench": "spec.evaluate_all", "in_flight": 2, "specs": BATCH, "specs_per_second": round(rate),
        "ratio_to_python3_process": round(rate * plain_ms / 1000.0),
    }));
}

fn one(evaluator: &Evaluator, source: &Source) {
    let outcome = evaluate(evaluator, source, &["config.tw".to_owned()]).expect("an answer");
    assert_eq!((outcome.jobs.len(), outcome.errors.len()), (10, 0));
}

/// The interpreter itself, where `python3` is a script that looks for one.
fn interpreter() -> String {
    let asked = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output();
    String::from_utf8(asked.expect("python3 runs").stdout)
        .expect("a path")
        .trim()
        .to_owned()
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

fn times(rounds: usize, mut run: impl FnMut()) -> Vec<f64> {
    run();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            run();
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

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
fn print(figure: Value) {
    println!("{figure}");
}

//! What the benches share: the evaluator, and how a figure is printed.

use serde_json::Value;
use tw_spec::EvalConfig;

/// How specs are evaluated in a bench: with the program that was built for it, keeping nothing.
pub(crate) fn config() -> EvalConfig {
    EvalConfig {
        program: Some(env!("CARGO_BIN_EXE_tw-eval").into()),
        ..EvalConfig::default()
    }
}

pub(crate) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[expect(clippy::print_stdout, reason = "a bench prints its figures")]
pub(crate) fn print(figure: &Value) {
    println!("{figure}");
}

//! Evaluates a Starlark file again and again and prints microseconds a round: p50 and p99.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use starlark::environment::{FrozenModule, Globals, Module};
use starlark::eval::{Evaluator, ReturnFileLoader};
use starlark::syntax::{AstModule, Dialect};

const ROUNDS: usize = 2000;

fn main() -> anyhow::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let folder = Path::new(&folder);
    let shared = frozen(&std::fs::read_to_string(folder.join("shared.star"))?)?;
    let text = std::fs::read_to_string(folder.join("config.star"))?;
    let mut times = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let json = evaluated(&text, &shared)?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        anyhow::ensure!(json.len() > 100, "too short an answer: {json}");
    }
    times.sort_by(f64::total_cmp);
    println!("{:.1} {:.1}", times[ROUNDS / 2], times[ROUNDS * 99 / 100]);
    Ok(())
}

fn frozen(text: &str) -> anyhow::Result<FrozenModule> {
    let ast = AstModule::parse("shared.star", text.to_owned(), &Dialect::Standard)
        .map_err(starlark::Error::into_anyhow)?;
    let module = Module::new();
    Evaluator::new(&module)
        .eval_module(ast, &Globals::standard())
        .map_err(starlark::Error::into_anyhow)?;
    Ok(module.freeze()?)
}

fn evaluated(text: &str, shared: &FrozenModule) -> anyhow::Result<String> {
    let ast = AstModule::parse("config.star", text.to_owned(), &Dialect::Standard)
        .map_err(starlark::Error::into_anyhow)?;
    let modules = HashMap::from([("shared.star", shared)]);
    let loader = ReturnFileLoader { modules: &modules };
    let module = Module::new();
    let mut evaluator = Evaluator::new(&module);
    evaluator.set_loader(&loader);
    let value = evaluator
        .eval_module(ast, &Globals::standard())
        .map_err(starlark::Error::into_anyhow)?;
    value.to_json()
}

//! A spec's result depends on its closure alone: not on the order, the neighbours, the path, the hashes of text, the
//! layout of memory, or on what was kept.

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use proptest::test_runner::Config;
use tw_spec::{Cache, EvalConfig, Evaluator, Outcome, Source, evaluate};

use crate::support::{Repo, config};

const MODULES: usize = 4;

/// A spec as drawn: which modules it imports, whether it changes one of them, how many jobs it has.
#[derive(Clone, Debug)]
struct Drawn {
    imports: Vec<usize>,
    patches: Option<usize>,
    jobs: usize,
}

fn drawn() -> impl Strategy<Value = Drawn> {
    let imports = proptest::collection::vec(0..MODULES, 1..4);
    (imports, proptest::option::of(0..MODULES), 1..4_usize).prop_map(|(imports, patches, jobs)| {
        Drawn {
            imports,
            patches,
            jobs,
        }
    })
}

impl Drawn {
    fn text(&self, name: usize) -> String {
        let mut text = String::from("from tw import Job, MiB, Resources, export\n");
        let mut values = Vec::new();
        if let Some(module) = self.patches {
            text += &format!(
                "import shared.m{module}\nshared.m{module}.VALUE = 999\nshared.m{module}.TABLE[\"patched\"] = \"{name}\"\n"
            );
        }
        for module in &self.imports {
            text +=
                &format!("from shared.m{module} import TABLE as t{module}, VALUE as v{module}\n");
            values.push(format!("v{module}"));
            text +=
                &format!("tables = globals().get(\"tables\", []) + sorted(t{module}.items())\n");
        }
        text += &format!(
            "for index in range({}):\n    export(Job(name=f\"job-{name}-{{index}}\", command=\"x\", resources=Resources(memory=({}) % 64 * MiB + MiB), env={{k: str(v) for k, v in tables}}))\n",
            self.jobs,
            values.join(" + ")
        );
        text
    }
}

fn write(repo: &Repo, specs: &[Drawn], values: &[u32]) {
    for (number, value) in values.iter().enumerate() {
        let import = match number {
            0 => String::new(),
            _ => format!("from shared import m{}\n", number - 1),
        };
        let text = format!("{import}VALUE = {value}\nTABLE = {{\"m{number}\": VALUE}}\n");
        repo.write(&format!("shared/m{number}.py"), &text);
    }
    for (number, spec) in specs.iter().enumerate() {
        repo.write(&format!("s{number}/config.tw"), &spec.text(number));
    }
}

fn one_by_one(evaluator: &Evaluator, source: &Source, specs: &[String]) -> Vec<String> {
    let alone = specs.iter().map(|spec| {
        let outcome = evaluate(evaluator, source, std::slice::from_ref(spec));
        results(&outcome.expect("an evaluator that runs"))
    });
    let mut alone: Vec<String> = alone.flatten().collect();
    alone.sort();
    alone
}

/// What came of each spec, without the order.
fn results(outcome: &Outcome) -> Vec<String> {
    let jobs = outcome.jobs.iter().map(|job| {
        let spec = serde_json::to_string(&job.spec).expect("JSON");
        format!(
            "{} {} {spec} {:?} {:?}",
            job.file, job.source, job.closure, job.provenance
        )
    });
    let errors = outcome.errors.iter().map(ToString::to_string);
    let mut all: Vec<String> = jobs.chain(errors).collect();
    all.sort();
    all
}

fn together(evaluator: &Evaluator, source: &Source, specs: &[String]) -> Vec<String> {
    results(&evaluate(evaluator, source, specs).expect("an evaluator that runs"))
}

static PLAIN: LazyLock<Evaluator> = LazyLock::new(|| Evaluator::start(config()).expect("starts"));
static OTHER: LazyLock<Evaluator> = LazyLock::new(|| {
    let other = EvalConfig {
        hash_seed: 4711,
        heap_shift: 523,
        in_flight: 3,
        ..config()
    };
    Evaluator::start(other).expect("starts")
});

proptest! {
    #![proptest_config(Config { cases: 6, failure_persistence: None, ..Config::default() })]

    #[test]
    fn evaluation_equals_evaluation(
        specs in proptest::collection::vec(drawn(), 2..5),
        values in proptest::collection::vec(0..50_u32, MODULES),
        changed in 0..MODULES,
        seed in any::<u64>(),
    ) {
        let (repo, elsewhere) = (Repo::new(), Repo::new());
        let folder = tempfile::tempdir().expect("a folder");
        write(&repo, &specs, &values);
        write(&elsewhere, &specs, &values);
        let (source, other_path) = (repo.work_tree(), elsewhere.work_tree());
        let files = source.find_specs(&[String::new()]).expect("specs");
        let mut shuffled = files.clone();
        shuffled.rotate_left(seed as usize % files.len());
        shuffled.swap(0, (seed >> 32) as usize % files.len());

        let alone = one_by_one(&PLAIN, &source, &files);
        prop_assert_eq!(&together(&PLAIN, &source, &files), &alone, "beside others");
        prop_assert_eq!(&together(&PLAIN, &source, &shuffled), &alone, "in another order");
        prop_assert_eq!(&together(&OTHER, &source, &files), &alone, "with another seed and layout");
        prop_assert_eq!(&together(&PLAIN, &other_path, &files), &alone, "at another path");

        let with_cache = || {
            let cache = Arc::new(Cache::open(folder.path()));
            let source = repo.work_tree().with_cache(&cache);
            let config = EvalConfig { cache: Some(cache), ..config() };
            (Evaluator::start(config).expect("starts"), source)
        };
        for round in ["filling the cache", "from the cache"] {
            let (evaluator, source) = with_cache();
            prop_assert_eq!(&together(&evaluator, &source, &files), &alone, "{}", round);
        }
        let mut values = values;
        values[changed] += 1;
        write(&repo, &specs, &values);
        let (evaluator, source) = with_cache();
        let after = one_by_one(&PLAIN, &source, &files);
        prop_assert_eq!(&together(&evaluator, &source, &files), &after, "after a change");
    }
}

//! Policy over evaluated jobs.

use crate::support::{Repo, evaluate_all, evaluator};
use tw_spec::{PolicyReview, RenderOptions, evaluate, review, review_some};

const RULES: &str = "from tw import GiB, Job\nfrom tw.policy import forbid, policy, require, warn\n\n\n@policy(owner=\"platform\")\ndef has_owner(job: Job) -> None:\n    require(job.owner, \"every job names its owner\")\n\n\n@policy(owner=\"platform\")\ndef modest(job: Job) -> None:\n    forbid(job.resources.memory > 1 * GiB, \"at most 1 GiB\")\n    warn(job.replicas == 1, \"one task alone\", field=\"replicas\")\n";

fn reviewed(repo: &Repo) -> PolicyReview {
    let evaluator = evaluator();
    let source = repo.work_tree();
    let outcome = evaluate_all(evaluator, &source);
    assert_eq!(outcome.errors, []);
    review(evaluator, &source, &outcome.jobs).expect("an evaluator that runs")
}

/// Errors and findings as a person sees them.
fn shown(repo: &Repo, review: &PolicyReview) -> String {
    review.render(&repo.work_tree(), RenderOptions::default())
}

#[test]
fn findings_name_policy_owner_job_field_and_the_authors_line() {
    let repo = Repo::with(&[
        ("POLICY.py", RULES),
        (
            "shared/base.py",
            "from tw import GiB, Job, Resources\n\n\ndef big(name):\n    return Job(\n        name=name,\n        command=\"sleep 1\",\n        resources=Resources(\n            memory=2 * GiB,\n        ),\n    )\n",
        ),
        (
            "web/config.tw",
            "from shared.base import big\nfrom tw import export\n\nexport(big(\"web\").replace(replicas=2))\n",
        ),
        (
            "small/config.tw",
            "from tw import Job, export\nexport(Job(name=\"small\", command=\"sleep 1\", owner=\"a-team\"))\n",
        ),
    ]);
    insta::assert_snapshot!(shown(&repo, &reviewed(&repo)));
}

#[test]
fn deeper_folders_add_and_never_remove() {
    let deeper = "from tw.policy import forbid, policy\nimport tw.policy\n\ntw.policy._rules.clear()\ntw.policy.require = lambda *a, **b: None\n\n\n@policy(owner=\"web\")\ndef two(job):\n    forbid(job.replicas < 2, \"at least two\")\n";
    let repo = Repo::with(&[
        ("POLICY.py", RULES),
        ("web/POLICY.py", deeper),
        (
            "web/config.tw",
            "from tw import Job, export\nexport(Job(name=\"web\", command=\"sleep 1\"))\n",
        ),
        (
            "other/config.tw",
            "from tw import Job, export\nexport(Job(name=\"other\", command=\"sleep 1\"))\n",
        ),
    ]);
    let review = reviewed(&repo);
    let found: Vec<String> = review
        .report
        .findings
        .iter()
        .map(|found| format!("{} {} {}", found.job, found.level, found.policy.name))
        .collect();
    assert_eq!(
        found,
        [
            "other require has_owner",
            "other warn modest",
            "web require has_owner",
            "web warn modest",
            "web forbid two",
        ]
    );
}

#[test]
fn a_spec_cannot_reach_the_policies() {
    let spec = "import POLICY\nimport tw.policy\nfrom tw import Job, export\n\ntw.policy.require = POLICY.require = POLICY.forbid = lambda *a, **b: None\ntw.policy._rules.clear()\nPOLICY.has_owner.__code__ = (lambda job: None).__code__\nJob.owner = \"me\"\n\nexport(Job(name=\"web\", command=\"sleep 1\"))\n";
    let repo = Repo::with(&[
        ("POLICY.py", RULES),
        ("web/config.tw", spec),
        // Not a file of policies: it stands beside one, with its name in other letters.
        ("web/policy.py", "raise SystemExit\n"),
    ]);
    let review = reviewed(&repo);
    assert_eq!(review.report.policies.len(), 2);
    assert!(review.report.refuses());
}

#[test]
fn a_policy_that_fails_is_never_a_pass() {
    let job = (
        "config.tw",
        "from tw import Job, export\nexport(Job(name=\"web\", command=\"sleep 1\"))\n",
    );
    let raising = "from tw.policy import policy, require\n\n\n@policy(owner=\"ops\")\ndef raises(job):\n    return job.onwer\n\n\n@policy(owner=\"ops\")\ndef leaves(job):\n    raise SystemExit(0)\n\n\n@policy(owner=\"ops\")\ndef speaks(job):\n    require(False, 7)\n";
    let repo = Repo::with(&[job, ("POLICY.py", raising)]);
    let review = reviewed(&repo);
    insta::assert_snapshot!(shown(&repo, &review));
    assert!(review.report.refuses());
    for broken in [
        "def x(:\n",
        "from tw.policy import policy\n\n@policy\ndef x(job):\n    pass\n",
        "from tw.policy import policy\n\n@policy(owner=\"\")\ndef x(job):\n    pass\n",
        "from tw.policy import policy\n\n@policy(owner=\"ops\")\ndef x(job):\n    while True:\n        pass\n",
        "open(\"/etc/passwd\")\n",
        "import sys\nsys.exit(0)\n",
        "from tw.policy import require\nrequire(True, \"outside\")\n",
        "def never_asked(job):\n    raise ValueError\n",
    ] {
        let review = reviewed(&Repo::with(&[job, ("POLICY.py", broken)]));
        assert_eq!(review.errors.len(), 1, "{broken}: {review:?}");
    }
}

const FEW: &str = "from tw.policy import folder_policy, require\n\n\n@folder_policy(owner=\"ops\")\ndef few(jobs):\n    tasks = sum(job.replicas for job in jobs)\n    require(tasks <= 4, f\"{tasks} tasks are more than 4\")\n";

fn sleeper(name: &str, replicas: u32) -> String {
    format!(
        "from tw import Job, export\nexport(Job(name=\"{name}\", command=\"sleep 1\", replicas={replicas}))\n"
    )
}

/// What is said of `asked` alone, as `job level message`.
fn said_of_some(repo: &Repo, asked: &[&str]) -> Vec<String> {
    let evaluator = evaluator();
    let source = repo.work_tree();
    let asked: Vec<String> = asked.iter().map(|path| (*path).to_owned()).collect();
    let outcome = evaluate(evaluator, &source, &asked).expect("an evaluator that runs");
    let review = review_some(evaluator, &source, &outcome.jobs).expect("an evaluator that runs");
    let errors = review.errors.iter().map(|error| error.message.clone());
    let findings = review
        .report
        .findings
        .iter()
        .map(|found| format!("{} {} {}", found.job, found.level, found.message));
    errors.chain(findings).collect()
}

#[test]
fn a_policy_over_a_folder_sees_all_of_its_jobs_whichever_are_asked_about() {
    let (web, api, other) = (sleeper("web", 3), sleeper("api", 2), sleeper("other", 9));
    let repo = Repo::with(&[
        ("shop/POLICY.py", FEW),
        ("shop/web/config.tw", &web),
        ("shop/api/config.tw", &api),
        ("other/config.tw", &other),
    ]);
    let of_web = "web require 5 tasks are more than 4";
    assert_eq!(said_of_some(&repo, &["shop/web/config.tw"]), [of_web]);
    assert_eq!(said_of_some(&repo, &["other/config.tw"]), [""; 0]);
    let all = reviewed(&repo);
    assert_eq!(all.report.findings.len(), 2, "each of the folder's jobs");
    let text = shown(&repo, &all);
    assert!(text.contains("job: api and web"), "{text}");
    repo.write("shop/api/config.tw", &sleeper("api", 1));
    assert_eq!(said_of_some(&repo, &["shop/web/config.tw"]), [""; 0]);
    repo.write("shop/api/config.tw", "export(\n");
    let blind = said_of_some(&repo, &["shop/web/config.tw"]);
    assert_eq!(
        blind.len(),
        1,
        "a policy that cannot see all is no pass: {blind:?}"
    );
    assert!(
        blind[0].contains("shop/api/config.tw has a mistake"),
        "{blind:?}"
    );
}

#[test]
fn a_policy_over_a_folder_may_name_the_job_at_fault() {
    let naming = "from tw.policy import folder_policy, forbid\n\n\n@folder_policy(owner=\"ops\")\ndef one_port(jobs):\n    known = {}\n    for job in jobs:\n        port = job.env.get(\"PORT\")\n        forbid(port in known, f\"{known.get(port)} has port {port}, too\", job=job, field=\"env.PORT\")\n        known[port] = job.name\n";
    let job = |name: &str, port: u16| {
        format!(
            "from tw import Job, export\nexport(Job(name=\"{name}\", command=\"sleep 1\", env={{\"PORT\": \"{port}\"}}))\n"
        )
    };
    let (a, b, c) = (job("a", 80), job("b", 81), job("c", 80));
    let repo = Repo::with(&[
        ("POLICY.py", naming),
        ("a.tw", &a),
        ("b.tw", &b),
        ("c.tw", &c),
    ]);
    let of_c = "c forbid a has port 80, too";
    assert_eq!(said_of_some(&repo, &["a.tw"]), [of_c]);
    assert_eq!(said_of_some(&repo, &["c.tw"]), [of_c]);
    let text = shown(&repo, &reviewed(&repo));
    assert!(text.contains("c.tw:2:"), "{text}");
}

#[test]
fn a_policy_that_remembers_jobs_sees_all_of_them() {
    let counting = "from tw.policy import policy, require\n\nseen = []\n\n\n@policy(owner=\"ops\")\ndef few(job):\n    seen.append(job.name)\n    require(len(seen) < 3, f\"{len(seen)} jobs\")\n";
    let jobs = ["a", "b", "c"].map(|name| (format!("{name}/config.tw"), sleeper(name, 1)));
    let mut files = vec![("POLICY.py", counting)];
    files.extend(
        jobs.iter()
            .map(|(path, text)| (path.as_str(), text.as_str())),
    );
    let repo = Repo::with(&files);
    assert_eq!(said_of_some(&repo, &["a/config.tw"]), ["c require 3 jobs"]);
}

#[test]
fn a_policy_over_a_folder_that_fails_is_never_a_pass() {
    let job = sleeper("web", 1);
    for (broken, message) in [
        ("    return jobs.total", "the policy failed: "),
        ("    raise SystemExit(0)", "the policy failed: "),
        (
            "    require(False, \"x\", job=jobs[0].replace(name=\"other\"))",
            "which is none of the folder's",
        ),
    ] {
        let text = format!(
            "from tw.policy import folder_policy, require\n\n\n@folder_policy(owner=\"ops\")\ndef x(jobs):\n{broken}\n"
        );
        let repo = Repo::with(&[("POLICY.py", &text), ("config.tw", &job)]);
        let said = said_of_some(&repo, &["config.tw"]);
        assert_eq!(said.len(), 1, "{broken}: {said:?}");
        assert!(said[0].contains("broken"), "{broken}: {said:?}");
        assert!(said[0].contains(message), "{broken}: {said:?}");
    }
}

//! Policy over evaluated jobs.

use crate::support::{Repo, evaluate_all, evaluator};
use tw_spec::{PolicyReview, RenderOptions, review};

const RULES: &str = "from tw import GiB, Job\nfrom tw.policy import forbid, policy, require, warn\n\n\n@policy(owner=\"platform\")\ndef has_owner(job: Job) -> None:\n    require(job.owner, \"every job names its owner\")\n\n\n@policy(owner=\"platform\")\ndef modest(job: Job) -> None:\n    forbid(job.resources.memory > 1 * GiB, \"at most 1 GiB\")\n    warn(job.replicas == 1, \"one task alone\", field=\"replicas\")\n";

fn reviewed(repo: &Repo) -> PolicyReview {
    let evaluator = evaluator();
    let source = repo.work_tree();
    let outcome = evaluate_all(&evaluator, &source);
    assert_eq!(outcome.errors, []);
    review(&evaluator, &source, &outcome.jobs).expect("an evaluator that runs")
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

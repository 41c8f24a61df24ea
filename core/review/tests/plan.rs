//! A plan of the real scheduler as its reader sees it in each format.

use serde_json::{Value, json};
use tw_model::{
    Bytes, Capacity, Cause, ChangedModule, Cores, JobSpec, MachineFacts, Millis, SourceRef,
};
use tw_review::{PlanShown, html, markdown, of_plan, terminal};
use tw_scheduler::simulate::{Rehearsal, Stage};
use tw_scheduler::{Plan, Submission, SubmittedJob};

fn machine(number: usize) -> Stage {
    Stage {
        id: format!("m{number}").parse().unwrap(),
        capacity: Capacity {
            cpu: Cores(4000),
            memory: Bytes::gib(8),
            disk: Bytes::gib(50),
            bandwidth: Bytes::mib(100),
            port_first: 20_000,
            port_last: 20_099,
        },
        facts: MachineFacts::default(),
    }
}

/// A job whose tasks take two cores each.
fn job(name: &str, fields: Value) -> SubmittedJob {
    let mut spec = json!({
        "name": name, "command": ["serve"], "owner": format!("{name}-team"),
        "resources": {"cpu_millicores": 2000, "memory_bytes": 64 << 20, "disk_bytes": 1 << 20},
        "rollout": {"stages": [1, "100%"], "healthy_for_ms": 1000},
    });
    let fields = fields.as_object().unwrap().clone();
    spec.as_object_mut().unwrap().extend(fields);
    SubmittedJob {
        spec: serde_json::from_value::<JobSpec>(spec).unwrap(),
        source: SourceRef {
            file: format!("{name}/config.tw"),
            line: 3,
            revision: String::new(),
        },
    }
}

fn submission(jobs: &[SubmittedJob]) -> Submission {
    Submission {
        jobs: jobs.to_vec(),
        ..Submission::default()
    }
}

/// A cluster of two machines on which these jobs run.
fn running(jobs: &[SubmittedJob]) -> Rehearsal {
    let mut rehearsal = Rehearsal::new(&[machine(0), machine(1)]);
    let wanted = submission(jobs);
    let plan = rehearsal.plan(&wanted).unwrap();
    rehearsal.submit(wanted, &plan).unwrap();
    for job in jobs {
        rehearsal.perform(&job.spec.id(), Millis::minutes(2));
    }
    rehearsal
}

/// All formats, one under the other; digests follow from specs and are left out.
fn shown(plan: &Plan) -> String {
    let review = of_plan(plan, PlanShown::default());
    let terminal = anstream::adapter::strip_str(&terminal(&review)).to_string();
    let markdown = markdown(&review, "tw plan");
    let json = serde_json::to_string_pretty(&plan.jobs).unwrap();
    let page = html(&review);
    format!("{terminal}\n======== Markdown\n\n{markdown}\n======== HTML\n\n{page}\n======== JSON, the jobs\n\n{json}\n")
        .replace(&plan.digest, "DIGEST")
}

#[test]
fn a_job_that_takes_the_room_of_others_says_whose() {
    let rehearsal = running(&[job(
        "sort",
        json!({"kind": "batch", "replicas": 4, "priority": 20}),
    )]);
    let plan = rehearsal
        .plan(&submission(&[job(
            "web",
            json!({
                "replicas": 2, "priority": 80, "at_most_one": true, "failover": {"within_ms": 60_000},
            }),
        )]))
        .unwrap();
    insta::assert_snapshot!(shown(&plan));
}

#[test]
fn a_job_without_room_names_the_smallest_change_that_helps() {
    let rehearsal = running(&[job("sort", json!({"replicas": 3}))]);
    let plan = rehearsal
        .plan(&submission(&[job("web", json!({"replicas": 2}))]))
        .unwrap();
    insta::assert_snapshot!(shown(&plan));
}

#[test]
fn a_change_names_its_cause_and_hides_what_looks_like_a_credential() {
    let env = |token: &str, region: &str| json!({"env": {"TOKEN": token, "REGION": region}});
    let jobs = |token: &str, region: &str| ["api", "web"].map(|name| job(name, env(token, region)));
    let rehearsal = running(&jobs("Hush0ne", "north"));
    let mut plan = rehearsal
        .plan(&submission(&jobs("HushTw0", "south")))
        .unwrap();
    let digest = plan.digest.clone();
    let module = ChangedModule {
        file: "shared/env.py".to_owned(),
        importers: 212,
        changed_jobs: 2,
    };
    let cause = |path: &str| Cause {
        file: "shared/env.py".to_owned(),
        line: Some(if path == "env.REGION" { 3 } else { 7 }),
        commit: Some("e88f3d0f74564e687cf0afdc6217c732d64d2557".to_owned()),
    };
    plan.explain(|_, path| Some(cause(path)), vec![module]);
    assert_eq!(plan.digest, digest);
    let all = shown(&plan.masked());
    assert!(!all.contains("Hush"), "{all}");
    insta::assert_snapshot!(all);
}

//! Tasks that run only while the controller grants it.

use std::time::Duration;

use serde_json::json;
use tw_model::Phase;

use crate::machine::{Machine, assignment};

#[tokio::test]
async fn what_waits_to_start_begins_only_once_all_is_told_that_is_to_run() {
    let machine = Machine::new();
    machine.controller.grant();
    let spec = json!({
        "command": ["sleep", "60"], "at_most_one": true, "failover": {"within_ms": 20_000},
    });
    let (replaced, wanted) = (
        assignment("replaced", spec.clone()),
        assignment("wanted", spec),
    );
    machine.assign(&replaced).await;
    machine.assign(&wanted).await;
    // Heartbeats go out ten times a second meanwhile, and each of them is answered with a grant.
    tokio::time::sleep(Duration::from_secs(1)).await;
    machine.snapshot(std::slice::from_ref(&wanted)).await;
    machine.running(&wanted.task.id).await;
    let runs = |phase: &Phase| matches!(phase, Phase::Running { .. });
    let said = machine.controller.reports_of(&replaced.task.id);
    assert!(!said.iter().any(runs), "{said:?}");
    assert!(!machine.task_folder(&replaced.task.id).exists());
}

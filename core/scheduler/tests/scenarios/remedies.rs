//! Tasks that their checks find out of bounds.

use serde_json::json;
use tw_model::{JobSpec, Millis, Phase, Remedy, TaskState};

use crate::cluster::{Cluster, spec};

fn counted(replicas: u32, remedy: Option<&str>) -> JobSpec {
    spec(json!({
        "name": "web", "command": ["web"], "replicas": replicas,
        "resources": {"cpu_millicores": 500, "memory_bytes": 256 << 20, "disk_bytes": 1 << 20},
        "health": [{
            "type": "metric", "metric": "errors_total", "file": "/tmp/metrics",
            "above_millionths": 5_000_000, "remedy": remedy,
        }],
        "restart": {"delay_ms": 4000, "delay_max_ms": 16_000},
    }))
}

fn fall_ill(cluster: &mut Cluster, index: u32, remedy: Option<Remedy>) {
    let task = cluster.task("web", index).id.clone();
    let detail = "errors_total is 9, more than 5".to_owned();
    let phase = Phase::Health {
        healthy: false,
        detail,
        remedy,
    };
    cluster.report(&task, phase);
}

#[test]
fn a_task_out_of_bounds_is_ended_and_starts_again_where_it_was_after_a_wait() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[counted(1, Some("restart"))]);
    cluster.settle("web");
    let first = cluster.task("web", 0).clone();
    fall_ill(&mut cluster, 0, Some(Remedy::Restart));
    let row = cluster.state.task(&first.id).unwrap();
    assert_eq!(row.state, TaskState::Stopping);
    assert!(row.reason.contains("more than 5"), "{}", row.reason);
    cluster.pass(Millis::seconds(1));
    let next = cluster.task("web", 0).clone();
    assert_ne!(next.id, first.id);
    assert_eq!(
        (next.state, next.restarts, next.failures),
        (TaskState::Pending, 1, 1)
    );
    cluster.until("it serves again", |cluster| cluster.serving("web") == 1);
    assert_eq!(cluster.task("web", 0).machine, first.machine);
}

#[test]
fn a_task_may_ask_for_another_machine() {
    let mut cluster = Cluster::new(&[(8, 8192), (8, 8192)]);
    cluster.submit(&[counted(1, Some("move"))]);
    cluster.settle("web");
    let first = cluster.task("web", 0).clone();
    fall_ill(&mut cluster, 0, Some(Remedy::Move));
    cluster.pass(Millis::seconds(1));
    cluster.until("it serves again", |cluster| cluster.serving("web") == 1);
    assert_ne!(cluster.task("web", 0).machine, first.machine);
}

#[test]
fn a_bad_bound_does_not_end_all_tasks_at_once() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[counted(4, Some("restart"))]);
    cluster.settle("web");
    for index in 0..4 {
        fall_ill(&mut cluster, index, Some(Remedy::Restart));
    }
    let stopping = |cluster: &Cluster| {
        let rows = cluster.job("web").tasks();
        rows.filter(|row| row.state == TaskState::Stopping).count()
    };
    assert_eq!(stopping(&cluster), 1);
    // Meanwhile the others pass their checks again, and are left alone.
    cluster.until("all serve", |cluster| cluster.serving("web") == 4);
    let restarts = (0..4).map(|index| cluster.task("web", index).restarts);
    assert_eq!(restarts.sum::<u32>(), 1);
}

#[test]
fn a_task_that_asks_for_nothing_is_only_unhealthy() {
    let mut cluster = Cluster::new(&[(8, 8192)]);
    cluster.submit(&[counted(1, None)]);
    cluster.settle("web");
    fall_ill(&mut cluster, 0, None);
    let row = cluster.task("web", 0);
    assert_eq!((row.state, row.healthy), (TaskState::Running, Some(false)));
}

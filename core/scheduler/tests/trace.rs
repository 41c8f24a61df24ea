//! Traces as people have them: what is read, what is named, and where the tasks go.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tw_model::{Requires, Spread};
use tw_scheduler::simulate::{
    Apart, TraceError, TracePlacement, place_trace, read_machines, read_tasks,
};

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn place(machines: &str, tasks: &str) -> TracePlacement {
    let machines = read_machines(lines(machines)).unwrap();
    let tasks = read_tasks(lines(tasks)).unwrap();
    assert_eq!((machines.bad, tasks.bad), (vec![], vec![]));
    place_trace(&machines.rows, &tasks.rows, &|| Duration::ZERO)
}

#[test]
fn google_task_events_are_read_as_they_are() {
    let text = "0,2,341,0,415,0,user,3,9,,,,\n\
        0,,341,1,415,0,user,3,9,0.125,0.07446,0.0004244,0\n\
        5,,341,1,415,1,user,3,9,0.125,0.07446,0.0004244,0\n\
        7,,342,0,,0,user,3,2,0.0625,9.537e-07,0.0004,1\n\
        8,,342,0,,x,user,3,2,0.0625,0.1,0.0004,1\n\
        9,,342\n";
    let read = read_tasks(lines(text)).unwrap();
    assert_eq!(read.rows.len(), 2);
    assert_eq!((read.rows[0].cpu, read.rows[0].apart), (0.125, Apart::No));
    assert_eq!(
        (read.rows[1].memory, read.rows[1].apart),
        (9.537e-07, Apart::Machine)
    );
    assert_eq!(
        (read.rows[0].job, read.rows[1].job, read.rows[1].priority),
        (0, 1, 2)
    );
    let bad: Vec<String> = read.bad.iter().map(ToString::to_string).collect();
    assert_eq!(
        bad,
        [
            "line 1: the CPU request is missing",
            "line 5: the event type is 'x', which is not a whole number",
            "line 6: it has 3 columns, and task events have 13",
        ]
    );
}

#[test]
fn broken_rows_are_named_and_the_rest_is_used() {
    let machines = read_machines(lines(
        "cpu,memory,rack,count\n4,16,a,2\n-1,16,a,1\n\n4,NaN,a,1\nfour,16,a,1\n0,16,b,1\n4,16,b,0\n4,16,b,1.5\n8,32,b,1",
    ))
    .unwrap();
    assert_eq!(machines.rows.len(), 2);
    let bad: Vec<String> = machines.bad.iter().map(ToString::to_string).collect();
    assert_eq!(
        bad,
        [
            "line 3: cpu is -1, which nothing can have",
            "line 5: memory is NaN, which nothing can have",
            "line 6: cpu is 'four', which is not a number",
            "line 7: cpu is 0, and a machine has some",
            "line 8: count is '0', which is not a whole number from 1 to 10000000",
            "line 9: count is '1.5', which is not a whole number from 1 to 10000000",
        ]
    );
    let tasks = read_tasks(lines(
        "job,cpu,memory,count,anti_affinity,priority\nweb,1,2,3,maybe,1\n,1,2,3,true,1\nweb,1,2,3,true,high\nweb,1,2,3,true,7",
    ))
    .unwrap();
    assert_eq!((tasks.rows.len(), tasks.bad.len()), (1, 3));
    assert_eq!(
        (
            tasks.rows[0].count,
            tasks.rows[0].apart,
            tasks.rows[0].priority
        ),
        (3, Apart::Machine, 7)
    );
}

#[test]
fn files_that_are_something_else_are_refused() {
    assert_eq!(read_machines(lines("")), Err(TraceError::Empty));
    let refused = read_machines(lines("cpu,ram\n1,2")).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "its first line names no column 'memory'; it says: cpu,ram"
    );
    let refused = read_tasks(lines("hello world")).unwrap_err();
    assert!(refused.to_string().contains("hello world"), "{refused}");
}

#[test]
fn tasks_fill_the_machines_to_the_last_bit() {
    let found = place(
        "cpu,memory,rack,count\n0.3,0.3,a,10\n",
        "job,cpu,memory,count\nsmall,0.1,0.1,31\n",
    );
    assert_eq!(found.placed, 30);
    let first = found.first_failure.unwrap();
    assert_eq!(first.tasks, 30);
    assert!((first.cpu - 1.0).abs() < 1e-9 && (first.memory - 1.0).abs() < 1e-9);
    assert_eq!(found.unplaced["cpu and memory short on every machine"], 1);
}

#[test]
fn every_reason_is_told_with_its_tasks() {
    let machines = "cpu,memory,rack,count\n4,16,a,2\n4,16,b,1\n";
    let found = place(
        machines,
        "job,cpu,memory,count,anti_affinity,priority\n\
         huge,5,1,2,,\n\
         apart,1,1,5,true,\n\
         racks,1,1,3,rack,\n\
         hungry,3,12,3,,\n\
         busy,2,1,1,,\n\
         wide,1,8,2,,\n",
    );
    let told: Vec<(&str, u64)> = found.unplaced.iter().map(|(why, n)| (*why, *n)).collect();
    assert_eq!(
        told,
        [
            ("cpu short on every machine", 2),
            (
                "kept apart from the tasks of its job on every machine with room",
                3
            ),
            ("larger than every machine", 2),
            ("no machine has both the cpu and the memory", 1),
        ]
    );
    assert_eq!(found.first_failure.unwrap().tasks, 0);
    assert_eq!(found.placed + told.iter().map(|(_, n)| n).sum::<u64>(), 16);
}

#[test]
fn a_job_stays_apart_also_from_what_it_submitted_before() {
    let found = place(
        "cpu,memory,rack,count\n4,16,a,3\n",
        "job,cpu,memory,count,anti_affinity,priority\na,1,1,2,true,\nb,1,1,1,true,\na,1,1,2,true,\n",
    );
    assert_eq!((found.placed, found.unplaced.values().sum::<u64>()), (4, 1));
}

#[test]
fn a_job_gets_the_machines_that_it_requires_and_is_spread() {
    let mut machines = read_machines(lines("cpu,memory,rack\n4,16,a\n4,16,a\n4,16,b\n4,16,c"));
    let machines = &mut machines.as_mut().unwrap().rows;
    for number in [1, 2, 3] {
        let labels = &mut machines[number].facts.labels;
        labels.insert("disk".to_owned(), "ssd".to_owned());
    }
    let mut tasks = read_tasks(lines(
        "job,cpu,memory,count\nweb,2,2,2\nweb,2,2,2\nweb,2,2,3",
    ))
    .unwrap();
    let requires: Requires = serde_json::from_value(json!({"labels": {"disk": "ssd"}})).unwrap();
    let spread: Spread = serde_json::from_value(json!({"over": "rack", "at_least": 3})).unwrap();
    for row in &mut tasks.rows {
        row.requires = Some(Arc::new(requires.clone()));
        row.spread = Some(spread.clone());
    }
    let found = place_trace(machines, &tasks.rows, &|| Duration::ZERO);
    // Each rack has one before any has two, and then every machine with the label is full.
    let mut on: Vec<u32> = found.machines.iter().map(|(_, machine)| *machine).collect();
    on[..3].sort_unstable();
    on[3..].sort_unstable();
    assert_eq!(on, [1, 2, 3, 1, 2, 3]);
    let told = "no machine with room is what its job requires, and apart from its other tasks";
    assert_eq!(found.unplaced, [(told, 1)].into());
}

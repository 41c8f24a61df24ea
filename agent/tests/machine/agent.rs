//! The agent with a scripted controller: what is assigned runs, what happens is reported, nothing is lost.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tw_agent::cgroup::CGROUP_ROOT;
use tw_api::{AgentEvent, ExecRequest, Frame, FrameKind, SessionRequest};
use tw_model::{
    Bytes, Code, Desired, Endpoint, Exit, Phase, Remedy, TaskId, TaskReport, TaskUsage, Timestamp,
};

use crate::common::{PATIENCE, Subtree};
use crate::machine::{Machine, assignment, code, free_port, name, shell};

#[tokio::test]
async fn a_task_finds_its_package_ports_services_and_name_and_its_end_is_reported() {
    let machine = Machine::new();
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(7);
    header.set_mode(0o644);
    builder
        .append_data(&mut header, "data.txt", &b"packed\n"[..])
        .unwrap();
    let digest = machine
        .controller
        .add_package(builder.into_inner().unwrap());
    let script = "cat data.txt; pwd; echo $TW_TASK $TW_JOB $TW_INDEX $TW_INCARNATION $PORT_HTTP $1 $2; \
                  cat /run/twill/endpoints.json; exit 6";
    let mut task = assignment(
        "web",
        json!({
            "command": ["sh", "-c", script, "sh", "{port:http}", "{service:redis:main}"],
            "ports": ["http"],
            "packages": [{"path": "apps/front", "digest": digest}],
        }),
    );
    let port = free_port();
    task.task.ports.insert(name("http"), port);
    let redis = Endpoint {
        job: "redis".parse().unwrap(),
        port: name("main"),
        task: "redis.0#1".parse().unwrap(),
        address: "127.0.0.1:7777".to_owned(),
    };
    let event = AgentEvent::Snapshot {
        assignments: vec![task.clone()],
        endpoints: vec![redis],
    };
    machine.controller.say(event).await;
    let id = &task.task.id;
    assert_eq!(machine.exited(id).await.0, code(6));
    let lines = machine.logs("ended", id, false).await;
    let expected = [
        "packed".to_owned(),
        "/packages/front".to_owned(),
        format!("web.0#1 web 0 1 {port} {port} 127.0.0.1:7777"),
        "{\"redis\":{\"main\":[\"127.0.0.1:7777\"]}}".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[tokio::test]
async fn a_task_that_names_no_service_finds_that_and_has_no_folder_for_it() {
    let machine = Machine::new();
    let task = shell("alone", "cat /run/twill/endpoints.json; sleep 2");
    let id = &task.task.id;
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(id).await;
    assert!(!machine.task_folder(id).join("run").exists());
    assert_eq!(machine.logs("until-it-ends", id, true).await, ["{}"]);
}

#[tokio::test]
async fn a_killed_agent_loses_nothing() {
    let mut machine = Machine::new();
    let lasting = shell("lasting", "while :; do sleep 0.1; done");
    let ending = shell("ending", "sleep 1; exit 9");
    let orphaned = assignment("orphaned", json!({"command": ["sleep", "60"]}));
    let all = [lasting.clone(), ending.clone(), orphaned.clone()];
    machine.snapshot(&all).await;
    for task in &all {
        machine.running(&task.task.id).await;
    }
    let before = machine.started(&lasting.task.id);
    let doomed = machine
        .started(&orphaned.task.id)
        .helper
        .open()
        .unwrap()
        .unwrap();
    machine.kill();
    rustix::process::pidfd_send_signal(&doomed, rustix::process::Signal::KILL).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1200)).await;
    machine.start();
    // The new agent knows before the controller says anything.
    machine.controller.registration(2).await;
    machine.snapshot(&all).await;
    assert_eq!(machine.exited(&ending.task.id).await.0, code(9));
    let (_, detail) = machine.exited(&orphaned.task.id).await;
    assert!(detail.contains("task.helper_lost"), "{detail}");
    assert!(
        before.task.is_alive().unwrap(),
        "the task is the same process"
    );
    assert_eq!(
        machine.running(&lasting.task.id).await,
        Timestamp(before.started_at_us)
    );
    let mut stopped = lasting.clone();
    stopped.task.desired = Desired::Stop;
    machine.assign(&stopped).await;
    assert_eq!(machine.exited(&lasting.task.id).await.0.signal, Some(15));
}

#[tokio::test]
async fn a_stopped_task_gets_its_grace_and_a_forgotten_one_leaves_nothing() {
    let machine = Machine::new();
    let stop = json!({"drain_ms": 0, "signal": "SIGINT", "grace_ms": 300});
    let script = "trap 'echo asked' INT; echo ready; while :; do sleep 0.05; done";
    let mut task = assignment(
        "stubborn",
        json!({"command": ["sh", "-c", script], "stop": stop}),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    let id = task.task.id.clone();
    machine.running(&id).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    task.task.desired = Desired::Stop;
    machine.assign(&task).await;
    let (exit, detail) = machine.exited(&id).await;
    assert_eq!(
        (exit.signal, detail.as_str()),
        (Some(9), "killed after its grace")
    );
    assert_eq!(
        machine.logs("stubborn", &id, true).await,
        ["ready", "asked"]
    );
    machine
        .controller
        .say(AgentEvent::Forget { task: id.clone() })
        .await;
    let deadline = std::time::Instant::now() + PATIENCE;
    let is_the_agents = |leaf: &String| leaf == "helpers" || leaf.starts_with("spare-");
    while machine.task_folder(&id).exists()
        || !machine.tree().leaves().unwrap().iter().all(is_the_agents)
    {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_running_task_that_is_not_assigned_any_more_is_ended() {
    let machine = Machine::new();
    let task = assignment("gone", json!({"command": ["sleep", "60"]}));
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    let started = machine.started(&task.task.id);
    machine.snapshot(&[]).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while started.task.is_alive().unwrap() || machine.task_folder(&task.task.id).exists() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_start_that_cannot_be_says_why() {
    let machine = Machine::new();
    let missing = assignment("missing", json!({"command": ["no-such-program"]}));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut port = assignment("port", json!({"command": ["true"], "ports": ["http"]}));
    port.task
        .ports
        .insert(name("http"), taken.local_addr().unwrap().port());
    let package = assignment(
        "package",
        json!({"command": ["true"], "packages": [{"path": "app", "digest": "0".repeat(64)}]}),
    );
    machine
        .snapshot(&[missing.clone(), port.clone(), package.clone()])
        .await;
    let (found, message) = machine.never_started(&missing.task.id).await;
    assert_eq!(found, Code::TaskCommandNotFound, "{message}");
    assert!(
        message.contains("looked for /usr/local/sbin/no-such-program"),
        "{message}"
    );
    let (found, message) = machine.never_started(&port.task.id).await;
    assert_eq!(found, Code::TaskPortInUse);
    assert!(
        message.contains("in use") && message.contains("'http'"),
        "{message}"
    );
    let (_, message) = machine.never_started(&package.task.id).await;
    assert!(message.contains("no such package"), "{message}");
}

#[tokio::test]
async fn health_follows_the_answers_of_every_kind_of_check() {
    let machine = Machine::new();
    let server = "import http.server, os, sys\n\
        class Answer(http.server.BaseHTTPRequestHandler):\n\
        \x20   def do_GET(self):\n\
        \x20       self.send_response(503 if os.path.exists('/tmp/sick') else 204)\n\
        \x20       self.end_headers()\n\
        http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Answer).serve_forever()\n";
    let times = |mut check: Value| {
        let fields = json!({"every_ms": 50, "timeout_ms": 2000, "failures": 2});
        check
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        check
    };
    let checks = json!([
        times(json!({"type": "http", "port": "http", "path": "/healthz"})),
        times(json!({"type": "tcp", "port": "http"})),
        times(json!({"type": "command", "command": ["test", "!", "-e", "/tmp/broken"]})),
    ]);
    let mut task = assignment(
        "web",
        json!({
            "command": ["/usr/bin/python3", "-c", server, "{port:http}"],
            "ports": ["http"],
            "health": checks,
        }),
    );
    task.task.ports.insert(name("http"), free_port());
    let id = task.task.id.clone();
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.health(&id, true, "").await;
    let exec = |script: &str| {
        SessionRequest::Exec(ExecRequest {
            task: id.clone(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            terminal: None,
            debug: false,
            credit: false,
        })
    };
    machine.session("sick", exec("touch /tmp/sick"), &[]).await;
    machine.health(&id, false, "answered 503").await;
}

#[tokio::test]
async fn a_task_is_healthy_soon_after_it_can_be_however_seldom_it_is_checked() {
    let machine = Machine::new();
    let check = json!({"type": "command", "command": ["test", "-e", "/tmp/ready"], "every_ms": 600_000, "timeout_ms": 2000});
    let script = "sleep 0.3; touch /tmp/ready; exec sleep 600";
    let task = assignment(
        "late",
        json!({"command": ["sh", "-c", script], "health": [check]}),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.health(&task.task.id, true, "").await;
}

#[tokio::test]
async fn a_controller_that_falls_silent_is_left_and_asked_again() {
    let machine = Machine::new();
    machine.controller.registration(1).await;
    machine.controller.lose_next_heartbeat();
    // The connection stays open, and its stream goes on.
    machine.controller.registration(2).await;
    let task = shell("next", "exit 3");
    machine.snapshot(std::slice::from_ref(&task)).await;
    assert_eq!(machine.exited(&task.task.id).await.0, code(3));
}

#[tokio::test]
async fn a_check_that_is_refused_or_gets_no_answer_fails_in_words() {
    let machine = Machine::new();
    let deaf = "import socket, sys, time\n\
        listener = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n\
        time.sleep(600)\n";
    let times = json!({"every_ms": 100, "timeout_ms": 300});
    let with_check = |job: &str, command: Value, mut check: Value| {
        check
            .as_object_mut()
            .unwrap()
            .extend(times.as_object().unwrap().clone());
        let mut task = assignment(
            job,
            json!({"command": command, "ports": ["http"], "health": [check]}),
        );
        task.task.ports.insert(name("http"), free_port());
        task
    };
    let asleep = json!(["sleep", "600"]);
    let tasks = [
        with_check(
            "closed",
            asleep.clone(),
            json!({"type": "tcp", "port": "http", "failures": 1}),
        ),
        with_check(
            "deaf",
            json!(["/usr/bin/python3", "-c", deaf, "{port:http}"]),
            // Until it listens it refuses.
            json!({"type": "http", "port": "http", "path": "/", "failures": 20}),
        ),
        with_check(
            "slow",
            asleep,
            json!({"type": "command", "command": ["sleep", "600"], "failures": 1}),
        ),
    ];
    machine.snapshot(&tasks).await;
    let [closed, deaf, slow] = tasks.map(|task| task.task.id);
    machine.health(&closed, false, "Connection refused").await;
    machine.health(&deaf, false, "no answer within 300").await;
    machine.health(&slow, false, "no answer within 300").await;
    // A check whose time is over does not stay behind in its task.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let inside = machine.tree().processes(&slow.folder_name()).unwrap();
    assert!(inside.len() <= 4, "{inside:?}");
}

#[tokio::test]
async fn people_can_run_commands_in_a_task() {
    let machine = Machine::new();
    let task = assignment("quiet", json!({"command": ["sleep", "60"]}));
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    let request = ExecRequest {
        task: task.task.id.clone(),
        argv: ["sh", "-c", "cat; hostname; exit 5"]
            .map(str::to_owned)
            .to_vec(),
        terminal: None,
        debug: false,
        credit: false,
    };
    let typed = [
        Frame::new(FrameKind::Stdin, "typed\n"),
        Frame::new(FrameKind::StdinEnd, []),
    ];
    let frames = machine
        .session("exec", SessionRequest::Exec(request), &typed)
        .await;
    let printed = frames
        .iter()
        .filter(|frame| frame.kind == FrameKind::Stdout);
    let printed: Vec<u8> = printed.flat_map(|frame| frame.bytes.clone()).collect();
    assert_eq!(String::from_utf8_lossy(&printed), "typed\nquiet-0\n");
    assert_eq!(frames.last().unwrap().parse::<Exit>().unwrap(), code(5));
}

#[tokio::test]
async fn use_is_measured_and_a_new_version_changes_limits_in_place() {
    let machine = Machine::new();
    let spec = |mib: u64, pids: u32| {
        let resources = json!({"memory_bytes": mib << 20, "cpu_millicores": 200, "pids": pids});
        json!({"command": ["sh", "-c", "while :; do :; done"], "resources": resources})
    };
    let task = assignment("busy", spec(64, 100));
    machine.snapshot(std::slice::from_ref(&task)).await;
    let id = task.task.id.clone();
    machine.running(&id).await;
    let limit = machine
        .controller
        .usage(|usage| (usage.cpu.0 > 100).then_some(usage.memory_limit))
        .await;
    assert_eq!(limit, Bytes::mib(64));
    let started = machine.started(&id);
    let mut newer = assignment("busy", spec(128, 100));
    newer.task.version = 2;
    machine.assign(&newer).await;
    machine
        .controller
        .usage(|usage| (usage.memory_limit == Bytes::mib(128)).then_some(()))
        .await;
    assert_eq!(
        machine
            .tree()
            .memory_limit_bytes(&id.folder_name())
            .unwrap(),
        128 << 20
    );
    // A limit that nothing is learned of, and no other.
    let mut newest = assignment("busy", spec(128, 120));
    newest.task.version = 3;
    machine.assign(&newest).await;
    let deadline = std::time::Instant::now() + PATIENCE;
    while pids_max(&machine, &id) != "120" {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(started.task.is_alive().unwrap());
}

#[tokio::test]
async fn a_lower_limit_that_a_task_is_too_large_for_is_told_until_it_holds() {
    let machine = Machine::new();
    let script = "import os, time\nheld = bytearray(120 << 20)\nwhile not os.path.exists('/tmp/enough'): time.sleep(0.05)\n\
                  del held\ntime.sleep(600)";
    let spec = |mib: u64| {
        let resources = json!({"memory_bytes": mib << 20, "cpu_millicores": 200, "pids": 50});
        json!({"command": ["/usr/bin/python3", "-c", script], "resources": resources})
    };
    let task = assignment("large", spec(256));
    let id = task.task.id.clone();
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine
        .controller
        .usage(|usage| (usage.memory > Bytes::mib(110)).then_some(()))
        .await;
    let mut smaller = assignment("large", spec(64));
    smaller.task.version = 2;
    machine.assign(&smaller).await;
    let text = machine
        .controller
        .notes(|notes| Some(notes.first()?.text.clone()))
        .await;
    assert!(
        text.starts_with(
            "large.0#1 keeps its memory limit of 256 MiB: 64 MiB cannot be had while it holds 1"
        ),
        "{text}"
    );
    let limit = || {
        machine
            .tree()
            .memory_limit_bytes(&id.folder_name())
            .unwrap()
    };
    assert_eq!(limit(), 256 << 20);
    let release = ExecRequest {
        task: id.clone(),
        argv: ["touch", "/tmp/enough"].map(str::to_owned).to_vec(),
        terminal: None,
        debug: false,
        credit: false,
    };
    machine
        .session("release", SessionRequest::Exec(release), &[])
        .await;
    machine
        .controller
        .notes(|notes| notes.is_empty().then_some(()))
        .await;
    assert_eq!(limit(), 64 << 20);
}

/// The limit of processes in a task's cgroup: in a hierarchy of its own, or in the one.
fn pids_max(machine: &Machine, task: &TaskId) -> String {
    let leaf = format!(
        "{}/{}/pids.max",
        machine.subtree.path.subtree,
        task.folder_name()
    );
    let places = [Path::new(CGROUP_ROOT).join("pids"), CGROUP_ROOT.into()];
    let mut texts = places
        .iter()
        .filter_map(|root| std::fs::read_to_string(root.join(&leaf)).ok());
    texts.next().unwrap().trim().to_owned()
}

#[tokio::test]
async fn limits_follow_what_a_task_really_uses_and_outlive_the_agent() {
    let mut machine = Machine::new();
    let task = assignment(
        "modest",
        json!({
            "command": ["sh", "-c", "while :; do sleep 0.2; done"],
            "resources": {"memory_bytes": 256 << 20, "cpu_millicores": 1000},
            "limits": {"mode": "auto", "history_min_ms": 2000, "window_ms": 20_000},
        }),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    let id = task.task.id.clone();
    machine.running(&id).await;
    let started = machine.started(&id);
    let learned = |usage: &tw_model::TaskUsage| {
        let lower = usage.memory_limit < Bytes::mib(64) && usage.cpu_limit.0 < 500;
        lower.then_some((usage.memory_limit, usage.memory_recommended, usage.samples))
    };
    let (limit, recommended, samples) = machine.controller.usage(learned).await;
    assert_eq!(recommended, Some(limit));
    assert!(
        samples >= 1 && limit >= Bytes::mib(16),
        "{limit} after {samples} samples"
    );
    let in_force = || {
        machine
            .tree()
            .memory_limit_bytes(&id.folder_name())
            .unwrap()
    };
    assert_eq!(in_force(), limit.0);
    machine.kill();
    machine.start();
    machine.controller.registration(2).await;
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.controller.usage(learned).await;
    assert!(
        machine
            .tree()
            .memory_limit_bytes(&id.folder_name())
            .unwrap()
            < 64 << 20
    );
    assert!(started.task.is_alive().unwrap());
}

#[tokio::test]
async fn a_task_that_writes_more_than_its_scratch_space_is_to_be_restarted() {
    let machine = Machine::new();
    let script =
        "head -c 4M /dev/zero > /tmp/little; sleep 2; head -c 20M /dev/zero > /tmp/much; sleep 60";
    let task = assignment(
        "writer",
        json!({"command": ["sh", "-c", script], "resources": {"disk_bytes": 10 << 20}}),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    let beyond = |report: &TaskReport| match &report.phase {
        Phase::Health {
            healthy: false,
            detail,
            remedy: Some(Remedy::Restart),
        } => Some(detail.clone()),
        _ => None,
    };
    assert_eq!(
        machine.controller.report(&task.task.id, beyond).await,
        "it has written more than the 10 MiB of its scratch space (disk)"
    );
}

#[tokio::test]
async fn a_raise_after_running_out_of_memory_outlives_the_task_and_the_agent() {
    let mut machine = Machine::new();
    let hungry = "import time\nheld = b'x' * (64 << 20)\nprint('held', flush=True)\ntime.sleep(60)";
    let mut task = assignment(
        "hungry",
        json!({
            "command": ["/usr/bin/python3", "-c", hungry],
            "resources": {"memory_bytes": 32 << 20},
            "limits": {"mode": "auto", "memory_max_bytes": 512 << 20},
        }),
    );
    machine.snapshot(std::slice::from_ref(&task)).await;
    let over = |report: &TaskReport| matches!(report.phase, Phase::Exited { .. }).then_some(());
    machine.controller.report(&task.task.id, over).await;
    machine.kill();
    machine.start();
    machine.controller.registration(2).await;
    task.task.id.incarnation += 1;
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    let raised = |usage: &TaskUsage| {
        let is_it = usage.task == task.task.id && usage.memory > Bytes::mib(64);
        is_it.then_some(usage.memory_limit)
    };
    assert_eq!(machine.controller.usage(raised).await, Bytes::mib(132));
}

#[tokio::test]
async fn a_damaged_history_is_set_aside_and_tasks_go_on() {
    let mut machine = Machine::new();
    let task = assignment("lasting", json!({"command": ["sleep", "60"]}));
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine.running(&task.task.id).await;
    let started = machine.started(&task.task.id);
    machine.kill();
    std::fs::write(machine.state().join("history.db"), "no database at all").unwrap();
    machine.start();
    let reports = machine.controller.registration(2).await.reports;
    assert!(reports.len() <= 1, "{reports:?}");
    machine.snapshot(std::slice::from_ref(&task)).await;
    machine
        .controller
        .usage(|usage| (usage.task == task.task.id).then_some(()))
        .await;
    assert!(started.task.is_alive().unwrap());
    assert!(machine.state().join("damaged-history.db").exists());
}

#[test]
fn a_history_of_a_later_release_stops_the_start_and_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    drop(tw_store::history::History::open(&path, Default::default()).unwrap());
    // Where the header of a SQLite file has the version of its format.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let subtree = Subtree::new();
    let ran = Command::new(env!("CARGO_BIN_EXE_tw-agent"))
        .args(["run", "--name", "machine-1", "--state"])
        .arg(folder.path())
        .args(["--controller", "unix:/nowhere", "--cgroup"])
        .arg(&subtree.path.subtree)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        !ran.status.success() && said.contains("has format 99, and this release"),
        "{said}"
    );
    assert_eq!(std::fs::read(&path).unwrap()[60..64], [0, 0, 0, 99]);
}

#[test]
fn a_second_agent_of_one_state_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let subtree = Subtree::new();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tw-agent"));
        command
            .args(["run", "--name", "machine-1", "--state"])
            .arg(folder.path())
            .args([
                "--controller",
                "unix:/nowhere",
                "--cgroup",
                &subtree.path.subtree,
            ])
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let mut first = run();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !folder.path().join("history.db").exists() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let second = run().wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(
        !second.status.success() && said.contains("another agent runs in"),
        "{said}"
    );
}

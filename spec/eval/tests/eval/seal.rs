//! What a spec must not do: each attempt ends as one clear error, and the evaluator serves the next spec.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::support::{Repo, children_of, config, evaluator, own_evaluator};
use tw_model::Code;
use tw_spec::{Detail, EvalConfig, Evaluator, SpecError};

const HELLO: &str =
    "from tw import Job, export\nexport(Job(name=\"hello\", command=\"echo hello\"))\n";

fn attempt_with(config: EvalConfig, spec: &str) -> SpecError {
    attempt_in(&Evaluator::start(config).expect("tw-eval starts"), spec)
}

/// Evaluates one spec and then a good one, with the same evaluator.
fn attempt_in(evaluator: &Evaluator, spec: &str) -> SpecError {
    let repo = Repo::with(&[("attempt.tw", spec), ("hello.tw", HELLO)]);
    let attempt = evaluator
        .evaluate(&repo.work_tree(), "attempt.tw", Detail::Places)
        .expect("an answer");
    let next = evaluator
        .evaluate(&repo.work_tree(), "hello.tw", Detail::Places)
        .expect("an answer");
    assert_eq!(next.error, None, "the next spec is served");
    assert_eq!(next.jobs.len(), 1);
    assert!(attempt.jobs.is_empty(), "a failed spec gives no jobs");
    attempt.error.unwrap_or_else(|| {
        panic!(
            "nothing stopped this spec: {spec}\nit printed {:?}",
            attempt.output
        )
    })
}

fn attempt(spec: &str) -> SpecError {
    attempt_in(evaluator(), spec)
}

#[track_caller]
fn assert_refused(spec: &str, code: Code, line: u32, message: &str) {
    let error = attempt(spec);
    assert_eq!((error.code, error.line), (code, Some(line)), "{error:?}");
    assert!(error.message.contains(message), "{error:?}");
    assert!(error.hint.is_some(), "{error:?}");
}

#[test]
fn opening_a_file_is_denied() {
    assert_refused(
        "x = 1\nopen('/etc/passwd')\n",
        Code::SpecDenied,
        2,
        "`open`",
    );
}

#[test]
fn catching_the_denial_does_not_help() {
    assert_refused(
        "try:\n    open('/etc/passwd')\nexcept BaseException:\n    pass\n",
        Code::SpecDenied,
        2,
        "`open`",
    );
}

#[test]
fn a_socket_is_denied() {
    assert_refused(
        "import socket\nsocket.socket()\n",
        Code::SpecDenied,
        2,
        "`socket.socket`",
    );
}

#[test]
fn starting_a_process_is_denied() {
    assert_refused("import os\nos.fork()\n", Code::SpecDenied, 2, "`os.fork`");
    assert_refused(
        "from subprocess import run\n",
        Code::SpecDenied,
        1,
        "`subprocess.run`",
    );
}

#[test]
fn the_environment_is_denied() {
    assert_refused(
        "import os\nos.environ['HOME']\n",
        Code::SpecDenied,
        2,
        "`os.environ`",
    );
    assert_refused(
        "import os\nos.getenv('HOME')\n",
        Code::SpecDenied,
        2,
        "`os.getenv`",
    );
}

#[test]
fn the_clock_is_denied() {
    assert_refused(
        "import time\ntime.time()\n",
        Code::SpecNondeterministic,
        2,
        "`time.time`",
    );
    assert_refused(
        "import datetime\ndatetime.datetime.now()\n",
        Code::SpecNondeterministic,
        2,
        "now",
    );
    assert_refused(
        "from datetime import date\ndate.today()\n",
        Code::SpecNondeterministic,
        2,
        "today",
    );
}

#[test]
fn randomness_is_denied() {
    assert_refused(
        "import random\nrandom.random()\n",
        Code::SpecNondeterministic,
        2,
        "`random.random`",
    );
    assert_refused(
        "import uuid\nuuid.uuid4()\n",
        Code::SpecNondeterministic,
        2,
        "`uuid.uuid4`",
    );
    assert_refused(
        "import secrets\nsecrets.token_hex()\n",
        Code::SpecNondeterministic,
        2,
        "`secrets.token_hex`",
    );
}

#[test]
fn a_loop_without_end_ends_at_its_line() {
    assert_refused(
        "def spin():\n    while True:\n        pass\nspin()\n",
        Code::SpecTimeout,
        2,
        "processor time",
    );
}

#[test]
fn catching_the_timeout_does_not_help() {
    let spec = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass\n";
    assert_eq!(attempt(spec).code, Code::SpecTimeout);
}

#[test]
fn one_operation_without_end_is_killed() {
    let error = attempt("x = 7 ** (10 ** 9)\n");
    assert_eq!(error.code, Code::SpecTimeout, "{error:?}");
}

#[test]
fn the_deadline_holds_whatever_the_processor_time() {
    let config = EvalConfig {
        cpu: Duration::from_secs(60),
        deadline: Duration::from_millis(200),
        ..config()
    };
    let error = attempt_with(config, "while True:\n    pass\n");
    assert_eq!(error.code, Code::SpecTimeout, "{error:?}");
    assert!(error.message.contains("0.2 seconds"), "{error:?}");
}

#[test]
fn a_memory_bomb_ends_at_its_line() {
    for (spec, line) in [
        ("x = 'a' * (1 << 40)\n", 1),
        ("x = []\nwhile True:\n    x.append('a' * 1000000)\n", 3),
    ] {
        let roomy = EvalConfig {
            cpu: Duration::from_secs(20),
            memory_bytes: 256 << 20,
            ..config()
        };
        let error = attempt_with(roomy, spec);
        assert_eq!(
            (error.code, error.line),
            (Code::SpecMemory, Some(line)),
            "{error:?}"
        );
    }
}

#[test]
fn leaving_is_an_error() {
    assert_refused(
        "import sys\nsys.exit(0)\n",
        Code::SpecExit,
        2,
        "sys.exit(0)",
    );
    assert_refused("raise SystemExit\n", Code::SpecExit, 1, "sys.exit");
}

/// Goes around the stand-ins, to what the interpreter has loaded.
fn around(attack: &str) -> SpecError {
    attempt(&format!(
        "import dataclasses\nmodules = dataclasses.sys.modules\ntry:\n    {attack}\nexcept BaseException:\n    pass\n"
    ))
}

#[test]
fn the_seal_holds_behind_the_stand_ins() {
    for attack in [
        "modules['posix'].open('/etc/passwd', 0)",
        "modules['posix'].stat('/etc/passwd')",
        "modules['posix'].fork()",
        "modules['posix'].execv('/bin/true', ['true'])",
        "modules['posix'].kill(modules['posix'].getppid(), 9)",
        "modules['posix'].urandom(8)",
        "modules['posix'].listdir('/')",
        "modules['_signal'].signal(31, lambda *a: None)",
        "modules['posix'].getpid()",
        "modules['_thread'].start_new_thread(print, ())",
        "modules['_io'].open('/etc/passwd')",
    ] {
        let error = around(attack);
        assert_eq!(error.code, Code::SpecDenied, "{attack}: {error:?}");
    }
}

#[test]
fn the_environment_is_empty_behind_the_stand_ins() {
    let repo = Repo::with(&[(
        "a.tw",
        "import dataclasses\nprint(len(dataclasses.sys.modules['posix'].environ))\n",
    )]);
    let evaluation = evaluator()
        .evaluate(&repo.work_tree(), "a.tw", Detail::Places)
        .expect("an answer");
    assert_eq!(
        (evaluation.error, evaluation.output.as_str()),
        (None, "0\n")
    );
}

#[test]
fn a_killed_evaluator_is_started_again() {
    let repo = Repo::with(&[("hello.tw", HELLO)]);
    let evaluator = own_evaluator();
    let before = Pid::from_raw(evaluator.process_id().expect("a process") as i32);
    kill(before, Signal::SIGKILL).expect("kill");
    // A child may do its job in the moment that the kernel takes.
    let dead = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    waitid(Id::Pid(before), dead).expect("it ends");
    let evaluation = evaluator
        .evaluate(&repo.work_tree(), "hello.tw", Detail::Places)
        .expect("an answer");
    assert_eq!(evaluation.error, None);
    let after = evaluator.process_id().expect("a process");
    assert_ne!(after, before.as_raw() as u32);
}

/// Whatever its first child was at: being made, being sealed, waiting or at work.
#[test]
fn an_evaluator_that_is_killed_as_it_comes_up_fails_no_spec() {
    let repo = Repo::with(&[("hello.tw", HELLO)]);
    for later in 0..20 {
        let evaluator = own_evaluator();
        let process = Pid::from_raw(evaluator.process_id().expect("a process") as i32);
        std::thread::sleep(Duration::from_micros(100 * later));
        kill(process, Signal::SIGKILL).expect("kill");
        let evaluation = evaluator
            .evaluate(&repo.work_tree(), "hello.tw", Detail::Places)
            .expect("an answer");
        assert_eq!(evaluation.error, None, "{later}");
    }
}

/// Waits until the next child has been made.
fn wait_for_a_child(process: u32) -> Vec<Pid> {
    for _ in 0..2_000 {
        match children_of(process) {
            none if none.is_empty() => std::thread::sleep(Duration::from_millis(5)),
            children => return children,
        }
    }
    panic!("no child is made ahead");
}

#[test]
fn a_child_that_ends_before_it_has_a_job_is_replaced() {
    let repo = Repo::with(&[("hello.tw", HELLO)]);
    let evaluator = own_evaluator();
    let process = evaluator.process_id().expect("a process");
    for _ in 0..3 {
        for child in wait_for_a_child(process) {
            kill(child, Signal::SIGKILL).expect("kill");
        }
        let evaluation = evaluator
            .evaluate(&repo.work_tree(), "hello.tw", Detail::Places)
            .expect("an answer");
        assert_eq!((evaluation.error, evaluation.jobs.len()), (None, 1));
    }
    assert_eq!(evaluator.process_id().expect("a process"), process);
}

#[test]
fn the_deadline_counts_from_the_job() {
    let repo = Repo::with(&[("hello.tw", HELLO)]);
    let evaluator = Evaluator::start(EvalConfig {
        deadline: Duration::from_secs(2),
        ..config()
    })
    .expect("tw-eval starts");
    let process = evaluator.process_id().expect("a process");
    let waiting = wait_for_a_child(process);
    std::thread::sleep(Duration::from_millis(2_500));
    assert_eq!(children_of(process), waiting, "it still waits");
    let evaluation = evaluator
        .evaluate(&repo.work_tree(), "hello.tw", Detail::Places)
        .expect("an answer");
    assert_eq!((evaluation.error, evaluation.jobs.len()), (None, 1));
}

/// Jobs that were given to children before the evaluator had got round to making them.
#[test]
fn a_child_that_had_its_job_before_it_was_made_ends_at_its_deadline() {
    let wait = "import dataclasses\nlock = dataclasses.sys.modules['_thread'].allocate_lock()\n\
        lock.acquire()\nlock.acquire()\n";
    let paths = ["a.tw", "b.tw", "c.tw"];
    let repo = Repo::with(&paths.map(|path| (path, wait)));
    let evaluator = Evaluator::start(EvalConfig {
        deadline: Duration::from_secs(1),
        in_flight: paths.len(),
        ..config()
    })
    .expect("tw-eval starts");
    let process = Pid::from_raw(evaluator.process_id().expect("a process") as i32);
    let (source, paths) = (repo.work_tree(), paths.map(str::to_owned));
    kill(process, Signal::SIGSTOP).expect("stop");
    let evaluations = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| evaluator.evaluate_all(&source, &paths, Detail::Places));
        std::thread::sleep(Duration::from_millis(300));
        kill(process, Signal::SIGCONT).expect("go on");
        waiting.join().expect("no panic").expect("answers")
    });
    for evaluation in evaluations {
        let error = evaluation.error.expect("an error");
        assert_eq!(error.code, Code::SpecTimeout, "{error:?}");
    }
    let after = evaluator.process_id().expect("a process");
    assert_eq!(after, process.as_raw() as u32, "it was not started again");
}

#[test]
fn one_spec_cannot_touch_another() {
    let patch = "import json\njson.dumps = None\nfrom tw import units\nunits.MiB = 0\n";
    let check = "import json\nfrom tw import units, MiB\nassert json.dumps([1]) == '[1]'\nassert units.MiB == MiB\n";
    let repo = Repo::with(&[("a.tw", patch), ("b.tw", check)]);
    let evaluator = evaluator();
    for (path, round) in [("a.tw", 1), ("b.tw", 1), ("a.tw", 2), ("b.tw", 2)] {
        let evaluation = evaluator
            .evaluate(&repo.work_tree(), path, Detail::Places)
            .expect("an answer");
        assert_eq!(evaluation.error, None, "{path} in round {round}");
    }
}

#[test]
fn text_hashes_are_fixed() {
    let repo = Repo::with(&[(
        "a.tw",
        "print(list({'web', 'db', 'cache', 'proxy'}), hash('x'))\n",
    )]);
    let ask = || {
        evaluator()
            .evaluate(&repo.work_tree(), "a.tw", Detail::Places)
            .expect("an answer")
            .output
    };
    assert_eq!(ask(), ask());
}

#[test]
fn an_evaluator_killed_in_the_middle_is_asked_again() {
    let repo = Repo::with(&[("spin.tw", "while True:\n    pass\n")]);
    let source = repo.work_tree();
    let evaluator = own_evaluator();
    let before = evaluator.process_id().expect("a process");
    let evaluation = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| evaluator.evaluate(&source, "spin.tw", Detail::Places));
        std::thread::sleep(Duration::from_millis(200));
        kill(Pid::from_raw(before as i32), Signal::SIGKILL).expect("kill");
        waiting.join().expect("no panic").expect("an answer")
    });
    let error = evaluation.error.expect("an error");
    assert_eq!(
        (error.code, error.line),
        (Code::SpecTimeout, Some(1)),
        "{error:?}"
    );
    assert_ne!(evaluator.process_id().expect("a process"), before);
}

#[test]
fn nothing_is_left_of_a_dropped_evaluator() {
    let evaluator = own_evaluator();
    let process = Pid::from_raw(evaluator.process_id().expect("a process") as i32);
    assert_eq!(kill(process, None), Ok(()));
    drop(evaluator);
    assert_eq!(kill(process, None), Err(nix::Error::ESRCH));
}

#[test]
fn a_program_that_is_no_evaluator_is_refused() {
    for (program, message) in [
        ("/bin/true", "ended before it was ready"),
        ("/no/such/tw-eval", "cannot start /no/such/tw-eval"),
    ] {
        let config = EvalConfig {
            program: Some(program.into()),
            ..config()
        };
        let error = Evaluator::start(config)
            .expect_err("no evaluator")
            .to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn a_result_that_is_too_large_is_an_error() {
    let spec = "from tw import Job, export\nexport(Job(name=\"a\", command=\"x\", env={\"A\": \"a\" * (20 << 20)}))\n";
    let error = attempt(spec);
    assert_eq!(error.code, Code::SpecOutput, "{error:?}");
}

#[test]
fn what_a_spec_prints_is_bounded() {
    let repo = Repo::with(&[("a.tw", "for i in range(100000):\n    print(\"line\", i)\n")]);
    let evaluation = evaluator()
        .evaluate(&repo.work_tree(), "a.tw", Detail::Places)
        .expect("an answer");
    assert_eq!(evaluation.error, None);
    let cut = "\n… cut: more than 65,536 characters\n";
    let shown = evaluation.output.strip_suffix(cut);
    assert_eq!(shown.map(str::len), Some(64 * 1024));
}

//! Tasks of a real agent with real helpers: what the kernel is told of them, and what becomes of them.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tw_agent::cgroup::CGROUP_ROOT;
use tw_agent::helper::record::{self, EXIT_FILE, ExitRecord};
use tw_api::{AgentEvent, Assignment, ExecRequest, FrameKind, SessionRequest};
use tw_model::{Bytes, Desired, Exit, TaskId, TaskUsage, Timestamp, Version};

use crate::common::PATIENCE;
use crate::guest::check;
use crate::initramfs::CONTRACT;
use crate::machine::{Machine, assignment, code};
use crate::{Checked, MIB, NOT_RUN, cores, ensure, print};

/// How long tasks have between the signal and the kill.
const GRACE_MS: u64 = 1000;

const TRACING: &str = "/sys/kernel/tracing";

/// Runs the checks; `has_disk` says that what agents keep is not in memory.
pub(crate) fn run(has_disk: bool) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    else {
        return print(&format!("{} no runtime\n", crate::FAILED));
    };
    if !has_disk {
        print(&format!(
            "{NOT_RUN}: cached files, as there is no module of this kernel for a disk in target/kernel/modules\n"
        ));
    }
    let mut place = None;
    let begun = check("an agent begins", || {
        trace_moves()?;
        place = Some(runtime.block_on(Place::begin()));
        Ok(())
    });
    let Some(mut place) = place.filter(|_| begun) else {
        return;
    };
    let checks = [
        check(
            "a task runs in its sandbox, born in a leaf with the limits asked for",
            || runtime.block_on(place.starts()),
        ),
        check(
            "tasks without memory end in order or are killed whole, and nobody else",
            || runtime.block_on(place.runs_out_of_memory()),
        ),
        check(
            "a running task grows and shrinks, never below its use, and lives",
            || runtime.block_on(place.resizes()),
        ),
        !has_disk
            || check(
                "cached files are no lack of memory, and give way to a lower limit",
                || runtime.block_on(place.reads()),
            ),
        check(
            "the next agent adopts a task of many processes, and ends it whole",
            || runtime.block_on(place.adopts()),
        ),
    ];
    if checks.contains(&false) {
        let log = fs::read_to_string(place.machine.folder.path().join("agent.log"));
        print(&log.unwrap_or_default());
    }
    check("nothing is left of an agent and its tasks", || {
        runtime.block_on(place.end())
    });
    check("whole cores are a task's own", || {
        runtime.block_on(async {
            let mut machine = Machine::new();
            ensure(machine.can_give_cores().await, "it cannot give cores")?;
            cores::give_cores(&mut machine).await;
            Ok(())
        })
    });
}

/// Has the kernel write down every process that is moved from one group to another.
fn trace_moves() -> Checked {
    let event = "events/cgroup/cgroup_attach_task/enable";
    Ok(fs::write(Path::new(TRACING).join(event), "1")?)
}

/// Whether a process was ever moved into a group; one that was born there was not.
fn was_moved_to(group: &str) -> std::io::Result<bool> {
    let trace = fs::read_to_string(Path::new(TRACING).join("trace"))?;
    Ok(trace.contains(&format!("dst_path={group} ")))
}

/// The machine, and a task that runs beside all others.
struct Place {
    machine: Machine,
    mounts: usize,
    assigned: Vec<Assignment>,
}

impl Place {
    async fn begin() -> Place {
        let mounts = count_mounts();
        let machine = Machine::new();
        machine.snapshot(&[]).await;
        Place {
            machine,
            mounts,
            assigned: Vec::new(),
        }
    }

    /// Assigns a new task.
    async fn assign(&mut self, name: &str, spec: Value) -> Assignment {
        let task = version_of(name, 1, spec);
        self.assigned.push(task.clone());
        self.machine.assign(&task).await;
        task
    }

    /// As [`Place::assign`], and waits until it runs.
    async fn run(&mut self, name: &str, spec: Value) -> Assignment {
        let task = self.assign(name, spec).await;
        self.machine.running(&task.task.id).await;
        task
    }

    async fn stop(&self, task: &Assignment) -> Exit {
        let mut stopped = task.clone();
        stopped.task.desired = Desired::Stop;
        self.machine.assign(&stopped).await;
        self.machine.exited(&task.task.id).await.0
    }

    /// Runs a command in a task, and answers its end and what it printed.
    async fn exec(&self, task: &TaskId, script: &str) -> Result<(Exit, String), Box<dyn Error>> {
        let request = ExecRequest {
            task: task.clone(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            terminal: None,
            debug: false,
            credit: false,
        };
        let request = SessionRequest::Exec(request);
        let frames = self.machine.session("exec", request, &[]).await;
        let exit = frames.last().ok_or("no frame")?.parse::<Exit>()?;
        let printed = frames
            .iter()
            .filter(|frame| frame.kind == FrameKind::Stdout);
        let bytes: Vec<u8> = printed.flat_map(|frame| frame.bytes.clone()).collect();
        Ok((exit, String::from_utf8(bytes)?))
    }

    /// The group of a leaf, below the mount of cgroup2.
    fn group(&self, leaf: &str) -> String {
        format!("/{}/{leaf}", self.machine.subtree.path.subtree)
    }

    /// A file of the kernel's in the leaf of a task.
    fn file(&self, task: &TaskId, name: &str) -> String {
        let group = self.group(&task.folder_name());
        let path = PathBuf::from(format!("{CGROUP_ROOT}{group}/{name}"));
        fs::read_to_string(path)
            .unwrap_or_else(|error| error.to_string())
            .trim()
            .to_owned()
    }

    fn expect(&self, task: &TaskId, files: &[(&str, &str)]) -> Checked {
        files.iter().try_for_each(|(name, expected)| {
            let found = self.file(task, name);
            ensure(
                found == *expected,
                format!("{name} holds '{found}', not '{expected}'"),
            )
        })
    }

    async fn starts(&mut self) -> Checked {
        let script = "trap 'exit 6' TERM; echo $TW_TASK $$ $(id -u); touch /usr/x 2>/dev/null || echo sealed; sleep 600 & wait";
        let spec = json!({
            "command": ["sh", "-c", script],
            "resources": {
                "cpu_millicores": 500, "memory_bytes": 64 * MIB, "pids": 30,
                "swap_bytes": 8 * MIB, "io_weight": 300,
            },
            "limits": {"cpu_max_millicores": 800},
            "hooks": {
                "pre_start": {"command": ["echo", "before"]},
                "post_stop": {"command": ["echo", "behind"]},
            },
        });
        let task = self.run("first", spec).await;
        let id = &task.task.id;
        self.expect(
            id,
            &[
                ("cpu.weight", "50"),
                ("cpu.max", "80000 100000"),
                ("memory.max", &(64 * MIB).to_string()),
                ("memory.high", &(60 * MIB).to_string()),
                ("memory.swap.max", &(8 * MIB).to_string()),
                ("memory.oom.group", "1"),
                ("pids.max", "30"),
                ("io.weight", "default 300"),
            ],
        )?;
        let started = self.machine.started(id);
        let (own, helpers) = (self.group(&id.folder_name()), self.group("helpers"));
        ensure(group_of(started.task.pid) == own, "the task is elsewhere")?;
        ensure(
            group_of(started.helper.pid) == helpers,
            "the helper is elsewhere",
        )?;
        let (exit, said) = self
            .exec(id, "read group < /proc/self/cgroup; echo $group; exit 5")
            .await?;
        ensure(exit == code(5), format!("the command in it: {exit:?}"))?;
        // The leaf is the root of what its processes see of cgroups.
        ensure(said == "0::/\n", said)?;
        ensure(was_moved_to(&helpers)?, "the kernel traces no moves")?;
        ensure(!was_moved_to(&own)?, "a process was moved to the leaf")?;
        let facts = self.machine.controller.registration(1).await.facts;
        let enforces = |what: &str| facts.enforces.iter().any(|found| found == what);
        for what in ["cgroup-v2", "memory-high", "swap", "io", "whole-cores"] {
            ensure(enforces(what), format!("{what} is not said to be held"))?;
        }
        // Before 6.3 a file system in memory cannot be mapped to users of a task's own.
        let users = enforces("user-namespace").then_some("user");
        for name in ["mnt", "pid", "uts", "ipc", "cgroup"]
            .into_iter()
            .chain(users)
        {
            ensure(
                namespace(started.task.pid, name) != namespace(started.helper.pid, name),
                format!("the task has the {name} namespace of its helper"),
            )?;
        }
        ensure(self.stop(&task).await == code(6), "another exit code")?;
        let printed = self.machine.logs("first", id, false).await;
        ensure(
            printed == ["before", "first.0#1 2 65534", "sealed", "behind"],
            format!("{printed:?}"),
        )
    }

    async fn runs_out_of_memory(&mut self) -> Checked {
        let script = "trap 'exit 6' TERM; sleep 600 & wait";
        let sibling = self
            .run("sibling", json!({"command": ["sh", "-c", script]}))
            .await;
        let ended = |code, signal| Exit {
            code,
            signal,
            oom: true,
        };
        for (how, exit) in [
            ("quiet", ended(None, Some(15))),
            ("orderly", ended(Some(7), None)),
            ("deaf", ended(None, Some(9))),
        ] {
            let script = format!("sleep 600 & exec {CONTRACT} take 300 {how}");
            let spec = json!({
                "command": ["sh", "-c", script],
                "resources": {"memory_bytes": 96 * MIB},
            });
            let task = self.assign(how, spec).await;
            let id = &task.task.id;
            let (found, detail) = self.machine.exited(id).await;
            ensure(found == exit, format!("{how}: {found:?}, {detail}"))?;
            let names = |words: &str| detail.contains(words);
            ensure(
                names("limit 96.0 MiB reached") && names(&format!("take 300 {how}")),
                detail.clone(),
            )?;
            let folder = self.machine.task_folder(id);
            let record: Option<ExitRecord> = record::read(&folder, EXIT_FILE)?;
            let record = record.ok_or("no record of the end")?;
            ensure(record.oom.is_some(), "no diagnosis on record")?;
            ensure(
                how == "deaf" || !record.is_oom,
                format!("{how}: the kernel had to kill"),
            )?;
            self.until(&format!("the leaf of {how} is gone"), |place| {
                Ok(!place.has_leaf(id)?)
            })
            .await?;
        }
        let id = &self.assigned[self.assigned.len() - 2].task.id;
        let said = self.machine.logs("orderly", id, false).await;
        ensure(said == ["saved"], format!("{said:?}"))?;
        let started = self.machine.started(&sibling.task.id);
        ensure(
            started.task.is_alive()? && started.helper.is_alive()?,
            "the sibling or its helper was a victim",
        )?;
        let leaf = sibling.task.id.folder_name();
        ensure(
            self.machine.tree().usage(&leaf)?.oom_kills == 0,
            "the kernel killed in the sibling",
        )
    }

    async fn resizes(&mut self) -> Checked {
        let spec = |mib: u64, pids: u32| {
            json!({
                "command": [CONTRACT, "take", "40", "busy"],
                "resources": {"memory_bytes": mib * MIB, "pids": pids, "io_weight": 2 * pids},
            })
        };
        let task = self.run("resized", spec(64, 30)).await;
        let id = task.task.id.clone();
        let leaf = id.folder_name();
        let started = self.machine.started(&id);
        self.until("40 MiB are used", |place| {
            Ok(place.machine.tree().usage(&leaf)?.memory_bytes > 40 * MIB)
        })
        .await?;
        let mut version = 1;
        let mut next = |mib, pids| {
            version += 1;
            version_of("resized", version, spec(mib, pids))
        };

        self.machine.assign(&next(128, 30)).await;
        self.until_limited_to(&id, 128).await?;
        self.expect(&id, &[("memory.high", &(120 * MIB).to_string())])?;

        let stalled_us = || self.machine.tree().memory_stalled_us(&leaf).unwrap_or(0);
        let stalled_before_us = stalled_us();
        self.machine.assign(&next(20, 30)).await;
        self.until("the agent says that more is in use", |place| {
            Ok(place
                .log()?
                .contains("the memory limit stays: more is in use"))
        })
        .await?;
        let held_us = stalled_us() - stalled_before_us;
        ensure(held_us < 50_000, format!("it was held for {held_us} µs"))?;
        self.until_limited_to(&id, 128).await?;
        self.expect(&id, &[("memory.high", &(120 * MIB).to_string())])?;

        self.machine.assign(&next(80, 30)).await;
        self.until_limited_to(&id, 80).await?;
        self.expect(&id, &[("memory.high", &(75 * MIB).to_string())])?;

        let last = next(80, 60);
        self.machine.assign(&last).await;
        self.until("the other limits follow", |place| {
            Ok(
                place.file(&id, "pids.max") == "60"
                    && place.file(&id, "io.weight") == "default 120",
            )
        })
        .await?;

        let lived = started.task.is_alive()? && self.machine.tree().usage(&leaf)?.oom_kills == 0;
        ensure(lived, "resizing killed")?;
        let ended = Exit {
            signal: Some(15),
            ..Exit::default()
        };
        let found = self.stop(&last).await;
        ensure(found == ended, format!("{found:?}"))
    }

    /// A task that has far more in files than it may have memory.
    async fn reads(&mut self) -> Checked {
        let spec = |mib: u64| {
            json!({
                "command": [CONTRACT, "take", "20", "reads"],
                "resources": {"memory_bytes": mib * MIB},
            })
        };
        let mut task = self.run("reading", spec(64)).await;
        let id = task.task.id.clone();
        let leaf = id.folder_name();
        let tree = self.machine.tree();
        let reaches = async |mib: u64| {
            let what = format!("{mib} MiB are used");
            self.until(&what, |_| Ok(tree.usage(&leaf)?.memory_bytes > mib * MIB))
                .await
        };
        reaches(56).await?;
        // It is held, and its files are taken back, all the time.
        tokio::time::sleep(Duration::from_secs(3)).await;
        for (version, mib, used) in [(2, 160, 90), (3, 48, 40)] {
            task = version_of("reading", version, spec(mib));
            self.machine.assign(&task).await;
            self.until_limited_to(&id, mib).await?;
            reaches(used).await?;
        }
        let held = tree.memory_breakdown(&leaf)?;
        ensure(held.file_bytes > 10 * MIB, format!("{held:?}"))?;
        ensure(tree.usage(&leaf)?.oom_kills == 0, "the kernel had to kill")?;
        let ended = Exit {
            signal: Some(15),
            ..Exit::default()
        };
        let found = self.stop(&task).await;
        ensure(found == ended, format!("{found:?}"))
    }

    /// Waits until both the kernel and the agent's reports have a task's new limit.
    async fn until_limited_to(&self, id: &TaskId, mib: u64) -> Checked {
        self.until(&format!("the limit is {mib} MiB"), |place| {
            Ok(place.file(id, "memory.max") == (mib * MIB).to_string())
        })
        .await?;
        let is_it = |usage: &TaskUsage| {
            let is_it = usage.task == *id && usage.memory_limit == Bytes::mib(mib);
            is_it.then_some(())
        };
        self.machine.controller.usage(is_it).await;
        Ok(())
    }

    async fn adopts(&mut self) -> Checked {
        let script =
            "trap '' TERM; for i in $(seq 40); do sleep 600 & done; while :; do wait; done";
        let spec = json!({"command": ["sh", "-c", script], "resources": {"pids": 60}});
        let task = self.run("many", spec).await;
        let id = &task.task.id;
        let leaf = id.folder_name();
        self.until("all of its processes run", |place| {
            Ok(place.machine.tree().usage(&leaf)?.pids >= 41)
        })
        .await?;
        let before = self.machine.started(id);

        self.machine.kill();
        self.machine.controller.drop_reports_of(id);
        self.machine.start();
        self.machine.controller.registration(2).await;
        self.machine.snapshot(&self.assigned).await;
        let since = self.machine.running(id).await;
        ensure(since == Timestamp(before.started_at_us), "it began anew")?;
        ensure(
            before.task.is_alive()? && before.helper.is_alive()?,
            "it did not outlive the agent",
        )?;
        ensure(
            self.machine.tree().usage(&leaf)?.pids >= 41,
            "it lost processes",
        )?;

        let killed = self.stop(&task).await;
        ensure(killed.signal == Some(9), format!("{killed:?}"))?;
        self.until("its leaf is gone", |place| Ok(!place.has_leaf(id)?))
            .await?;
        let sibling = self
            .assigned
            .iter()
            .find(|task| task.spec.name.as_str() == "sibling");
        let sibling = sibling.ok_or("no sibling")?.clone();
        ensure(
            self.stop(&sibling).await == code(6),
            "the sibling was not adopted",
        )
    }

    fn has_leaf(&self, task: &TaskId) -> Result<bool, Box<dyn Error>> {
        Ok(self.machine.tree().leaves()?.contains(&task.folder_name()))
    }

    fn log(&self) -> Result<String, Box<dyn Error>> {
        Ok(fs::read_to_string(
            self.machine.folder.path().join("agent.log"),
        )?)
    }

    async fn until(
        &self,
        what: &str,
        holds: impl Fn(&Place) -> Result<bool, Box<dyn Error>>,
    ) -> Checked {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self)? {
            ensure(
                Instant::now() < deadline,
                format!("waited in vain until {what}"),
            )?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends the machine, and looks for what is left of it.
    async fn end(self) -> Checked {
        for task in &self.assigned {
            let task = task.task.id.clone();
            self.machine
                .controller
                .say(AgentEvent::Forget { task })
                .await;
        }
        let tasks = self.machine.state().join("tasks");
        self.until("the agent has let go of all tasks", |place| {
            let folders = fs::read_dir(&tasks)?.count();
            Ok(folders == 0 && place.machine.leaves_of_nobody().is_empty())
        })
        .await?;
        let mounts = count_mounts();
        ensure(
            mounts == self.mounts,
            format!("{mounts} mounts, {} before", self.mounts),
        )?;
        let group = format!("{CGROUP_ROOT}{}", self.group(""));
        drop(self.machine);
        ensure(!Path::new(&group).exists(), "its group is left")
    }
}

/// An assignment of a task that begins to end as soon as it is asked to.
fn version_of(name: &str, version: Version, mut spec: Value) -> Assignment {
    spec["stop"] = json!({"drain_ms": 0, "signal": "SIGTERM", "grace_ms": GRACE_MS});
    let mut task = assignment(name, spec);
    task.task.version = version;
    task
}

fn group_of(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.trim().trim_start_matches("0::").to_owned()
}

fn namespace(pid: i32, name: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/{name}")).ok()
}

fn count_mounts() -> usize {
    fs::read_to_string("/proc/self/mountinfo").map_or(0, |text| text.lines().count())
}

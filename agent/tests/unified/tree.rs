//! The contract of the tree itself: limits, measures, kill, pressure, resizing, and what becomes of processes
//! without memory.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::Child;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::event::{PollFd, Timespec, poll};
use tw_agent::cgroup::{CGROUP_ROOT, CgroupError, CgroupTree, Limits, TreeKind, TreePath};
use tw_agent::helper::OomRecord;

use crate::guest::check;
use crate::{Checked, MIB, ensure, hog};

type Check = fn(&dyn CgroupTree) -> Checked;

/// How long anything may take under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where these checks have their leaves.
pub(crate) static SUBTREE: LazyLock<TreePath> =
    LazyLock::new(|| TreePath::new(CGROUP_ROOT, "twill"));

pub(crate) fn run() {
    let checks: [(&str, Check); 6] = [
        (
            "a leaf is limited, measured, killed and removed",
            limits_and_kill,
        ),
        ("limits grow and shrink, and never below use", resizing),
        ("processes are bounded", processes),
        (
            "a task without memory is held, diagnosed, and ends in order",
            held_at_high,
        ),
        (
            "the kernel takes a task as a whole, and its sibling lives",
            killed_as_a_group,
        ),
        ("a cgroup that was killed says that it is empty", emptiness),
    ];
    for (name, run) in checks {
        check(name, || run(SUBTREE.open()?.as_ref()));
    }
}

fn limits(memory_bytes_max: u64) -> Limits {
    Limits {
        cpu_millicores: 500,
        cpu_quota_millicores: Some(800),
        memory_bytes_max,
        pids_max: 20,
        swap_bytes_max: 0,
        io_weight: 100,
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) -> Checked {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        if Instant::now() > deadline {
            return Err(format!("waited in vain until {what}").into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn begin(tree: &dyn CgroupTree, leaf: &str, memory_bytes_max: u64) -> Checked {
    tree.create(leaf)?;
    Ok(tree.set_limits(leaf, &limits(memory_bytes_max))?)
}

fn end(tree: &dyn CgroupTree, leaf: &str, children: Vec<Child>) -> Checked {
    tree.kill(leaf)?;
    for mut child in children {
        child.wait()?;
    }
    Ok(tree.remove(leaf, PATIENCE)?)
}

fn limits_and_kill(tree: &dyn CgroupTree) -> Checked {
    ensure(tree.kind() == TreeKind::Unified, "not a cgroup2")?;
    begin(tree, "a", 64 * MIB)?;
    ensure(tree.memory_limit_bytes("a")? == 64 * MIB, "another limit")?;
    let child = hog::start("a", 20, "waits")?;
    until("20 MiB are used", || {
        tree.usage("a")
            .is_ok_and(|usage| usage.memory_bytes > 20 * MIB)
    })?;
    let usage = tree.usage("a")?;
    ensure(
        usage.pids == 1 && usage.cpu_usage_us > 0,
        format!("{usage:?}"),
    )?;
    ensure(usage.memory_peak_bytes >= 20 * MIB, format!("{usage:?}"))?;
    let refused = tree.remove("a", Duration::ZERO);
    ensure(
        matches!(refused, Err(CgroupError::NotEmpty { .. })),
        "removed alive",
    )?;
    end(tree, "a", vec![child])?;
    ensure(
        !tree.leaves()?.contains(&"a".to_owned()),
        "it is still there",
    )
}

fn resizing(tree: &dyn CgroupTree) -> Checked {
    let patience = Duration::from_secs(2);
    begin(tree, "b", 64 * MIB)?;
    let mut child = hog::start("b", 40, "waits")?;
    until("40 MiB are used", || {
        tree.usage("b")
            .is_ok_and(|usage| usage.memory_bytes > 40 * MIB)
    })?;
    tree.resize("b", &limits(128 * MIB), patience)?;
    ensure(
        tree.memory_limit_bytes("b")? == 128 * MIB,
        "it did not grow",
    )?;
    let refused = tree.resize("b", &limits(20 * MIB), patience);
    ensure(
        matches!(refused, Err(CgroupError::MemoryInUse { .. })),
        format!("{refused:?}"),
    )?;
    ensure(
        tree.memory_limit_bytes("b")? == 128 * MIB,
        "the old limit did not stay",
    )?;
    tree.resize("b", &limits(80 * MIB), patience)?;
    ensure(
        tree.memory_limit_bytes("b")? == 80 * MIB,
        "it did not shrink",
    )?;
    ensure(child.try_wait()?.is_none(), "resizing killed the task")?;
    ensure(tree.usage("b")?.oom_kills == 0, "the kernel had to kill")?;
    end(tree, "b", vec![child])
}

fn processes(tree: &dyn CgroupTree) -> Checked {
    begin(tree, "c", 256 * MIB)?;
    let mut child = hog::start("c", 1, "forks")?;
    let status = child.wait()?;
    let refused = status.code().unwrap_or(0);
    ensure(
        (20..40).contains(&refused),
        format!("{refused} of 40 refused ({status})"),
    )?;
    end(tree, "c", Vec::new())
}

fn held_at_high(tree: &dyn CgroupTree) -> Checked {
    begin(tree, "d", 48 * MIB)?;
    let mut watch = tree.watch_memory("d")?;
    let mut child = hog::start("d", 200, "orderly")?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (fd, flags) = watch.poll();
        let second = Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        };
        poll(&mut [PollFd::new(&fd, flags)], Some(&second))?;
        if watch.is_out()? {
            break;
        }
        ensure(
            child.try_wait()?.is_none(),
            format!("gone before anybody was told: {:?}", tree.usage("d")?),
        )?;
        ensure(Instant::now() < deadline, "nobody was told")?;
    }
    ensure(tree.usage("d")?.oom_kills == 0, "the kernel had to kill")?;
    let record = OomRecord::of(tree, "d", 0);
    let holder = record.holders.first().ok_or("nobody held it")?;
    ensure(holder.anon_bytes > 30 * MIB, record.to_string())?;
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM)?;
    tree.raise_memory("d", record.limit_bytes + record.grace_bytes)?;
    let status = child.wait()?;
    ensure(status.code() == Some(7), format!("it ended with {status}"))?;
    ensure(tree.usage("d")?.oom_kills == 0, "the kernel had to kill")?;
    end(tree, "d", Vec::new())
}

fn killed_as_a_group(tree: &dyn CgroupTree) -> Checked {
    begin(tree, "sibling", 64 * MIB)?;
    begin(tree, "e", 48 * MIB)?;
    let mut sibling = hog::start("sibling", 10, "waits")?;
    let mut quiet = hog::start("e", 1, "waits")?;
    until("both run", || {
        let runs = |leaf: &str| tree.usage(leaf).is_ok_and(|usage| usage.memory_bytes > MIB);
        runs("sibling") && runs("e")
    })?;
    // Nobody watches and nothing holds it.
    fs::write("/sys/fs/cgroup/twill/e/memory.high", "max")?;
    let mut greedy = hog::start("e", 200, "waits")?;
    let (first, second) = (greedy.wait()?, quiet.wait()?);
    ensure(
        first.signal() == Some(9) && second.signal() == Some(9),
        format!("{first}, {second}"),
    )?;
    ensure(tree.usage("e")?.oom_kills > 0, "the kernel did not say so")?;
    ensure(sibling.try_wait()?.is_none(), "the sibling was a victim")?;
    end(tree, "e", Vec::new())?;
    end(tree, "sibling", vec![sibling])
}

fn emptiness(tree: &dyn CgroupTree) -> Checked {
    begin(tree, "f", 64 * MIB)?;
    ensure(tree.is_empty("f")?, "empty at first")?;
    let mut child = hog::start("f", 1, "waits")?;
    until("it runs", || !tree.is_empty("f").unwrap_or(true))?;
    ensure(
        tree.processes("f")? == [child.id().cast_signed()],
        "other processes",
    )?;
    tree.kill("f")?;
    ensure(child.wait()?.signal() == Some(9), "not killed")?;
    until("it is empty", || tree.is_empty("f").unwrap_or(false))?;
    let mut pressure = String::new();
    fs::File::open("/sys/fs/cgroup/twill/f/memory.pressure")?.read_to_string(&mut pressure)?;
    ensure(pressure.starts_with("some avg10="), pressure)?;
    end(tree, "f", Vec::new())
}

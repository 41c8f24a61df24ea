//! Cgroups: the machine's own, and the v2 backend on a folder of files.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use tw_agent::cgroup::{CgroupError, CgroupTree, Limits, TreeKind, TreePath, detect};

use crate::common::{PATIENCE, Subtree, limits};

/// A process in a leaf that holds about `mib` of memory.
fn hog(tree: &dyn CgroupTree, leaf: &str, mib: u32) -> Child {
    let entry = tree.entry(leaf).expect("the leaf is there");
    let mut files: Vec<_> = entry.procs.iter().map(path_of).collect();
    files.extend(
        entry
            .directory
            .iter()
            .map(|fd| path_of(fd).join("cgroup.procs")),
    );
    spawn_in(&files, mib)
}

/// A process that has written itself to `procs`.
fn hog_in(procs: &[OwnedFd], mib: u32) -> Child {
    spawn_in(&procs.iter().map(path_of).collect::<Vec<_>>(), mib)
}

fn path_of(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
}

fn spawn_in(files: &[PathBuf], mib: u32) -> Child {
    let joins: String = files
        .iter()
        .map(|file| format!("echo 0 > {}; ", file.display()))
        .collect();
    let script = format!(
        "{joins} exec /usr/bin/python3 -c 'import time; x = bytearray({mib} << 20); time.sleep(60)'"
    );
    Command::new("sh").arg("-c").arg(script).spawn().unwrap()
}

fn wait_for(mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_leaf_is_limited_measured_killed_and_removed() {
    let subtree = Subtree::new();
    let tree = subtree.open();
    tree.create("a").unwrap();
    tree.set_limits("a", &limits()).unwrap();
    assert_eq!(tree.memory_limit_bytes("a").unwrap(), 64 << 20);
    assert!(tree.is_empty("a").unwrap());
    let mut child = hog(&*tree, "a", 20);
    wait_for(|| tree.usage("a").unwrap().memory_bytes > 20 << 20);
    let usage = tree.usage("a").unwrap();
    assert!(
        usage.memory_peak_bytes >= usage.memory_working_set_bytes
            && usage.pids == 1
            && usage.cpu_usage_us > 0
    );
    assert!(matches!(
        tree.remove("a", Duration::ZERO),
        Err(CgroupError::NotEmpty { .. })
    ));
    tree.kill("a").unwrap();
    child.wait().unwrap();
    tree.remove("a", PATIENCE).unwrap();
    assert_eq!(tree.leaves().unwrap(), Vec::<String>::new());
    assert!(
        tree.is_empty("a").unwrap(),
        "a leaf that is not there is empty"
    );
    tree.remove("a", PATIENCE).unwrap();
}

#[test]
fn a_running_leaf_grows_and_shrinks_but_not_below_its_use() {
    let subtree = Subtree::new();
    let tree = subtree.open();
    tree.create("a").unwrap();
    tree.set_limits("a", &limits()).unwrap();
    let mut child = hog(&*tree, "a", 30);
    wait_for(|| tree.usage("a").unwrap().memory_bytes > 30 << 20);
    let patience = Duration::from_millis(200);
    for (mib, fits) in [(128, true), (48, true), (16, false), (256, true)] {
        let asked = Limits {
            memory_bytes_max: mib << 20,
            ..limits()
        };
        let before = tree.memory_limit_bytes("a").unwrap();
        match tree.resize("a", &asked, patience) {
            Ok(()) => assert!(fits, "{mib} MiB"),
            Err(CgroupError::MemoryInUse {
                asked_bytes,
                used_bytes,
            }) => {
                assert!(!fits && asked_bytes == mib << 20 && used_bytes > 30 << 20);
            }
            Err(other) => panic!("{other}"),
        }
        let expected = if fits { mib << 20 } else { before };
        assert_eq!(tree.memory_limit_bytes("a").unwrap(), expected);
        assert_eq!(
            child.try_wait().unwrap(),
            None,
            "the process lives at {mib} MiB"
        );
    }
    tree.kill("a").unwrap();
    child.wait().unwrap();
}

#[test]
fn what_was_reserved_becomes_the_leaf_with_its_processes() {
    let subtree = Subtree::new();
    let tree = subtree.open();
    tree.create("helpers").unwrap();
    let joined = tree.reserve("spare-1").unwrap();
    let mut child = hog_in(&joined, 1);
    wait_for(|| joined.is_empty() || !tree.is_empty("spare-1").unwrap());
    tree.assume("spare-1", "a").unwrap();
    tree.set_limits("a", &limits()).unwrap();
    assert_eq!(tree.leaves().unwrap(), ["a", "helpers"]);
    assert_eq!(tree.is_empty("a").unwrap(), joined.is_empty());
    tree.kill("a").unwrap();
    if !joined.is_empty() {
        child.wait().unwrap();
    }
    tree.remove("a", PATIENCE).unwrap();
    let _not_in_a_group = child.kill();
    child.wait().unwrap();
}

#[test]
fn names_that_lead_out_of_the_subtree_are_refused() {
    let subtree = Subtree::new();
    let tree = subtree.open();
    for name in ["..", "", "a/b", ".hidden", "x y"] {
        assert!(
            matches!(tree.create(name), Err(CgroupError::Name { .. })),
            "{name:?}"
        );
    }
    assert!(TreePath::new(&subtree.path.root, "../up").open().is_err());
    // So that it can be removed.
    tree.create("a").unwrap();
}

/// The files that cgroup2 would make in a new group.
fn fake_leaf(path: &std::path::Path) {
    fs::create_dir_all(path).unwrap();
    for (name, text) in [
        ("cgroup.kill", ""),
        ("cgroup.events", "populated 0\nfrozen 0\n"),
        ("cgroup.procs", ""),
        ("cpu.weight", "100"),
        ("cpu.max", "max 100000"),
        (
            "cpu.stat",
            "usage_usec 1500\nuser_usec 1000\nnr_throttled 2\nthrottled_usec 30\n",
        ),
        ("memory.max", "max"),
        ("memory.high", "max"),
        ("memory.oom.group", "0"),
        ("memory.swap.current", "0"),
        ("memory.swap.max", "max"),
        ("io.weight", "default 100"),
        ("memory.current", "20971520"),
        ("memory.peak", "31457280"),
        ("memory.stat", "anon 1\ninactive_file 1048576\n"),
        ("memory.events", "low 0\noom 1\noom_kill 3\n"),
        ("pids.max", "max"),
        ("pids.current", "4"),
    ] {
        fs::write(path.join(name), text).unwrap();
    }
}

#[test]
fn the_v2_backend_writes_and_reads_the_kernels_files() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("cgroup.controllers"), "cpu memory pids").unwrap();
    let group = root.path().join("twill/agent");
    fs::create_dir_all(&group).unwrap();
    for folder in [root.path(), group.parent().unwrap(), &group] {
        fs::write(folder.join("cgroup.subtree_control"), "").unwrap();
    }
    assert_eq!(detect(root.path()).unwrap(), TreeKind::Unified);
    let tree = TreePath::new(root.path(), "twill/agent").open().unwrap();
    tree.create("a").unwrap();
    assert_eq!(
        fs::read_to_string(group.join("cgroup.subtree_control")).unwrap(),
        "+cpu +memory +pids"
    );
    let leaf = group.join("a");
    fake_leaf(&leaf);
    let file = |name: &str| fs::read_to_string(leaf.join(name)).unwrap();
    let asked = Limits {
        cpu_millicores: 2500,
        cpu_quota_millicores: Some(1500),
        swap_bytes_max: 8 << 20,
        io_weight: 200,
        ..limits()
    };
    tree.set_limits("a", &asked).unwrap();
    // A file keeps the tail of a longer text that was there; the kernel does not.
    for (name, expected) in [
        ("cpu.weight", "250"),
        ("cpu.max", "150000 100000"),
        ("memory.max", "67108864"),
        ("memory.oom.group", "1"),
        ("memory.swap.max", "8388608"),
        ("io.weight", "default 200"),
        ("pids.max", "64"),
    ] {
        assert!(file(name).starts_with(expected), "{name}: {}", file(name));
    }
    let usage = tree.usage("a").unwrap();
    assert_eq!(
        (
            usage.cpu_usage_us,
            usage.cpu_throttled_us,
            usage.oom_kills,
            usage.pids
        ),
        (1500, 30, 3, 4)
    );
    assert_eq!(usage.memory_working_set_bytes, 19 << 20);
    assert_eq!(usage.memory_peak_bytes, 30 << 20);
    // 20 MiB are in use: a limit of 10 is refused, pressure is taken back, the old limit stands.
    let shrunk = tree.resize(
        "a",
        &Limits {
            memory_bytes_max: 10 << 20,
            ..limits()
        },
        Duration::ZERO,
    );
    assert!(
        matches!(shrunk, Err(CgroupError::MemoryInUse { .. })),
        "{shrunk:?}"
    );
    assert!(
        file("memory.high").starts_with("62914560") && file("memory.max").starts_with("67108864")
    );
    let others = Limits {
        cpu_millicores: 300,
        memory_bytes_max: 32 << 20,
        swap_bytes_max: 16 << 20,
        io_weight: 50,
        ..limits()
    };
    tree.resize("a", &others, Duration::ZERO).unwrap();
    for (name, expected) in [
        ("cpu.weight", "30"),
        ("cpu.max", "max 100000"),
        ("memory.max", "33554432"),
        ("memory.swap.max", "16777216"),
        ("io.weight", "default 50"),
    ] {
        assert!(file(name).starts_with(expected), "{name}: {}", file(name));
    }
    // A machine may have neither.
    for name in ["memory.swap.max", "io.weight"] {
        fs::remove_file(leaf.join(name)).unwrap();
    }
    tree.resize("a", &others, Duration::ZERO).unwrap();
    tree.set_limits("a", &others).unwrap();
    assert!(!leaf.join("memory.swap.max").exists() && !leaf.join("io.weight").exists());
    tree.kill("a").unwrap();
    assert_eq!(file("cgroup.kill"), "1");
}

#[test]
fn a_launcher_that_has_joined_but_one_group_is_killed_with_its_leaf() {
    let subtree = Subtree::new();
    let tree = subtree.open();
    tree.create("a").unwrap();
    let procs = tree.entry("a").unwrap().procs;
    // Where a process is cloned straight into a leaf, there are no launchers.
    let Some(first) = procs.first() else { return };
    let mut child = spawn_in(&[path_of(first)], 1);
    wait_for(|| !tree.is_empty("a").unwrap());
    tree.kill("a").unwrap();
    child.wait().unwrap();
    tree.remove("a", PATIENCE).unwrap();
}

//! The v2 part of the cgroup contract on a real cgroup2: limits, measures, kill, pressure, resizing, and what
//! becomes of a task without memory.
//!
//! This machine may have no v2 controllers, so the test boots a kernel that has: this program is also the
//! first process of a small virtual machine (qemu, without KVM), where it runs the contract and says on the
//! serial line how that went. Where qemu or a kernel is missing it says so and passes. It shows what is right,
//! not how fast: emulation is about eight times slower.

use std::error::Error;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::Pid;
use rustix::event::{PollFd, Timespec, poll};
use tw_agent::cgroup::{CgroupError, CgroupTree, Limits, TreeKind, TreePath};
use tw_agent::helper::OomRecord;

type Checked = Result<(), Box<dyn Error>>;

type Check = fn(&dyn CgroupTree) -> Checked;

/// How long anything may take under emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a boot with all of the contract may take.
const BOOT_WITHIN: Duration = Duration::from_secs(240);

const MIB: u64 = 1 << 20;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["hog", leaf, mib, how] => hog(leaf, mib.parse().unwrap_or(1), how),
        _ if std::process::id() == 1 => guest(),
        _ => host(),
    }
}

/// The real machine: boots the virtual one and reads what it says.
fn host() -> ExitCode {
    let found = match (program("qemu-system-x86_64"), kernel()) {
        (Some(qemu), Some(kernel)) => (qemu, kernel),
        (None, _) => return not_run("qemu-system-x86_64 is not installed"),
        (_, None) => {
            return not_run("there is no kernel at target/kernel/vmlinuz; .ci/kernel fetches one");
        }
    };
    let (passed, failed, said) = match boot(&found.0, &found.1) {
        Ok(said) => {
            let count = |word: &str| said.lines().filter(|line| line.starts_with(word)).count();
            let is_whole = said.contains("CONTRACT end");
            (
                count("CONTRACT ok"),
                count("CONTRACT failed") + usize::from(!is_whole),
                said,
            )
        }
        Err(error) => (0, 1, error.to_string()),
    };
    let lines = said
        .lines()
        .filter(|line| failed > 0 || line.starts_with("CONTRACT"));
    lines.for_each(|line| print(&format!("{line}\n")));
    let word = if failed == 0 { "ok" } else { "FAILED" };
    print(&format!(
        "\ntest result: {word}. {passed} passed; {failed} failed; on a booted cgroup2\n"
    ));
    ExitCode::from(u8::from(failed > 0))
}

fn not_run(why: &str) -> ExitCode {
    print(&format!(
        "the contract on a real cgroup2 was NOT RUN: {why}\n"
    ));
    ExitCode::SUCCESS
}

fn print(text: &str) {
    // A closed standard output changes nothing of the outcome.
    let _written = std::io::stdout().write_all(text.as_bytes());
}

fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

fn kernel() -> Option<PathBuf> {
    let named = std::env::var_os("TW_KERNEL").map(PathBuf::from);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kernel/vmlinuz");
    named.into_iter().chain([kept]).find(|path| path.is_file())
}

fn boot(qemu: &Path, kernel: &Path) -> Result<String, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let (image, serial) = (
        folder.path().join("initramfs"),
        folder.path().join("serial"),
    );
    fs::write(&image, initramfs()?)?;
    let mut machine = Command::new(qemu)
        .args(["-accel", "tcg", "-cpu", "max", "-m", "768", "-no-reboot"])
        .args(["-display", "none", "-monitor", "none", "-net", "none"])
        .arg("-serial")
        .arg(format!("file:{}", serial.display()))
        .args(["-append", "console=ttyS0 quiet panic=-1 psi=1"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(&image)
        .stdin(Stdio::null())
        .spawn()?;
    let deadline = Instant::now() + BOOT_WITHIN;
    while machine.try_wait()?.is_none() {
        if Instant::now() > deadline {
            machine.kill()?;
            machine.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = fs::read(&serial).unwrap_or_default();
    Ok(String::from_utf8_lossy(&said).replace('\r', ""))
}

/// An archive in the `newc` form of cpio with this program, its libraries, and a console.
fn initramfs() -> Result<Vec<u8>, Box<dyn Error>> {
    const FOLDER: u32 = 0o040_755;
    const PROGRAM: u32 = 0o100_755;
    const CONSOLE: u32 = 0o020_600;
    let this = std::env::current_exe()?;
    let listed = Command::new("ldd").arg(&this).output()?;
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let libraries: Vec<&str> = text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .collect();
    let mut archive = Archive::default();
    for name in ["dev", "proc", "sys", "tmp"] {
        archive.add(name, FOLDER, &[], (0, 0));
    }
    for library in libraries {
        let mut folders: Vec<&Path> = Path::new(library).ancestors().skip(1).collect();
        folders.reverse();
        for folder in folders.into_iter().skip(1) {
            archive.add(&folder.to_string_lossy()[1..], FOLDER, &[], (0, 0));
        }
        archive.add(&library[1..], PROGRAM, &fs::read(library)?, (0, 0));
    }
    archive.add("dev/console", CONSOLE, &[], (5, 1));
    archive.add("init", PROGRAM, &fs::read(&this)?, (0, 0));
    Ok(archive.finish())
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8], (major, minor): (u32, u32)) {
        self.files += 1;
        let fields = [
            self.files,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            major,
            minor,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }
}

/// The virtual machine's first process.
fn guest() -> ExitCode {
    if let Err(error) = mount_all() {
        print(&format!("CONTRACT failed mounts: {error}\n"));
    }
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
    let tree = TreePath::new("/sys/fs/cgroup", "twill").open();
    for (name, check) in checks {
        let checked = match &tree {
            Ok(tree) => check(tree.as_ref()),
            Err(error) => Err(error.to_string().into()),
        };
        match checked {
            Ok(()) => print(&format!("CONTRACT ok {name}\n")),
            Err(error) => print(&format!("CONTRACT failed {name}: {error}\n")),
        }
    }
    print("CONTRACT end\n");
    // The end of its first process ends the machine: it panics, and panics without a wait end the emulator.
    ExitCode::SUCCESS
}

fn mount_all() -> Checked {
    let none = None::<&str>;
    for (kind, place) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/tmp")] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), none)?;
    }
    mount(
        Some("cgroup2"),
        "/sys/fs/cgroup",
        Some("cgroup2"),
        MsFlags::empty(),
        none,
    )?;
    Ok(())
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

/// Starts a process that joins `leaf` and takes memory there.
fn start_hog(leaf: &str, mib: u64, how: &str) -> Result<Child, Box<dyn Error>> {
    let child = Command::new("/proc/self/exe")
        .args(["hog", leaf, &mib.to_string(), how])
        .spawn()?;
    Ok(child)
}

fn hog(leaf: &str, mib: u64, how: &str) -> ExitCode {
    extern "C" fn end_in_order(_signal: i32) {
        // SAFETY: `_exit` may be called in a signal handler, takes any number and does not return.
        unsafe { libc::_exit(7) };
    }
    if how == "orderly" {
        // SAFETY: the handler calls nothing but `_exit`.
        let set = unsafe { signal(Signal::SIGTERM, SigHandler::Handler(end_in_order)) };
        if set.is_err() {
            return ExitCode::FAILURE;
        }
    }
    let tree = TreePath::new("/sys/fs/cgroup", "twill").open();
    if tree.and_then(|tree| tree.join(leaf)).is_err() {
        return ExitCode::FAILURE;
    }
    if how == "forks" {
        let refused = (0..40)
            .filter(|_| start_hog(leaf, 1, "waits").is_err())
            .count();
        return ExitCode::from(u8::try_from(refused).unwrap_or(u8::MAX));
    }
    let mut held = Vec::new();
    for _ in 0..mib {
        held.push(vec![1_u8; MIB as usize]);
    }
    loop {
        std::thread::sleep(Duration::from_secs(1));
        std::hint::black_box(&held);
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

fn ensure(holds: bool, what: impl Into<String>) -> Checked {
    match holds {
        true => Ok(()),
        false => Err(what.into().into()),
    }
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
    let child = start_hog("a", 20, "waits")?;
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
    let mut child = start_hog("b", 40, "waits")?;
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
    let mut child = start_hog("c", 1, "forks")?;
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
    let mut child = start_hog("d", 200, "orderly")?;
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
    let mut sibling = start_hog("sibling", 10, "waits")?;
    let mut quiet = start_hog("e", 1, "waits")?;
    until("both run", || {
        let runs = |leaf: &str| tree.usage(leaf).is_ok_and(|usage| usage.memory_bytes > MIB);
        runs("sibling") && runs("e")
    })?;
    // Nobody watches and nothing holds it.
    fs::write("/sys/fs/cgroup/twill/e/memory.high", "max")?;
    let mut greedy = start_hog("e", 200, "waits")?;
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
    let mut child = start_hog("f", 1, "waits")?;
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

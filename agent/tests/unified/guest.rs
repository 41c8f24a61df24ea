//! The virtual machine: its first process, and the checks.

use std::any::Any;
use std::error::Error;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sys::wait::wait;
use nix::unistd::{Pid, chdir, chroot};

use crate::initramfs::{CONTRACT, FILES, MODULES};
use crate::{Checked, END, FAILED, NOT_RUN, OK, print, tasks, tree};

const NONE: Option<&str> = None;

/// The virtual machine's first process: it mounts what there is to mount, and reaps.
pub(crate) fn init() -> ExitCode {
    if let Err(error) = prepare().and_then(|()| run_and_reap()) {
        print(&format!("{FAILED} the first process: {error}\n"));
    }
    // Its end ends the machine: the kernel panics, and panics without a wait end the emulator.
    ExitCode::SUCCESS
}

fn prepare() -> Checked {
    // The kernel's first root can be left by no process, and tasks have roots of their own.
    mount(Some("/"), "/new", NONE, MsFlags::MS_BIND, NONE)?;
    chdir("/new")?;
    mount(Some("."), "/", NONE, MsFlags::MS_MOVE, NONE)?;
    chroot(".")?;
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("tracefs", "/sys/kernel/tracing"),
    ] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), NONE)?;
    }
    Ok(())
}

/// Mounts a file system for all that agents keep: on a disk in memory, whose cached files count as memory of tasks and
/// can be taken back, or where there is none, in memory. Answers whether there is one.
fn mount_disk() -> Result<bool, Box<dyn Error>> {
    const DISK: &str = "/dev/ram0";
    let is_disk = load("brd", &["rd_nr=1", "rd_size=393216"])
        && Path::new(DISK).exists()
        && Command::new("mke2fs").arg(DISK).output()?.status.success();
    let (what, kind) = match is_disk {
        true => (DISK, "ext4"),
        false => ("tmpfs", "tmpfs"),
    };
    mount(Some(what), FILES, Some(kind), MsFlags::empty(), NONE)?;
    Ok(is_disk)
}

/// Loads a module of the kernel; false where there is none that loads.
fn load(module: &str, parameters: &[&str]) -> bool {
    let file = format!("{MODULES}/{module}.ko");
    let loaded = Command::new("insmod").arg(file).args(parameters).output();
    loaded.is_ok_and(|loaded| loaded.status.success())
}

/// Runs the checks in a process of their own: whoever is left without a parent is this one's to reap.
fn run_and_reap() -> Checked {
    let checks = Command::new(CONTRACT)
        .arg("checks")
        .env("PATH", "/usr/bin")
        .env("TMPDIR", FILES)
        .spawn()?;
    let checks = Pid::from_raw(checks.id().cast_signed());
    while wait()?.pid() != Some(checks) {}
    Ok(())
}

pub(crate) fn run_checks() -> ExitCode {
    tree::run();
    match mount_disk() {
        Ok(has_disk) if load("overlay", &[]) || knows_overlays() => tasks::run(has_disk),
        Ok(_) => print(&format!(
            "{NOT_RUN}: tasks of an agent, as there is no module of this kernel for overlays in target/kernel/modules\n"
        )),
        Err(error) => print(&format!("{FAILED} a disk: {error}\n")),
    }
    print(&format!("{END}\n"));
    ExitCode::SUCCESS
}

fn knows_overlays() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.contains("overlay")
}

/// Runs a check and says how it went; a panic is a failure.
pub(crate) fn check(name: &str, body: impl FnOnce() -> Checked) -> bool {
    let began = Instant::now();
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(panic) => Some(words_of(panic.as_ref())),
    };
    let took = began.elapsed().as_secs_f64();
    match &failure {
        None => print(&format!("{OK} {name} ({took:.1} s)\n")),
        Some(why) => print(&format!("{FAILED} {name} ({took:.1} s): {why}\n")),
    }
    failure.is_none()
}

fn words_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("it panicked").to_owned()
}

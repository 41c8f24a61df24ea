//! The mounts that make a task's root.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::fs::{AtFlags, CWD, OFlags, ResolveFlags};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{At, Bind, SandboxSpec, Stage, StartError};

/// Parts of /proc that tell about, or change, the whole machine: hidden.
const PROC_MASKED: [&str; 10] = [
    "proc/acpi",
    "proc/asound",
    "proc/interrupts",
    "proc/kcore",
    "proc/keys",
    "proc/latency_stats",
    "proc/sched_debug",
    "proc/scsi",
    "proc/timer_list",
    "proc/timer_stats",
];

/// Parts of /proc that programs read and nobody in a task may write.
const PROC_READ_ONLY: [&str; 5] = [
    "proc/bus",
    "proc/fs",
    "proc/irq",
    "proc/sys",
    "proc/sysrq-trigger",
];

/// Character devices of a task: name, major, minor.
const DEVICES: [(&str, u64, u64); 6] = [
    ("dev/null", 1, 3),
    ("dev/zero", 1, 5),
    ("dev/full", 1, 7),
    ("dev/random", 1, 8),
    ("dev/urandom", 1, 9),
    ("dev/tty", 5, 0),
];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
];

/// Makes the calling process's mount namespace the task's: nothing of the host is left in it but `binds`.
/// The process must already be in a mount and a pid namespace of its own.
pub(super) fn build_root(spec: &SandboxSpec) -> Result<(), StartError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .at(Stage::Mount, "cannot make the mounts private")?;
    let root = mount_overlay(spec)?;
    nix::unistd::fchdir(&root).at(Stage::Mount, "cannot enter the new root")?;
    for bind in &spec.binds {
        attach(root.as_fd(), bind)?;
    }
    mount_dev(spec.shm_bytes_max)?;
    mount_proc()?;
    pivot()
}

/// An overlay of the task's own folder over the base, by descriptors: paths in mount options would have to
/// be free of commas and colons.
fn mount_overlay(spec: &SandboxSpec) -> Result<OwnedFd, StartError> {
    let lower = open_folder(&spec.base)?;
    let upper = open_folder(&spec.folder.join("upper"))?;
    let work = open_folder(&spec.folder.join("work"))?;
    let target = spec.folder.join("root");
    let options = format!(
        "lowerdir=/proc/self/fd/{},upperdir=/proc/self/fd/{},workdir=/proc/self/fd/{}",
        lower.as_raw_fd(),
        upper.as_raw_fd(),
        work.as_raw_fd()
    );
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(
        Some("overlay"),
        &target,
        Some("overlay"),
        flags,
        Some(options.as_str()),
    )
    .at(
        Stage::Mount,
        format_args!("cannot mount the root over {}", target.display()),
    )?;
    open_folder(&target)
}

fn open_folder(path: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, rustix::fs::Mode::empty())
        .at(Stage::Mount, format_args!("cannot open {}", path.display()))
}

/// Binds one file or folder of the host into the root. The mount gets its flags before it becomes visible.
fn attach(root: BorrowedFd<'_>, bind: &Bind) -> Result<(), StartError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match open_tree(CWD, &bind.source, flags) {
        Err(rustix::io::Errno::NOENT) if bind.is_optional => return Ok(()),
        other => other.at(
            Stage::Mount,
            format_args!("cannot open {}", bind.source.display()),
        )?,
    };
    let read_only = if bind.is_writable {
        0
    } else {
        libc::MOUNT_ATTR_RDONLY
    };
    set_attributes(
        tree.as_fd(),
        libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only,
    )
    .at(
        Stage::Mount,
        format_args!("cannot restrict {}", bind.source.display()),
    )?;
    let is_folder =
        rustix::fs::fstat(&tree).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR);
    let target = mount_point(root, &bind.target, is_folder)?;
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &target, "", how).at(
        Stage::Mount,
        format_args!(
            "cannot show {} as {}",
            bind.source.display(),
            bind.target.display()
        ),
    )
}

/// Sets attributes on a detached mount and those below it.
fn set_attributes(tree: BorrowedFd<'_>, attributes: u64) -> io::Result<()> {
    let attr = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a terminated empty string and `attr` a valid mount_attr of the size given; the
    // kernel only reads both.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Opens the place in the root where something is to be mounted, making it where the base lacks it.
/// Links are followed inside the root only.
fn mount_point(
    root: BorrowedFd<'_>,
    target: &Path,
    is_folder: bool,
) -> Result<OwnedFd, StartError> {
    let what = || format!("cannot make the mount point {}", target.display());
    let relative = target.strip_prefix("/").unwrap_or(target);
    let open = |path: &Path| {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        rustix::fs::openat2(
            root,
            path,
            flags,
            rustix::fs::Mode::empty(),
            ResolveFlags::IN_ROOT,
        )
    };
    match open(relative) {
        Err(rustix::io::Errno::NOENT) => {}
        other => return other.at(Stage::Mount, what()),
    }
    let (Some(parent), Some(name)) = (relative.parent(), relative.file_name()) else {
        return Err(StartError::plain(Stage::Mount, what()));
    };
    let parent = match parent.as_os_str().is_empty() {
        true => root.try_clone_to_owned().at(Stage::Mount, what())?,
        false => mount_point(root, parent, true)?,
    };
    match is_folder {
        true => rustix::fs::mkdirat(&parent, name, rustix::fs::Mode::from_raw_mode(0o755)),
        false => rustix::fs::mknodat(
            &parent,
            name,
            rustix::fs::FileType::RegularFile,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        ),
    }
    .at(Stage::Mount, what())?;
    open(relative).at(Stage::Mount, what())
}

/// A /dev with what programs expect and no device of the machine's.
fn mount_dev(shm_bytes_max: u64) -> Result<(), StartError> {
    let tmpfs = |target: &str, flags: MsFlags, options: &str| {
        mount(
            Some("tmpfs"),
            target,
            Some("tmpfs"),
            flags | MsFlags::MS_NOSUID,
            Some(options),
        )
        .at(Stage::Mount, format_args!("cannot mount /{target}"))
    };
    tmpfs("dev", MsFlags::MS_NOEXEC, "mode=755,size=64k")?;
    for (name, major, minor) in DEVICES {
        let mode = Mode::from_bits_truncate(0o666);
        mknod(name, SFlag::S_IFCHR, mode, makedev(major, minor))
            .at(Stage::Mount, format_args!("cannot make /{name}"))?;
    }
    for (to, name) in DEVICE_LINKS {
        symlink(to, name).at(Stage::Mount, format_args!("cannot make /{name}"))?;
    }
    for name in ["dev/pts", "dev/shm"] {
        fs::create_dir(name).at(Stage::Mount, format_args!("cannot make /{name}"))?;
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(
        Some("devpts"),
        "dev/pts",
        Some("devpts"),
        flags,
        Some("newinstance,ptmxmode=0666,mode=0620,gid=5"),
    )
    .at(Stage::Mount, "cannot mount /dev/pts")?;
    tmpfs(
        "dev/shm",
        MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        &format!("mode=1777,size={shm_bytes_max}"),
    )
}

fn mount_proc() -> Result<(), StartError> {
    let none = None::<&str>;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "proc", Some("proc"), flags, none)
        .at(Stage::Mount, "cannot mount /proc")?;
    for path in PROC_MASKED {
        let Ok(found) = fs::symlink_metadata(path) else {
            continue;
        };
        let hidden = match found.is_dir() {
            true => mount(
                Some("tmpfs"),
                path,
                Some("tmpfs"),
                flags | MsFlags::MS_RDONLY,
                Some("size=0,mode=555"),
            ),
            false => mount(Some("dev/null"), path, none, MsFlags::MS_BIND, none),
        };
        hidden.at(Stage::Mount, format_args!("cannot hide /{path}"))?;
    }
    for path in PROC_READ_ONLY {
        if fs::symlink_metadata(path).is_err() {
            continue;
        }
        mount(
            Some(path),
            path,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )
        .and_then(|()| {
            let again = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
            mount(none, path, none, again | flags, none)
        })
        .at(Stage::Mount, format_args!("cannot protect /{path}"))?;
    }
    Ok(())
}

/// Makes the working directory the root and lets go of the old one.
fn pivot() -> Result<(), StartError> {
    nix::unistd::pivot_root(".", ".").at(Stage::Root, "cannot change the root")?;
    umount2(".", MntFlags::MNT_DETACH).at(Stage::Root, "cannot let go of the host's root")?;
    nix::unistd::chdir("/").at(Stage::Root, "cannot enter the new root")
}

/// The calling process's working directory, or why it has none inside its root (CVE-2024-21626).
pub(super) fn working_directory() -> Result<PathBuf, StartError> {
    let found =
        nix::unistd::getcwd().at(Stage::Workdir, "the working directory is outside the root")?;
    match found.is_absolute() {
        true => Ok(found),
        false => Err(StartError::plain(
            Stage::Workdir,
            "the working directory is outside the root",
        )),
    }
}

/// A path as the kernel takes it.
pub(super) fn c_path(path: &Path) -> Result<CString, StartError> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| {
        StartError::plain(
            Stage::Command,
            format!("{} contains a NUL byte", path.display()),
        )
    })
}

/// Tells whether `path` is there at all, whoever may read it.
pub(super) fn exists(path: &Path) -> bool {
    rustix::fs::statat(CWD, path, AtFlags::empty()).is_ok()
}

//! The mounts that make a task's root.
//!
//! Every mount is made detached and moved to a place that was opened inside the new root, following links inside
//! that root only: no path of an image or a package is ever resolved against the host.

use std::ffi::CString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, makedev};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::user::Account;
use super::users::{UserMode, UserNamespace};
use super::{At, Bind, OWN_ROOT, SandboxSpec, Stage, StartError, UPPER, WORK, secrets};

/// Parts of /proc that tell about, or change, the whole machine: hidden.
const PROC_MASKED: [&str; 10] = [
    "acpi",
    "asound",
    "interrupts",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "timer_list",
    "timer_stats",
];

/// The name, for a moment, of the folder that covers folders of /proc.
const NOTHING: &str = ".nothing";

/// Parts of /proc that programs read and nobody in a task may write.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];

/// Character devices of a task: name, major, minor.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const DEVICE_LINKS: [(&str, &str); 5] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
];

/// The group that owns terminals.
const TTY_GID: u32 = 5;

/// What `/dev` may take beside the shared memory in it.
const DEV_BYTES_MAX: u64 = 64 << 10;

/// What a debugger may write, in memory.
const TOOLS_BYTES_MAX: u64 = 256 << 20;

/// The most that all secrets of a task may have.
const SECRETS_BYTES_MAX: u64 = 8 << 20;

/// What a task may write where its root is read-only; in its own layer.
const WRITABLE_FOLDERS: [&str; 3] = ["run", "tmp", "var"];

const HARMLESS: MountAttrFlags =
    MountAttrFlags::MOUNT_ATTR_NOSUID.union(MountAttrFlags::MOUNT_ATTR_NODEV);
const INERT: MountAttrFlags = HARMLESS.union(MountAttrFlags::MOUNT_ATTR_NOEXEC);

/// Makes the calling process's mount namespace the task's: nothing of the host is left in it but `binds`.
/// The process must already be in a mount and a pid namespace of its own. With `users`, all that the task can
/// reach belongs to its own users. `secrets` has the values of the secrets that the spec names, for `account`.
pub(super) fn build_root(
    spec: &SandboxSpec,
    account: Account,
    users: Option<&UserNamespace>,
    secrets: Option<OwnedFd>,
) -> Result<(), StartError> {
    check_host_binds(spec, account)?;
    make_private()?;
    let reader = users.map_or(account, |users| users.on_host(account));
    let users = users.and_then(UserNamespace::for_files);
    if let Some(users) = users {
        users.act_as_owner()?;
    }
    // Before the root: its layers may cover their places, and no mount can be mapped twice.
    let binds = spec
        .binds
        .iter()
        .map(|bind| Ok((bind, open_bind(bind, users)?)))
        .collect::<Result<Vec<_>, StartError>>()?;
    let root = match spec.has_own_root {
        true => attach_own_root(&spec.folder, users)?,
        false => mount_root(&spec.base, &spec.folder, spec.users, users)?,
    };
    for (bind, tree) in binds {
        if let Some(tree) = tree {
            attach_bind(root.as_fd(), bind, &tree)?;
        }
    }
    let tty_gid = tty_gid(spec.users, users);
    let dev = mount_dev(root.as_fd(), spec.shm_bytes_max, tty_gid)?;
    mount_proc(root.as_fd(), dev.as_fd())?;
    if !spec.secrets.is_empty() {
        mount_secrets(root.as_fd(), &spec.secrets, secrets, reader)?;
    }
    if !spec.is_root_writable {
        protect(root.as_fd())?;
    }
    nix::unistd::fchdir(&root).at(Stage::Mount, "cannot enter the new root")?;
    pivot()
}

/// Root of a task without users of its own is the machine's root, who may read every file that is bound of the host.
fn check_host_binds(spec: &SandboxSpec, account: Account) -> Result<(), StartError> {
    let shows_host = spec.binds.iter().any(|bind| bind.is_of_host);
    if spec.users == UserMode::Shared && account.is_root() && shows_host {
        return Err(StartError::plain(
            Stage::User,
            "root cannot run on the machine's own programs where tasks share the machine's users: it could read every \
             file beside them; use another user, or an image",
        ));
    }
    Ok(())
}

/// The mounts that the process behind `task` sees, as a detached tree. The calling process is in its own mount
/// namespace again afterwards.
pub(super) fn tree_of(task: &OwnedFd) -> Result<OwnedFd, StartError> {
    let home = std::fs::File::open("/proc/self/ns/mnt")
        .at(Stage::Mount, "cannot hold on to the mount namespace")?;
    setns(task, CloneFlags::CLONE_NEWNS).at(Stage::Mount, "cannot enter the task's mounts")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, "/", flags).at(Stage::Mount, "cannot clone the task's mounts");
    setns(&home, CloneFlags::CLONE_NEWNS)
        .at(Stage::Mount, "cannot return from the task's mounts")?;
    tree
}

/// Makes the calling process's mount namespace that of a debugger: the machine's programs over `base`, the task's
/// own root at `/task`, and the processes of the pid namespace. Nothing that is written there lasts: it lies in
/// memory, in place of the task's folder.
pub(super) fn build_tools_root(
    base: &Path,
    sandbox: &SandboxSpec,
    task: &OwnedFd,
) -> Result<(), StartError> {
    make_private()?;
    let binds = super::base::host_binds();
    let binds = binds
        .iter()
        .map(|bind| Ok((bind, open_bind(bind, None)?)))
        .collect::<Result<Vec<_>, StartError>>()?;
    let size = TOOLS_BYTES_MAX.to_string();
    let layer = new_mount(
        "tmpfs",
        &[("mode", "755".to_owned()), ("size", size)],
        HARMLESS,
    )
    .at(Stage::Mount, "cannot make a layer for the tools")?;
    for name in [UPPER, WORK] {
        rustix::fs::mkdirat(&layer, name, Mode::from_raw_mode(0o755))
            .at(Stage::Mount, "cannot make a layer for the tools")?;
    }
    let lower = open_folder(base)?;
    move_onto(layer.as_fd(), open_folder(&sandbox.folder)?.as_fd())
        .at(Stage::Mount, "cannot attach the layer for the tools")?;
    let root = mount_layers(&lower, &Layer::open(&layer)?, sandbox.users)?;
    for (bind, tree) in binds {
        if let Some(tree) = tree {
            attach_bind(root.as_fd(), bind, &tree)?;
        }
    }
    move_onto(
        task.as_fd(),
        mount_point(root.as_fd(), Path::new("/task"), true)?.as_fd(),
    )
    .at(Stage::Mount, "cannot show the task's root")?;
    let dev = mount_dev(root.as_fd(), TOOLS_BYTES_MAX, tty_gid(sandbox.users, None))?;
    mount_proc(root.as_fd(), dev.as_fd())?;
    nix::unistd::fchdir(&root).at(Stage::Mount, "cannot enter the new root")?;
    pivot()
}

fn make_private() -> Result<(), StartError> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .at(Stage::Mount, "cannot make the mounts private")
}

/// Makes a root as `build_root` does in the calling process's mount namespace, to see whether that is possible. The
/// process has nothing else to do, and its mounts end with it.
pub(super) fn try_root(
    base: &Path,
    folder: &Path,
    mode: UserMode,
    users: Option<&UserNamespace>,
) -> Result<(), StartError> {
    make_private()?;
    if let Some(users) = users {
        users.act_as_owner()?;
    }
    let root = mount_root(base, folder, mode, users)?;
    // An upper layer that cannot be written is mounted all the same.
    rustix::fs::mkdirat(&root, "probe", Mode::from_raw_mode(0o755))
        .at(Stage::Mount, "cannot write on mapped layers")?;
    match mode {
        UserMode::Single => {
            let dev = mount_dev(root.as_fd(), 1 << 20, None)?;
            mount_proc(root.as_fd(), dev.as_fd()).map_err(explain_covered_proc)
        }
        UserMode::Mapped | UserMode::Shared => Ok(()),
    }
}

/// The kernel shows a user no /proc of which parts are covered in the one that the user has.
fn explain_covered_proc(error: StartError) -> StartError {
    match error.errno {
        Some(libc::EPERM) => StartError {
            message: format!(
                "{error}; parts of this machine's /proc are covered, as they are in most containers: run the agent outside \
                 of the container, or as root"
            ),
            ..error
        },
        _ => error,
    }
}

/// Makes `folder` the root of the calling process's mount namespace, with nothing else in it, and answers it.
pub(super) fn retreat_to(
    folder: &Path,
    users: Option<&UserNamespace>,
) -> Result<OwnedFd, StartError> {
    make_private()?;
    let tree = mapped_tree(folder, users)?;
    set_attributes(tree.as_fd(), HARMLESS, None, false)
        .at(Stage::Mount, "cannot restrict the folder")?;
    move_onto(tree.as_fd(), open_folder(folder)?.as_fd())
        .at(Stage::Mount, "cannot attach the folder")?;
    nix::unistd::fchdir(&tree).at(Stage::Mount, "cannot enter the folder")?;
    pivot()?;
    rustix::fs::open(
        "/",
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .at(Stage::Root, "cannot open the folder")
}

/// The task's own copy of the base, attached so that it can become the root.
fn attach_own_root(folder: &Path, users: Option<&UserNamespace>) -> Result<OwnedFd, StartError> {
    let tree = mapped_tree(&folder.join(OWN_ROOT), users)?;
    set_attributes(tree.as_fd(), HARMLESS, None, false)
        .at(Stage::Mount, "cannot restrict the task's own root")?;
    move_onto(tree.as_fd(), open_folder(folder)?.as_fd())
        .at(Stage::Mount, "cannot attach the root")?;
    Ok(tree)
}

/// An overlay of the task's own folder over the base, attached so that it can become the root.
fn mount_root(
    base: &Path,
    folder: &Path,
    mode: UserMode,
    users: Option<&UserNamespace>,
) -> Result<OwnedFd, StartError> {
    match users {
        None => {
            let layer = Layer::open(&open_folder(folder)?)?;
            mount_layers(&open_folder(base)?, &layer, mode)
        }
        Some(_) => {
            // Older kernels take no layers that are mounted nowhere.
            let mapped = mapped_tree(folder, users)?;
            move_onto(mapped.as_fd(), open_folder(folder)?.as_fd())
                .at(Stage::Mount, "cannot map the task's folder")?;
            let layer = Layer::open(&mapped)?;
            let lower = mapped_tree(base, users)?;
            move_onto(lower.as_fd(), layer.upper.as_fd())
                .at(Stage::Mount, "cannot map the base")?;
            mount_layers(&lower, &layer, mode)
        }
    }
}

/// What an overlay writes to. Its `upper` is also the place where the overlay is attached: any folder will do in a mount
/// namespace that nobody else sees, and this one needs no making.
struct Layer {
    upper: OwnedFd,
    work: OwnedFd,
}

impl Layer {
    fn open(folder: &OwnedFd) -> Result<Layer, StartError> {
        Ok(Layer {
            upper: open_in(folder.as_fd(), UPPER)?,
            work: open_in(folder.as_fd(), WORK)?,
        })
    }
}

/// An overlay over `lower` with what `layer` has for it, attached there.
fn mount_layers(lower: &OwnedFd, layer: &Layer, mode: UserMode) -> Result<OwnedFd, StartError> {
    let Layer { upper, work } = layer;
    clear_work(work).at(Stage::Mount, "cannot take the task's layer again")?;
    let by_descriptor = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut options = vec![
        ("lowerdir", by_descriptor(lower)),
        ("upperdir", by_descriptor(upper)),
        ("workdir", by_descriptor(work)),
        // Without it the kernel writes out all of the file system that the layer is on, other tasks' files included,
        // whenever a task ends. A layer goes with its task and needs no writing out.
        ("volatile", String::new()),
    ];
    if mode == UserMode::Single {
        // What the overlay notes on files: only the machine's root may write the usual attributes.
        options.push(("userxattr", String::new()));
    }
    let overlay = new_mount("overlay", &options, HARMLESS)
        .at(Stage::Mount, "cannot lay the task's folder over its base")?;
    move_onto(overlay.as_fd(), upper.as_fd()).at(Stage::Mount, "cannot attach the root")?;
    Ok(overlay)
}

/// Removes what the kernel has made in the working folder of an overlay. It marks what it mounts volatile, and refuses to
/// mount it again, as it may be damaged after a crash of the machine. No layer is used behind one: only hooks and the
/// command share it.
pub(crate) fn clear_work(work: impl AsFd) -> rustix::io::Result<()> {
    let made = [
        ("work/incompat/volatile/dirty", AtFlags::empty()),
        ("work/incompat/volatile", AtFlags::REMOVEDIR),
        ("work/incompat", AtFlags::REMOVEDIR),
        ("work", AtFlags::REMOVEDIR),
    ];
    for (name, kind) in made {
        match rustix::fs::unlinkat(&work, name, kind) {
            Err(Errno::NOENT) => return Ok(()),
            // What it was in the middle of; the kernel removes that itself.
            Err(Errno::NOTEMPTY) if name == "work" => {}
            other => other?,
        }
    }
    Ok(())
}

/// A detached copy of the mount at `path`, in which the host's numbers are the task's.
fn mapped_tree(path: &Path, users: Option<&UserNamespace>) -> Result<OwnedFd, StartError> {
    let folder = open_folder(path)?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(&folder, "", flags).at(
        Stage::Mount,
        format_args!("cannot clone {}", path.display()),
    )?;
    set_attributes(tree.as_fd(), MountAttrFlags::empty(), users, false).at(
        Stage::Mount,
        format_args!("cannot map the owners of {}", path.display()),
    )?;
    Ok(tree)
}

fn open_folder(path: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .at(Stage::Mount, format_args!("cannot open {}", path.display()))
}

/// Opens `name` right below `folder`, which must be no link.
fn open_in(folder: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, StartError> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(
        folder,
        name,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
    .at(Stage::Mount, format_args!("cannot open {name}"))
}

/// A new file system, mounted nowhere yet.
fn new_mount(
    kind: &str,
    options: &[(&str, String)],
    attributes: MountAttrFlags,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        match value.is_empty() {
            true => fsconfig_set_flag(context.as_fd(), *key)?,
            false => fsconfig_set_string(context.as_fd(), *key, value.as_str())?,
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn move_onto(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let how = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, "", target, "", how)
}

/// One file or folder of the host as a detached mount, with its flags; none for an optional one that is not there.
fn open_bind(bind: &Bind, users: Option<&UserNamespace>) -> Result<Option<OwnedFd>, StartError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = match open_tree(CWD, &bind.source, flags) {
        Err(Errno::NOENT) if bind.is_optional => return Ok(None),
        other => other.at(
            Stage::Mount,
            format_args!("cannot open {}", bind.source.display()),
        )?,
    };
    let read_only = match bind.is_writable {
        true => MountAttrFlags::empty(),
        false => MountAttrFlags::MOUNT_ATTR_RDONLY,
    };
    let attributes = HARMLESS | read_only;
    let users = users.filter(|_| !bind.is_of_host);
    let restricted = match set_attributes(tree.as_fd(), attributes, users, true) {
        // This file system cannot be mapped. What is only read may show another owner.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) && !bind.is_writable => {
            set_attributes(tree.as_fd(), attributes, None, true)
        }
        other => other,
    };
    restricted.at(
        Stage::Mount,
        format_args!("cannot restrict {}", bind.source.display()),
    )?;
    Ok(Some(tree))
}

/// Shows a detached mount in the root.
fn attach_bind(root: BorrowedFd<'_>, bind: &Bind, tree: &OwnedFd) -> Result<(), StartError> {
    let is_folder =
        rustix::fs::fstat(tree).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
    let target = mount_point(root, &bind.target, is_folder)?;
    move_onto(tree.as_fd(), target.as_fd()).at(
        Stage::Mount,
        format_args!(
            "cannot show {} as {}",
            bind.source.display(),
            bind.target.display()
        ),
    )
}

/// Sets attributes on a mount and, where asked, those below it, and maps its owners to `users`.
fn set_attributes(
    tree: BorrowedFd<'_>,
    attributes: MountAttrFlags,
    users: Option<&UserNamespace>,
    is_recursive: bool,
) -> io::Result<()> {
    let map = users.map_or(0, |_| libc::MOUNT_ATTR_IDMAP);
    let attr = libc::mount_attr {
        attr_set: u64::from(attributes.bits()) | map,
        attr_clr: 0,
        propagation: 0,
        userns_fd: users.map_or(0, |users| users.handle().as_raw_fd() as u64),
    };
    let below = if is_recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a terminated empty string and `attr` a valid mount_attr of the size given; the
    // kernel only reads both.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | below,
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
        rustix::fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    match open(relative) {
        Err(Errno::NOENT) => {}
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
        true => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
        false => rustix::fs::mknodat(
            &parent,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        ),
    }
    .at(Stage::Mount, what())?;
    open(relative).at(Stage::Mount, what())
}

/// A /dev with what programs expect and no device of the machine's.
fn mount_dev(
    root: BorrowedFd<'_>,
    shm_bytes_max: u64,
    tty_gid: Option<u32>,
) -> Result<OwnedFd, StartError> {
    let text = str::to_owned;
    let size = DEV_BYTES_MAX.saturating_add(shm_bytes_max).to_string();
    let dev = new_mount(
        "tmpfs",
        &[("mode", text("755")), ("size", size)],
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    )
    .at(Stage::Mount, "cannot make /dev")?;
    move_onto(
        dev.as_fd(),
        mount_point(root, Path::new("/dev"), true)?.as_fd(),
    )
    .at(Stage::Mount, "cannot attach /dev")?;
    for (name, major, minor) in DEVICES {
        make_device(dev.as_fd(), name, makedev(major, minor))
            .at(Stage::Mount, format_args!("cannot make /dev/{name}"))?;
    }
    for (to, name) in DEVICE_LINKS {
        rustix::fs::symlinkat(to, &dev, name)
            .at(Stage::Mount, format_args!("cannot make /dev/{name}"))?;
    }
    let mut options = vec![
        ("newinstance", String::new()),
        ("ptmxmode", text("0666")),
        ("mode", text("0620")),
    ];
    options.extend(tty_gid.map(|gid| ("gid", gid.to_string())));
    let terminals = new_mount(
        "devpts",
        &options,
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC,
    );
    terminals
        .and_then(|made| {
            rustix::fs::mkdirat(&dev, "pts", Mode::from_raw_mode(0o755))?;
            let place = rustix::fs::openat(
                &dev,
                "pts",
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            move_onto(made.as_fd(), place.as_fd())
        })
        .at(Stage::Mount, "cannot make /dev/pts")?;
    // No file system of its own, which would take longer: both are memory of the task's.
    rustix::fs::mkdirat(&dev, "shm", Mode::from_raw_mode(0o1777))
        .at(Stage::Mount, "cannot make /dev/shm")?;
    Ok(dev)
}

/// A file in memory for each secret, which `reader` alone may read and nobody write.
fn mount_secrets(
    root: BorrowedFd<'_>,
    names: &[String],
    sealed: Option<OwnedFd>,
    reader: Account,
) -> Result<(), StartError> {
    let sealed = sealed.ok_or_else(|| {
        StartError::plain(
            Stage::Mount,
            "the values of its secrets were not handed over",
        )
    })?;
    let values = secrets::open(sealed.as_fd()).at(Stage::Mount, "cannot read the secrets")?;
    let mut options = vec![
        ("mode", "755".to_owned()),
        ("size", SECRETS_BYTES_MAX.to_string()),
        ("noswap", String::new()),
    ];
    // Older kernels cannot keep it out of the swap, nor may an agent without root.
    let made = new_mount("tmpfs", &options, INERT).or_else(|_| {
        options.pop();
        new_mount("tmpfs", &options, INERT)
    });
    let folder = made.at(Stage::Mount, "cannot make /secrets")?;
    for name in names {
        let value = values.get(name).ok_or_else(|| {
            StartError::plain(
                Stage::Mount,
                format!("the value of secret '{name}' was not handed over"),
            )
        })?;
        write_secret(folder.as_fd(), name, value, reader)
            .at(Stage::Mount, format_args!("cannot make /secrets/{name}"))?;
    }
    let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    set_attributes(folder.as_fd(), attributes, None, false)
        .at(Stage::Mount, "cannot make /secrets read-only")?;
    let place = mount_point(root, Path::new("/secrets"), true)?;
    move_onto(folder.as_fd(), place.as_fd()).at(Stage::Mount, "cannot attach /secrets")
}

fn write_secret(
    folder: BorrowedFd<'_>,
    name: &str,
    value: &[u8],
    reader: Account,
) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(folder, name, flags, Mode::from_raw_mode(0o400))?;
    let mut file = std::fs::File::from(file);
    file.write_all(value)?;
    std::os::unix::fs::fchown(&file, Some(reader.uid), Some(reader.gid))
}

/// The host's number of the group of terminals; none where a task has one group only.
fn tty_gid(mode: UserMode, users: Option<&UserNamespace>) -> Option<u32> {
    match mode {
        UserMode::Single => None,
        _ => Some(users.map_or(TTY_GID, |users| users.host_id(TTY_GID))),
    }
}

/// Makes a device node, or shows the host's own where nobody but the machine's root may make one.
fn make_device(dev: BorrowedFd<'_>, name: &str, device: u64) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(0o666);
    match rustix::fs::mknodat(dev, name, FileType::CharacterDevice, mode, device) {
        Err(Errno::PERM) => {}
        made => return made,
    }
    rustix::fs::mknodat(dev, name, FileType::RegularFile, mode, 0)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place = rustix::fs::openat(dev, name, flags, Mode::empty())?;
    let host = rustix::fs::open("/dev", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    move_onto(clone_of(host.as_fd(), name)?.as_fd(), place.as_fd())
}

/// A /proc of the task's processes, without the machine's secrets and switches. What hides them comes from the
/// `dev` that was just made, which nobody else can have touched.
fn mount_proc(root: BorrowedFd<'_>, dev: BorrowedFd<'_>) -> Result<(), StartError> {
    let proc = new_mount("proc", &[], INERT).at(Stage::Mount, "cannot make /proc")?;
    move_onto(
        proc.as_fd(),
        mount_point(root, Path::new("/proc"), true)?.as_fd(),
    )
    .at(Stage::Mount, "cannot attach /proc")?;
    // An empty folder of `dev` covers folders: a file system of its own takes longer.
    rustix::fs::mkdirat(dev, NOTHING, Mode::from_raw_mode(0o555))
        .at(Stage::Mount, "cannot make an empty folder")?;
    for name in PROC_MASKED {
        let Ok(place) = open_in(proc.as_fd(), name) else {
            continue;
        };
        let is_folder = rustix::fs::fstat(&place)
            .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        let cover = match is_folder {
            true => nothing_of(dev),
            false => clone_of(dev, "null").map_err(io::Error::from),
        };
        cover
            .and_then(|cover| Ok(move_onto(cover.as_fd(), place.as_fd())?))
            .at(Stage::Mount, format_args!("cannot hide /proc/{name}"))?;
    }
    // What is mounted of it stays.
    rustix::fs::unlinkat(dev, NOTHING, AtFlags::REMOVEDIR)
        .at(Stage::Mount, "cannot remove an empty folder")?;
    for name in PROC_READ_ONLY {
        let Ok(place) = open_in(proc.as_fd(), name) else {
            continue;
        };
        clone_of(proc.as_fd(), name)
            .map_err(io::Error::from)
            .and_then(|tree| {
                let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
                set_attributes(tree.as_fd(), attributes, None, true)?;
                Ok(move_onto(tree.as_fd(), place.as_fd())?)
            })
            .at(Stage::Mount, format_args!("cannot protect /proc/{name}"))?;
    }
    Ok(())
}

/// A detached mount of an empty folder that nobody can write.
fn nothing_of(dev: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let nothing = clone_of(dev, NOTHING)?;
    let attributes = INERT | MountAttrFlags::MOUNT_ATTR_RDONLY;
    set_attributes(nothing.as_fd(), attributes, None, false)?;
    Ok(nothing)
}

/// A detached copy of the mount of which `name` below `folder` is a part.
fn clone_of(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    open_tree(folder, name, flags)
}

/// Makes the root read-only, but for the folders that every program may write.
fn protect(root: BorrowedFd<'_>) -> Result<(), StartError> {
    for name in WRITABLE_FOLDERS {
        let Ok(place) = open_in(root, name) else {
            continue;
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE
            | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
        open_tree(root, name, flags)
            .and_then(|tree| move_onto(tree.as_fd(), place.as_fd()))
            .at(Stage::Mount, format_args!("cannot keep /{name} writable"))?;
    }
    set_attributes(root, MountAttrFlags::MOUNT_ATTR_RDONLY, None, false)
        .at(Stage::Mount, "cannot make the root read-only")
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

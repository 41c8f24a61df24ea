//! User namespaces: which numbers of the host stand for a task's users.
//!
//! A task's users 0 to 65535 are numbers on the host that nobody else has: what breaks out of a task, or reaches
//! a file of the host by mistake, is no user of the machine, not even when it was root inside. Files keep the
//! task's own numbers on disk, because every mount of the task is mapped as well (idmapped mounts).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use caps::{CapSet, Capability, CapsHashSet};
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setfsgid, setfsuid};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with,
};
use serde::{Deserialize, Serialize};

use super::clone::{CloneRequest, Never, Stack, exit_now, share_memory};
use super::launcher::new_pipe;
use super::user::Account;
use super::{At, Stage, StartError, passing};

/// How many users a task has.
pub const USERS: u32 = 1 << 16;

/// The first number of the host that tasks are given; far above what `adduser` and `newuidmap` hand out.
const HOST_FIRST: u32 = 1 << 30;

/// How many tasks can have numbers of their own at once.
const RANGES: u32 = 1 << 14;

/// How many ranges are tried before one is shared.
const TRIES: u32 = 64;

/// Whether a task has a user namespace, and what it maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserMode {
    /// The host's own numbers: where file systems cannot be mapped.
    #[default]
    Shared,
    /// A range of numbers that is the task's own.
    Mapped,
    /// One user, who is the agent's own on the host: all that an agent without root can give.
    Single,
}

/// A user namespace that a task will live in.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    handle: OwnedFd,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Range {
        host_first: u32,
        /// Keeps the range ours; none when no range was free.
        claim: Option<OwnedFd>,
    },
    Single,
}

/// What a namespace maps: users and groups, as the kernel reads them.
struct Maps {
    users: String,
    groups: String,
}

impl UserNamespace {
    /// Makes a namespace with a range of its own. The caller must have one thread only.
    pub(super) fn new() -> Result<UserNamespace, StartError> {
        let (host_first, claim) = claim_range();
        let map = format!("0 {host_first} {USERS}");
        let maps = Maps {
            users: map.clone(),
            groups: map,
        };
        let kind = Kind::Range { host_first, claim };
        UserNamespace::with(&maps, kind)
    }

    /// Makes a namespace in which the calling process's user is `account`, and nobody else is anybody. The caller must
    /// have one thread only, and have come through [`become_root_of_own`].
    pub(super) fn single(account: Account) -> Result<UserNamespace, StartError> {
        let maps = Maps {
            users: format!("{} 0 1", account.uid),
            groups: format!("{} 0 1", account.gid),
        };
        UserNamespace::with(&maps, Kind::Single)
    }

    fn with(maps: &Maps, kind: Kind) -> Result<UserNamespace, StartError> {
        let (parked, wake) = new_pipe()?;
        let stack = Stack::new().at(Stage::Clone, "cannot make a stack")?;
        let request = CloneRequest {
            flags: libc::CLONE_NEWUSER as u64,
            cgroup: None,
        };
        let (reads, writes) = (parked.as_raw_fd(), wake.as_raw_fd());
        let wait = move || -> Never {
            let mut byte = 0u8;
            // SAFETY: the descriptors are the child's own copies; the kernel writes at most the one byte.
            unsafe {
                libc::close(writes);
                libc::read(reads, (&raw mut byte).cast(), 1);
            }
            exit_now(0)
        };
        // SAFETY: the caller vouches for one thread. The child makes plain system calls, and is reaped before the stack
        // is freed.
        let pid = unsafe { share_memory(&request, &stack, wait) }
            .at(Stage::Clone, "cannot make a user namespace")?;
        let made = fs::write(format!("/proc/{pid}/uid_map"), &maps.users)
            .and_then(|()| fs::write(format!("/proc/{pid}/gid_map"), &maps.groups))
            .and_then(|()| File::open(format!("/proc/{pid}/ns/user")));
        drop(wake);
        let _status = waitpid(Pid::from_raw(pid), None);
        drop(parked);
        Ok(UserNamespace {
            handle: made
                .at(Stage::Identity, "cannot map the task's users")?
                .into(),
            kind,
        })
    }

    /// Gives the namespace with its claim to whom `to` leads to, who [receives](UserNamespace::receive) it. No process may
    /// be left in there. One without a claim is kept. The error of a full socket is `WouldBlock`, if the socket says so.
    pub(crate) fn hand_on(&self, to: BorrowedFd<'_>) -> io::Result<()> {
        match &self.kind {
            Kind::Range {
                host_first,
                claim: Some(claim),
            } => {
                let descriptors = [self.handle(), claim.as_fd()];
                passing::send(to, &host_first.to_ne_bytes(), &descriptors)
            }
            Kind::Range { claim: None, .. } | Kind::Single => Ok(()),
        }
    }

    /// Receives what was [handed on](UserNamespace::hand_on) and waits there; none where nothing does.
    pub(crate) fn receive(from: BorrowedFd<'_>) -> Option<UserNamespace> {
        let mut host_first = [0; 4];
        let (count, mut fds) = passing::receive(from, &mut host_first, RecvFlags::DONTWAIT).ok()?;
        let (handle, claim) = (fds.pop_front()?, fds.pop_front()?);
        (count == host_first.len()).then_some(UserNamespace {
            handle,
            kind: Kind::Range {
                host_first: u32::from_ne_bytes(host_first),
                claim: Some(claim),
            },
        })
    }

    pub(super) fn handle(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }

    /// This namespace, where the owners of files are mapped with it.
    pub(super) fn for_files(&self) -> Option<&UserNamespace> {
        matches!(self.kind, Kind::Range { .. }).then_some(self)
    }

    /// The host's number of the task's number `id`.
    pub(super) fn host_id(&self, id: u32) -> u32 {
        match self.kind {
            Kind::Range { host_first, .. } => host_first + id,
            Kind::Single => 0,
        }
    }

    /// Whom a user of the task is in the calling process's namespace.
    pub(super) fn on_host(&self, account: Account) -> Account {
        Account {
            uid: self.host_id(account.uid),
            gid: self.host_id(account.gid),
        }
    }

    /// Lets the calling process make files as the task's root, with all its own privileges kept.
    pub(super) fn act_as_owner(&self) -> Result<(), StartError> {
        setfsgid(Gid::from_raw(self.host_id(0)));
        setfsuid(Uid::from_raw(self.host_id(0)));
        // The kernel takes the rights on files away with the number.
        raise().at(Stage::Identity, "cannot keep the rights on files")
    }

    /// Moves the calling process in, as its root where it has one. It has no privilege on the host from here on.
    pub(super) fn enter(&self) -> Result<(), StartError> {
        match self.kind {
            Kind::Range { .. } => enter(self.handle()),
            Kind::Single => enter_as_single(self.handle()),
        }
    }
}

/// Makes the calling process, of a user without rights, the root of a user namespace in which there is nobody else.
/// It has one thread, and must begin a new program next: only then can its user look at it from outside.
pub fn become_root_of_own() -> io::Result<()> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    nix::sched::unshare(CloneFlags::CLONE_NEWUSER)?;
    // Without it a user could drop a group that keeps it from a file.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Moves the calling process into the user namespace that the process behind `helper` is in.
pub(super) fn enter_that_of(helper: BorrowedFd<'_>) -> Result<(), StartError> {
    setns(helper, CloneFlags::CLONE_NEWUSER)
        .at(Stage::Identity, "cannot enter the helper's user namespace")
}

/// Moves the calling process into a user namespace that has no user but its own.
pub(super) fn enter_as_single(namespace: BorrowedFd<'_>) -> Result<(), StartError> {
    setns(namespace, CloneFlags::CLONE_NEWUSER)
        .at(Stage::Identity, "cannot enter the task's user namespace")
}

/// Moves the calling process into a user namespace, as its root.
pub(super) fn enter(namespace: BorrowedFd<'_>) -> Result<(), StartError> {
    setns(namespace, CloneFlags::CLONE_NEWUSER)
        .at(Stage::Identity, "cannot enter the task's user namespace")?;
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    nix::unistd::setresgid(gid, gid, gid)
        .at(Stage::Identity, "cannot become the task's root group")?;
    nix::unistd::setresuid(uid, uid, uid).at(Stage::Identity, "cannot become the task's root")
}

/// Refuses users that no mapping has.
pub(super) fn check(account: Account) -> Result<(), StartError> {
    match account.uid < USERS && account.gid < USERS {
        true => Ok(()),
        false => Err(StartError::plain(
            Stage::User,
            format!(
                "user {} of group {} cannot be given to a task: use numbers below {USERS}",
                account.uid, account.gid
            ),
        )),
    }
}

fn raise() -> io::Result<()> {
    let permitted: CapsHashSet = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let has: bool = permitted.contains(&Capability::CAP_SYS_ADMIN);
    match has {
        true => caps::set(None, CapSet::Effective, &permitted).map_err(io::Error::other),
        false => Err(io::ErrorKind::PermissionDenied.into()),
    }
}

/// Takes a range that no other helper of this machine holds, for as long as this process lives. A name among the
/// abstract sockets is the claim: it cannot be held twice, and goes with its holder.
fn claim_range() -> (u32, Option<OwnedFd>) {
    let wanted = std::process::id() % RANGES;
    let host_first = |range: u32| HOST_FIRST + range * USERS;
    (0..TRIES)
        .map(|step| (wanted + step * 257) % RANGES)
        .find_map(|range| Some((host_first(range), Some(claim(range).ok()?))))
        .unwrap_or((host_first(wanted), None))
}

fn claim(range: u32) -> rustix::io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    let name = format!("twill-users-{range}");
    bind(
        &socket,
        &SocketAddrUnix::new_abstract_name(name.as_bytes())?,
    )?;
    Ok(socket)
}

//! Which capabilities a process keeps.

use caps::{CapSet, Capability, CapsHashSet};

use super::{Stage, StartError};

/// What a task that asked for `root` keeps: the part of Docker's set that its own files and users need.
/// Neither raw sockets nor device nodes are in it.
const ROOT: [Capability; 9] = [
    Capability::CAP_CHOWN,
    Capability::CAP_DAC_OVERRIDE,
    Capability::CAP_FOWNER,
    Capability::CAP_FSETID,
    Capability::CAP_KILL,
    Capability::CAP_NET_BIND_SERVICE,
    Capability::CAP_SETGID,
    Capability::CAP_SETPCAP,
    Capability::CAP_SETUID,
];

/// What a command keeps.
pub(super) fn of_command(is_root: bool) -> CapsHashSet {
    match is_root {
        true => ROOT.into_iter().collect(),
        false => CapsHashSet::new(),
    }
}

/// What a debugger keeps: all that a task's root has, and to look into the task's processes.
pub(super) fn of_debugger() -> CapsHashSet {
    let mut kept = of_command(true);
    kept.insert(Capability::CAP_SYS_PTRACE);
    kept
}

/// What the init keeps: the right to signal the command, which may be another user's.
pub(super) fn of_init() -> CapsHashSet {
    CapsHashSet::from([Capability::CAP_KILL])
}

/// Takes everything else out of the bounding set, so that no later `exec` brings it back.
pub(super) fn bound(kept: &CapsHashSet) -> Result<(), StartError> {
    bound_further(&caps::all(), kept)
}

/// As [`bound`], where nothing but `present` is in the set any more.
pub(super) fn bound_further(present: &CapsHashSet, kept: &CapsHashSet) -> Result<(), StartError> {
    for capability in present.difference(kept) {
        // Asking costs less than dropping again; a kernel that does not know it refuses the question.
        if caps::has_cap(None, CapSet::Bounding, *capability).unwrap_or(false) {
            caps::drop(None, CapSet::Bounding, *capability).map_err(refused)?;
        }
    }
    Ok(())
}

/// Keeps `kept` and nothing else.
pub(super) fn keep(kept: &CapsHashSet) -> Result<(), StartError> {
    caps::clear(None, CapSet::Ambient).map_err(refused)?;
    caps::clear(None, CapSet::Inheritable).map_err(refused)?;
    caps::set(None, CapSet::Effective, kept).map_err(refused)?;
    caps::set(None, CapSet::Permitted, kept).map_err(refused)
}

fn refused(error: caps::errors::CapsError) -> StartError {
    StartError::plain(
        Stage::Privileges,
        format!("cannot give up capabilities: {error}"),
    )
}

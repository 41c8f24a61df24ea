//! The last steps of a process before it is the task's command.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use caps::CapsHashSet;
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};
use nix::unistd::{Gid, Uid};

use super::mounts::{c_path, exists, working_directory};
use super::seccomp::Filter;
use super::user::Account;
use super::users::UserMode;
use super::{At, CommandSpec, DEFAULT_PATH, Stage, StartError, capabilities};

/// Where a command's three descriptors lead.
#[derive(Debug)]
pub struct Stdio {
    pub stdin: OwnedFd,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Who a command is, and what it may do.
#[derive(Debug)]
pub(super) struct Rights<'a> {
    pub(super) account: Account,
    pub(super) capabilities: CapsHashSet,
    /// What may still be in its bounding set.
    pub(super) within_reach: CapsHashSet,
    /// None where the process that starts the command is under it already.
    pub(super) filter: Option<&'a Filter>,
    /// Whether it has the groups of the agent's user, which no unprivileged process may give up.
    pub(super) keeps_groups: bool,
}

impl<'a> Rights<'a> {
    /// Those of a task's own command.
    pub(super) fn of_task(
        account: Account,
        filter: Option<&'a Filter>,
        users: UserMode,
    ) -> Rights<'a> {
        Rights {
            account,
            capabilities: capabilities::of_command(account.is_root()),
            within_reach: caps::all(),
            filter,
            keeps_groups: users == UserMode::Single,
        }
    }
}

/// Turns the calling process into the command. Comes back only with the reason why it could not.
/// `report` stays open until the command runs, and not longer.
pub(super) fn become_command(
    spec: &CommandSpec,
    rights: &Rights<'_>,
    stdio: Stdio,
    report: RawFd,
) -> Result<Infallible, StartError> {
    take_stdio(stdio)?;
    close_all_but(&[0, 1, 2, report])?;
    reset_signals()?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));
    setrlimit(Resource::RLIMIT_CORE, 0, 0).at(Stage::Identity, "cannot forbid core dumps")?;
    take_identity(rights)?;
    // A change of identity clears it, so it is set behind that.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)
        .at(Stage::Privileges, "cannot ask to die with the parent")?;
    enter_workdir(&spec.workdir)?;
    nix::sys::prctl::set_no_new_privs().at(Stage::Privileges, "cannot set no_new_privs")?;
    let program = Program::new(spec)?;
    rights.filter.map_or(Ok(()), Filter::load)?;
    Err(program.run())
}

fn take_stdio(stdio: Stdio) -> Result<(), StartError> {
    // Above the standard three, so that placing one does not overwrite the next.
    let lift = |fd: &OwnedFd| nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(10));
    let sources = [&stdio.stdin, &stdio.stdout, &stdio.stderr].map(lift);
    for (number, source) in (0..).zip(sources) {
        let source = source.at(Stage::Command, "cannot place the standard descriptors")?;
        // SAFETY: `source` is open and ours; descriptor `number` is one of the standard three, which nothing
        // in this process owns by value.
        let answer = unsafe { libc::dup2(source, number) };
        Errno::result(answer).at(Stage::Command, "cannot place the standard descriptors")?;
    }
    Ok(())
}

/// Closes every descriptor but `kept`: a leaked one could reach the host.
pub(super) fn close_all_but(kept: &[RawFd]) -> Result<(), StartError> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept.into_iter().chain([u32::MAX]) {
        if fd > first {
            let last = if fd == u32::MAX { u32::MAX } else { fd - 1 };
            // SAFETY: closing descriptors is sound here: this process is a copy that was made to become
            // another program, and nothing in it uses those descriptors again.
            let answer = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            Errno::result(answer).at(Stage::Command, "cannot close inherited descriptors")?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}

/// Gives every signal its default meaning again; a program must not inherit the helper's.
fn reset_signals() -> Result<(), StartError> {
    for name in Signal::iterator().filter(|name| !matches!(name, Signal::SIGKILL | Signal::SIGSTOP))
    {
        // SAFETY: the default disposition runs no code of ours.
        unsafe { signal(name, SigHandler::SigDfl) }.at(Stage::Command, "cannot reset signals")?;
    }
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .at(Stage::Command, "cannot unblock signals")
}

fn take_identity(rights: &Rights<'_>) -> Result<(), StartError> {
    let Rights {
        account,
        capabilities: kept,
        within_reach,
        ..
    } = rights;
    capabilities::bound_further(within_reach, kept)?;
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    if !rights.keeps_groups {
        nix::unistd::setgroups(&[]).at(Stage::Identity, "cannot give up groups")?;
    }
    nix::unistd::setresgid(gid, gid, gid)
        .at(Stage::Identity, format_args!("cannot become group {gid}"))?;
    nix::unistd::setresuid(uid, uid, uid)
        .at(Stage::Identity, format_args!("cannot become user {uid}"))?;
    capabilities::keep(kept)
}

fn enter_workdir(workdir: &Path) -> Result<(), StartError> {
    nix::unistd::chdir(workdir).at(
        Stage::Workdir,
        format_args!("cannot enter the working directory {}", workdir.display()),
    )?;
    working_directory().map(drop)
}

/// A command with the places it may be found in, ready for `execve` without allocating.
struct Program {
    name: String,
    candidates: Vec<(PathBuf, CString)>,
    argv: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    fn new(spec: &CommandSpec) -> Result<Program, StartError> {
        let Some(name) = spec.argv.first().filter(|name| !name.is_empty()) else {
            return Err(StartError::plain(Stage::Command, "the command is empty"));
        };
        let path = spec.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let paths = match name.contains('/') {
            true => vec![PathBuf::from(name)],
            false => path
                .split(':')
                .map(|folder| Path::new(folder).join(name))
                .collect(),
        };
        let text = |text: &str| c_path(Path::new(text));
        Ok(Program {
            name: name.clone(),
            candidates: paths
                .into_iter()
                .map(|path| Ok((path.clone(), c_path(&path)?)))
                .collect::<Result<_, StartError>>()?,
            argv: spec
                .argv
                .iter()
                .map(|word| text(word))
                .collect::<Result<_, _>>()?,
            env: spec
                .env
                .iter()
                .map(|(key, value)| text(&format!("{key}={value}")))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Tries each candidate; answers why none would run.
    fn run(&self) -> StartError {
        let mut refused = None;
        for (path, c_path) in &self.candidates {
            let Err(error) = nix::unistd::execve(c_path, &self.argv, &self.env);
            let is_missing = matches!(error, Errno::ENOENT | Errno::ENOTDIR) && !exists(path);
            if !is_missing && refused.is_none() {
                refused = Some((path, error));
            }
        }
        match refused {
            Some((path, error)) => StartError {
                stage: Stage::Command,
                errno: Some(error as i32),
                message: format!("cannot run {}: {}", path.display(), explain(path, error)),
            },
            None => self.not_found(),
        }
    }

    fn not_found(&self) -> StartError {
        let places: Vec<String> = self
            .candidates
            .iter()
            .map(|(path, _)| path.display().to_string())
            .collect();
        StartError {
            stage: Stage::Command,
            errno: Some(libc::ENOENT),
            message: format!(
                "command '{}' not found; looked for {}",
                self.name,
                places.join(", ")
            ),
        }
    }
}

/// The kernel's answer in the author's terms.
fn explain(path: &Path, error: Errno) -> String {
    match error {
        Errno::EACCES if path.is_dir() => "it is a directory".to_owned(),
        Errno::EACCES => {
            "it is not executable for this user (chmod +x, or another user)".to_owned()
        }
        Errno::ENOEXEC => {
            "not a program of this architecture, and no '#!' line names its interpreter".to_owned()
        }
        Errno::ENOENT => {
            "its interpreter is missing (see its '#!' line, or the loader it was linked for)"
                .to_owned()
        }
        Errno::E2BIG => "arguments and environment are too long together".to_owned(),
        other => io::Error::from(other).to_string(),
    }
}

/// Descriptor of `/dev/null` inside the sandbox.
pub(super) fn null_device() -> Result<OwnedFd, StartError> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .map(OwnedFd::from)
        .at(Stage::Command, "cannot open /dev/null")
}

/// Writes a failure where the helper reads it, then ends the process.
pub(super) fn report_and_exit(report: impl AsFd, error: &StartError) -> ! {
    let text = serde_json::to_vec(error).unwrap_or_default();
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(&report, rest) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_nobody_listens) => break,
        }
    }
    super::clone::exit_now(127)
}

/// The raw number of a descriptor that must survive [`close_all_but`].
pub(super) fn number(fd: &OwnedFd) -> RawFd {
    fd.as_raw_fd()
}

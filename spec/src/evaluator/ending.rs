//! How a child ended, and the error that makes of it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Deserialize;
use tw_model::Code;

use super::EvalConfig;
use super::said::{Fault, RawError, Said, SaidError};
use crate::SpecError;

/// What the zygote has written of a child, a line of JSON each.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// The system calls that the kernel denied.
    denied: Vec<DeniedCall>,
    ended: Option<Ended>,
}

#[derive(Debug, Deserialize)]
struct DeniedCall {
    /// Its number.
    denied: i64,
    /// Its third argument.
    argument: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Ended {
    exit_code: Option<i32>,
    signal: Option<i32>,
    deadline: bool,
}

impl Status {
    /// Reads what there is, without waiting for the end.
    pub(super) fn so_far(pipe: OwnedFd) -> Status {
        let mut text = Vec::new();
        if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
            // What came before an error stays in `text`.
            let _ = File::from(pipe).read_to_end(&mut text);
        }
        Status::of(&text)
    }

    /// Waits for the end; none if the zygote went away before it, or says nothing for `silence`.
    pub(super) fn at_the_end(pipe: OwnedFd, silence: Duration) -> Option<Status> {
        let mut pipe = File::from(pipe);
        let silence = PollTimeout::try_from(silence).unwrap_or(PollTimeout::MAX);
        let mut text = Vec::new();
        let mut part = [0; 4096];
        loop {
            let mut polled = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut polled, silence) {
                Ok(0) => return None,
                Err(nix::Error::EINTR) => continue,
                _ => {}
            }
            match pipe.read(&mut part) {
                Ok(0) | Err(_) => break,
                Ok(length) => text.extend_from_slice(&part[..length]),
            }
        }
        let status = Status::of(&text);
        status.ended.is_some().then_some(status)
    }

    /// Understands what the zygote has written.
    fn of(text: &[u8]) -> Status {
        let mut status = Status::default();
        for line in text.split(|byte| *byte == b'\n') {
            if let Ok(denied) = serde_json::from_slice(line) {
                status.denied.push(denied);
            } else if let Ok(ended) = serde_json::from_slice(line) {
                status.ended = Some(ended);
            }
        }
        status
    }

    /// Whether the kernel denied a call.
    pub(super) fn is_denied(&self) -> bool {
        !self.denied.is_empty()
    }
}

impl DeniedCall {
    fn aborts(&self) -> bool {
        self.denied == libc::SYS_tgkill && self.argument == libc::SIGABRT as u64
    }
}

/// The most characters of a message or a hint that are kept, and the most calls.
const TEXT_CHARACTERS_MAX: usize = 8_000;
const CALLS_MAX: usize = 100;

fn bounded(mut text: String) -> String {
    if let Some((cut, _)) = text.char_indices().nth(TEXT_CHARACTERS_MAX) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

impl RawError {
    fn located(mut self, spec: &str) -> SpecError {
        self.trace.truncate(CALLS_MAX);
        let code = self.code.parse().ok();
        let code = code.filter(|code: &Code| code.as_str().starts_with("spec."));
        SpecError {
            code: code.unwrap_or(Code::SpecException),
            file: self.file.unwrap_or_else(|| spec.to_owned()),
            line: self.line,
            column: self.column,
            end_line: self.end_line,
            end_column: self.end_column,
            message: bounded(self.message),
            hint: self.hint.map(bounded),
            source_line: None,
            trace: self.trace,
        }
    }
}

/// The error in a child's last word; a denied call comes before whatever it says.
pub(super) fn error_of(last: Said, status: &Status, config: &EvalConfig, spec: &str) -> SpecError {
    let said = match last {
        Said::Error(failure) => failure.error.located(spec),
        Said::Fault(fault) => faulted(fault, config, spec),
        Said::Unsealed(why) => crashed(spec, format!("the evaluation could not be sealed: {why}")),
        Said::Broken(why) => crashed(spec, format!("the evaluator failed: {why}")),
        Said::Jobs(_) | Said::Question(_) => SpecError::of_file(
            Code::SpecDenied,
            spec,
            "the spec reached outside its evaluation".to_owned(),
            None,
        ),
    };
    match denied(&status.denied, spec) {
        None => said,
        Some(error) if said.line.is_none() => error,
        Some(error) => SpecError {
            code: error.code,
            message: error.message,
            hint: error.hint,
            ..said
        },
    }
}

/// The error of a child that ended without a last word.
pub(super) fn without_a_word(status: &Status, config: &EvalConfig, spec: &str) -> SpecError {
    let Ended {
        exit_code,
        signal,
        deadline,
    } = status.ended.clone().unwrap_or_default();
    if let Some(error) = denied(&status.denied, spec) {
        return error;
    }
    let (code, message, hint) = match (signal, exit_code) {
        _ if deadline => (
            Code::SpecTimeout,
            format!(
                "the evaluation was killed after {} seconds",
                config.deadline.as_secs_f64()
            ),
            "an evaluation takes milliseconds; look for a loop without an end",
        ),
        (Some(libc::SIGKILL | libc::SIGXCPU), _) => {
            (Code::SpecTimeout, time_used_up(config), LONG_OPERATION)
        }
        (Some(signal), _) => (
            Code::SpecCrash,
            format!("the evaluation crashed with signal {signal}"),
            "look for recursion without an end, or for very large values",
        ),
        (None, Some(code)) => (
            Code::SpecExit,
            format!("the spec ended its own process with exit code {code}"),
            "a spec ends by reaching its last line; raise an exception to refuse",
        ),
        (None, None) => (
            Code::SpecCrash,
            "the evaluation ended without a result".to_owned(),
            "run it again; if it stays so, this is a mistake in Twill",
        ),
    };
    SpecError::of_file(code, spec, message, Some(hint.to_owned()))
}

/// The error of a child whose words make no sense, which takes a spec that forges them.
pub(super) fn not_understood(cause: &SaidError, spec: &str) -> SpecError {
    let (code, hint) = match cause {
        SaidError::TooLong(_) | SaidError::TooManyValues => (
            Code::SpecOutput,
            "split the spec, or move large values into files of a package",
        ),
        SaidError::TooManyQuestions(_) | SaidError::LongPath(_) => {
            (Code::SpecOutput, "read fewer and larger files with tw.repo")
        }
        _ => (Code::SpecDenied, SPEAK),
    };
    let message = format!("the evaluation sent {cause}");
    SpecError::of_file(code, spec, message, Some(hint.to_owned()))
}

const LONG_OPERATION: &str = "look for an operation on a very large number, text or list";

fn time_used_up(config: &EvalConfig) -> String {
    format!(
        "the spec used more than {} seconds of processor time in one operation",
        config.cpu.as_secs_f64()
    )
}

fn crashed(spec: &str, message: String) -> SpecError {
    SpecError::of_file(Code::SpecCrash, spec, message, None)
}

fn faulted(fault: Fault, config: &EvalConfig, spec: &str) -> SpecError {
    let (code, message, hint) = match fault.signal {
        libc::SIGPROF => (Code::SpecTimeout, time_used_up(config), LONG_OPERATION),
        _ if fault.clock => (
            Code::SpecNondeterministic,
            "the spec read the clock".to_owned(),
            "a spec gives the same result at any time; write the date down",
        ),
        libc::SIGSEGV | libc::SIGBUS => (
            Code::SpecCrash,
            "the interpreter ran out of stack, or was broken from inside".to_owned(),
            "look for recursion without an end, or for values nested very deep",
        ),
        signal => (
            Code::SpecCrash,
            format!("the interpreter crashed with signal {signal}"),
            "look for very large values",
        ),
    };
    let mut error = SpecError::of_file(code, spec, message, Some(hint.to_owned()));
    if let Some(last) = fault.calls.last() {
        error.file.clone_from(&last.file);
        error.line = Some(last.line);
    }
    error.trace = fault.calls;
    error
}

/// Calls of one purpose that the seal does not allow.
struct Denied {
    calls: &'static [libc::c_long],
    /// What they would have done.
    what: &'static str,
    hint: &'static str,
}

const NOTHING_ELSE: &str = "a spec can only compute, and read files with tw.repo";
const SPEAK: &str = "a spec speaks to Twill through export and tw.repo alone";

/// What is denied, the gravest first: of several calls in a row, that one is named.
const DENIED: &[Denied] = &[
    Denied {
        calls: &[
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_tgkill,
            libc::SYS_wait4,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
        ],
        what: "start, signal or reach a process",
        hint: "a spec only describes jobs; put the work into a job's command",
    },
    Denied {
        calls: &[
            libc::SYS_socket,
            libc::SYS_socketpair,
            libc::SYS_connect,
            libc::SYS_bind,
        ],
        what: "use the network",
        hint: "put the data into the repository and read it with tw.repo",
    },
    Denied {
        calls: &[
            libc::SYS_openat,
            libc::SYS_newfstatat,
            libc::SYS_statx,
            libc::SYS_readlinkat,
            libc::SYS_getdents64,
            libc::SYS_faccessat,
            libc::SYS_unlinkat,
            libc::SYS_mkdirat,
            libc::SYS_getcwd,
            libc::SYS_memfd_create,
        ],
        what: "use the file system",
        hint: "read files of the repository with tw.repo.read(path)",
    },
    Denied {
        calls: &[
            libc::SYS_read,
            libc::SYS_write,
            libc::SYS_readv,
            libc::SYS_writev,
            libc::SYS_pwrite64,
            libc::SYS_close,
            libc::SYS_close_range,
            libc::SYS_dup,
            libc::SYS_dup3,
            libc::SYS_pipe2,
            libc::SYS_fstat,
            libc::SYS_lseek,
            libc::SYS_ioctl,
            libc::SYS_fcntl,
            libc::SYS_sendfile,
            libc::SYS_sendto,
            libc::SYS_sendmsg,
        ],
        what: "use a file descriptor",
        hint: SPEAK,
    },
    Denied {
        calls: &[libc::SYS_getrandom],
        what: "get random numbers",
        hint: "a spec gives the same result every time; derive variety from a name, for example with hashlib",
    },
    Denied {
        calls: &[
            libc::SYS_clock_gettime,
            libc::SYS_gettimeofday,
            libc::SYS_times,
            libc::SYS_getrusage,
        ],
        what: "read the clock",
        hint: "a spec gives the same result at any time; write the date down",
    },
    Denied {
        calls: &[
            libc::SYS_clock_nanosleep,
            libc::SYS_nanosleep,
            libc::SYS_pselect6,
            libc::SYS_ppoll,
        ],
        what: "wait",
        hint: "a spec only describes jobs",
    },
    Denied {
        calls: &[libc::SYS_mmap, libc::SYS_mprotect],
        what: "make memory executable",
        hint: NOTHING_ELSE,
    },
    Denied {
        calls: &[
            libc::SYS_rt_sigaction,
            libc::SYS_rt_sigprocmask,
            libc::SYS_setitimer,
            libc::SYS_sigaltstack,
            libc::SYS_prlimit64,
        ],
        what: "change signals, timers or limits",
        hint: NOTHING_ELSE,
    },
    Denied {
        calls: &[
            libc::SYS_getpid,
            libc::SYS_getppid,
            libc::SYS_gettid,
            libc::SYS_getuid,
            libc::SYS_uname,
            libc::SYS_sysinfo,
            libc::SYS_sched_getaffinity,
            libc::SYS_getpriority,
        ],
        what: "learn about the machine it is evaluated on",
        hint: "a spec gives the same result everywhere; write the value down",
    },
];

/// Calls that newer machines do not have, by the calls that replace them.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[(libc::c_long, libc::c_long)] = &[
    (libc::SYS_open, libc::SYS_openat),
    (libc::SYS_stat, libc::SYS_newfstatat),
    (libc::SYS_lstat, libc::SYS_newfstatat),
    (libc::SYS_access, libc::SYS_faccessat),
    (libc::SYS_readlink, libc::SYS_readlinkat),
    (libc::SYS_unlink, libc::SYS_unlinkat),
    (libc::SYS_mkdir, libc::SYS_mkdirat),
    (libc::SYS_dup2, libc::SYS_dup3),
    (libc::SYS_pipe, libc::SYS_pipe2),
    (libc::SYS_fork, libc::SYS_clone),
    (libc::SYS_vfork, libc::SYS_clone),
    (libc::SYS_pause, libc::SYS_ppoll),
    (libc::SYS_poll, libc::SYS_ppoll),
    (libc::SYS_select, libc::SYS_pselect6),
    (libc::SYS_time, libc::SYS_clock_gettime),
    (libc::SYS_alarm, libc::SYS_setitimer),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[(libc::c_long, libc::c_long)] = &[];

/// Where a call stands in the list of what is denied; past its end if nowhere.
fn rank(call: &DeniedCall) -> usize {
    let old = OLD_CALLS.iter().find(|(old, _)| *old == call.denied);
    let number = old.map_or(call.denied, |(_, new)| *new);
    let place = DENIED
        .iter()
        .position(|denied| denied.calls.contains(&number));
    place.unwrap_or(DENIED.len())
}

/// The error of calls that the seal does not allow; none if there were none.
fn denied(calls: &[DeniedCall], spec: &str) -> Option<SpecError> {
    let gravest = calls.iter().min_by_key(|call| rank(call))?;
    let (what, hint) = match DENIED.get(rank(gravest)) {
        _ if gravest.aborts() => ("abort the interpreter", "raise an exception to refuse"),
        Some(denied) => (denied.what, denied.hint),
        None => ("reach outside its evaluation", NOTHING_ELSE),
    };
    let number = gravest.denied;
    let message =
        format!("the spec tried to {what} (system call {number}), which the seal forbids");
    let hint = Some(hint.to_owned());
    Some(SpecError::of_file(Code::SpecDenied, spec, message, hint))
}

//! How a child ended, and the error that makes of it.

use std::io::Read;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc;
use serde::Deserialize;
use tw_model::Code;

use super::EvalConfig;
use super::said::{Fault, RawError, Said, SaidError};
use crate::SpecError;

/// What the zygote has written of a child, a line of JSON each.
#[derive(Debug, Default)]
pub(super) struct Status {
    /// The first system call that the kernel denied.
    pub(super) denied: Option<DeniedCall>,
    ended: Option<Ended>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct DeniedCall {
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
        let unblocked = fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
        unblocked.map_or_else(|_| Status::default(), |_| Status::read(pipe))
    }

    /// Waits for the end; none if the zygote went away before it.
    pub(super) fn at_the_end(pipe: OwnedFd) -> Option<Status> {
        let status = Status::read(pipe);
        status.ended.is_some().then_some(status)
    }

    fn read(pipe: OwnedFd) -> Status {
        let mut text = Vec::new();
        // What came before an error stays in `text`.
        let _ = std::fs::File::from(pipe).read_to_end(&mut text);
        let mut status = Status::default();
        for line in text.split(|byte| *byte == b'\n') {
            if let Ok(denied) = serde_json::from_slice(line) {
                status.denied = status.denied.or(Some(denied));
            } else if let Ok(ended) = serde_json::from_slice(line) {
                status.ended = Some(ended);
            }
        }
        status
    }
}

impl RawError {
    fn located(self, spec: &str) -> SpecError {
        let code = self.code.parse().ok();
        let code = code.filter(|code: &Code| code.as_str().starts_with("spec."));
        SpecError {
            code: code.unwrap_or(Code::SpecException),
            file: self.file.unwrap_or_else(|| spec.to_owned()),
            line: self.line,
            column: self.column,
            end_line: self.end_line,
            end_column: self.end_column,
            message: self.message,
            hint: self.hint,
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
    match status.denied {
        None => said,
        Some(call) => {
            let (message, hint) = denied_call(call);
            let place = SpecError {
                code: Code::SpecDenied,
                message,
                hint: Some(hint),
                ..said
            };
            match said_where(&place) {
                true => place,
                false => SpecError::of_file(Code::SpecDenied, spec, place.message, place.hint),
            }
        }
    }
}

fn said_where(error: &SpecError) -> bool {
    error.line.is_some()
}

/// The error of a child that ended without a last word.
pub(super) fn without_a_word(status: &Status, config: &EvalConfig, spec: &str) -> SpecError {
    let Ended {
        exit_code,
        signal,
        deadline,
    } = status.ended.clone().unwrap_or_default();
    if let Some(call) = status.denied {
        let (message, hint) = denied_call(call);
        return SpecError::of_file(Code::SpecDenied, spec, message, Some(hint));
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
        _ => (
            Code::SpecDenied,
            "a spec speaks to Twill through export and tw.repo alone",
        ),
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

const FILES: &str = "read files of the repository with tw.repo.read(path)";
const PROCESSES: &str = "a spec only describes jobs; put the work into a job's command";

/// What a call that the seal does not allow would have done, and what to do instead.
fn denied_call(call: DeniedCall) -> (String, String) {
    let (what, hint) = match call.denied {
        libc::SYS_openat
        | libc::SYS_newfstatat
        | libc::SYS_statx
        | libc::SYS_readlinkat
        | libc::SYS_getdents64
        | libc::SYS_faccessat
        | libc::SYS_unlinkat
        | libc::SYS_mkdirat
        | libc::SYS_getcwd
        | libc::SYS_memfd_create => ("use the file system", FILES),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open
        | libc::SYS_stat
        | libc::SYS_lstat
        | libc::SYS_readlink
        | libc::SYS_access
        | libc::SYS_unlink
        | libc::SYS_mkdir => ("use the file system", FILES),
        libc::SYS_read
        | libc::SYS_write
        | libc::SYS_writev
        | libc::SYS_readv
        | libc::SYS_pwrite64
        | libc::SYS_close
        | libc::SYS_dup
        | libc::SYS_dup3
        | libc::SYS_fstat
        | libc::SYS_lseek
        | libc::SYS_ioctl
        | libc::SYS_fcntl
        | libc::SYS_sendmsg
        | libc::SYS_sendfile => (
            "use a file descriptor",
            "a spec speaks to Twill through export and tw.repo alone",
        ),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_dup2 | libc::SYS_pipe => (
            "use a file descriptor",
            "a spec speaks to Twill through export and tw.repo alone",
        ),
        libc::SYS_socket | libc::SYS_connect | libc::SYS_socketpair | libc::SYS_bind => (
            "use the network",
            "put the data into the repository and read it with tw.repo",
        ),
        libc::SYS_tgkill if call.argument == libc::SIGABRT as u64 => {
            ("abort the interpreter", "raise an exception to refuse")
        }
        libc::SYS_clone
        | libc::SYS_clone3
        | libc::SYS_execve
        | libc::SYS_execveat
        | libc::SYS_kill
        | libc::SYS_tkill
        | libc::SYS_tgkill
        | libc::SYS_wait4
        | libc::SYS_ptrace
        | libc::SYS_process_vm_readv
        | libc::SYS_process_vm_writev => ("start, signal or reach a process", PROCESSES),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork | libc::SYS_vfork => ("start, signal or reach a process", PROCESSES),
        libc::SYS_getrandom => (
            "get random numbers",
            "a spec gives the same result every time; derive variety from a name, for example with hashlib",
        ),
        libc::SYS_clock_gettime
        | libc::SYS_gettimeofday
        | libc::SYS_times
        | libc::SYS_getrusage => (
            "read the clock",
            "a spec gives the same result at any time; write the date down",
        ),
        libc::SYS_clock_nanosleep | libc::SYS_nanosleep | libc::SYS_pselect6 | libc::SYS_ppoll => {
            ("wait", "a spec only describes jobs")
        }
        #[cfg(target_arch = "x86_64")]
        libc::SYS_select | libc::SYS_poll | libc::SYS_pause => {
            ("wait", "a spec only describes jobs")
        }
        libc::SYS_getpid
        | libc::SYS_getppid
        | libc::SYS_gettid
        | libc::SYS_getuid
        | libc::SYS_uname
        | libc::SYS_sysinfo
        | libc::SYS_sched_getaffinity
        | libc::SYS_getpriority => (
            "learn about the machine it is evaluated on",
            "a spec gives the same result everywhere; write the value down",
        ),
        libc::SYS_mmap | libc::SYS_mprotect => (
            "make memory executable",
            "a spec is Python and can only compute",
        ),
        libc::SYS_rt_sigaction
        | libc::SYS_rt_sigprocmask
        | libc::SYS_setitimer
        | libc::SYS_sigaltstack
        | libc::SYS_prlimit64 => (
            "change signals, timers or limits",
            "a spec can only compute, and read files with tw.repo",
        ),
        _ => (
            "reach outside its evaluation",
            "a spec can only compute, and read files with tw.repo",
        ),
    };
    let number = call.denied;
    let message =
        format!("the spec tried to {what} (system call {number}), which the seal forbids");
    (message, hint.to_owned())
}

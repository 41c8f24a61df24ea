//! One task's keeper, and the other work that the agent leaves to a process of its own. Started by `tw-agent`;
//! people have no need to call it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use tw_agent::sandbox::features::{self, Features, ProbeError};
use tw_agent::sandbox::{self, UserMode};
use tw_agent::{error, helper};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.as_slice() {
        [verb, folder] if verb == "keep" => {
            helper::keep(Path::new(folder)).map_err(|cause| error::chain(&cause))
        }
        [verb, folder] if verb == "exec" => {
            exec(Path::new(folder)).map_err(|cause| cause.to_string())
        }
        [verb, request] if verb == "nursery" => nursery(request),
        [verb, folder] if verb == "probe" => return tell(features::probe(Path::new(folder))),
        [verb, folder] if verb == "probe-alone" => {
            return tell(features::probe_alone(Path::new(folder)));
        }
        [verb, rest @ ..] if verb == helper::ALONE => alone(rest),
        [verb, folder, users, bytes_max] if verb == "unpack" => {
            unpack(Path::new(folder), users, bytes_max)
        }
        _ => Err(
            "usage: tw-helper nursery REQUEST | tw-helper keep FOLDER | tw-helper exec FOLDER"
                .to_owned(),
        ),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            helper::say(&message);
            ExitCode::FAILURE
        }
    }
}

/// Prints what a sandbox can have here; what could not be found out has an exit code of its own.
fn tell(probed: Result<Features, ProbeError>) -> ExitCode {
    let printed = probed.map_err(|cause| {
        let code = match cause {
            ProbeError::Refused(_) => ExitCode::FAILURE,
            ProbeError::Undecided(_) => ExitCode::from(helper::UNDECIDED),
        };
        (code, cause.to_string())
    });
    let printed = printed.and_then(|found| {
        serde_json::to_writer(io::stdout(), &found)
            .map_err(|cause| (ExitCode::FAILURE, cause.to_string()))
    });
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            helper::say(&message);
            code
        }
    }
}

/// Begins anew with the other words, as the root of a user namespace that holds nobody but the calling user.
fn alone(rest: &[OsString]) -> Result<(), String> {
    sandbox::become_root_of_own().map_err(|cause| {
        format!(
            "this machine gives its users no user namespaces ({cause}); see the sysctls user.max_user_namespaces, \
             kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or run the agent as root"
        )
    })?;
    let program = std::env::current_exe().map_err(|cause| cause.to_string())?;
    let cause = Command::new(&program).args(rest).exec();
    Err(format!("cannot run {}: {cause}", program.display()))
}

/// Unpacks standard input.
fn unpack(folder: &Path, users: &OsStr, bytes_max: &OsStr) -> Result<(), String> {
    let users = match users == "mapped" {
        true => UserMode::Mapped,
        false => UserMode::Shared,
    };
    let bytes_max = bytes_max
        .to_str()
        .and_then(|text| text.parse().ok())
        .ok_or("the limit is not a number of bytes")?;
    let archive = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|cause| cause.to_string())?;
    sandbox::unpack::unpack(folder, archive.into(), bytes_max, users)
        .map_err(|cause| error::chain(&cause))
}

fn nursery(request: &OsStr) -> Result<(), String> {
    let request = serde_json::from_slice(request.as_encoded_bytes())
        .map_err(|cause| format!("the request cannot be read: {cause}"))?;
    let control = control_socket().map_err(|cause| cause.to_string())?;
    helper::spare::serve_nursery(&request, control).map_err(|cause| error::chain(&cause))
}

fn exec(folder: &Path) -> io::Result<()> {
    helper::serve_session(folder, control_socket()?)
}

/// Descriptor 0, as a socket.
fn control_socket() -> io::Result<UnixStream> {
    Ok(UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?))
}

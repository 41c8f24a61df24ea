//! One task's keeper. Started by `tw-agent` as `tw-helper keep FOLDER` or `tw-helper exec FOLDER`; people
//! have no need to call it.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;

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
        _ => Err("usage: tw-helper keep FOLDER | tw-helper exec FOLDER".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            // Standard error is the task's `helper.log`; nobody is left to say it to if that fails.
            let _written = io::Write::write_all(
                &mut io::stderr(),
                format!("tw-helper: {message}\n").as_bytes(),
            );
            ExitCode::FAILURE
        }
    }
}

fn exec(folder: &Path) -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    helper::serve_session(folder, socket)
}

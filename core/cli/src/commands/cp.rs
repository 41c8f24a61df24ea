//! `tw cp`

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::str::FromStr;

use anyhow::Context as _;
use nix::sys::stat::{Mode, umask};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::process::{ChildStdout, Command};
use tw_api::{
    Client, ErrorBody, ExecRequest, Frame, FrameKind, SessionRequest, input_credit, read_frame,
    write_frame,
};
use tw_archive::{Rules, UnpackError};
use tw_model::{Exit, TaskId};
use tw_spec::visible;

use crate::context::{Context, TaskSelector};
use crate::failure::advice;

/// How much of what a command in a task says on its standard error is kept.
const STDERR_BYTES_MAX: usize = 16 * 1024;

/// What may follow the end of an archive: tar fills its last block, of 10 KiB where nothing else is said.
const PADDING_BYTES_MAX: u64 = 1 << 20;

/// Copy files and folders out of a running task, or into one
///
/// Both sides are named TASK:PATH or PATH; exactly one of them is in a task. The source is put into the folder DEST.
/// It runs as the task's user, so it reads and writes what the task may, and needs `tar` in the task, and here to copy
/// into it. What comes out of a task is not trusted: only files, folders and links below SOURCE are taken, without
/// set-user-id bits; links that lead out of it are left out, and the exit code is 1.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file or folder: web.0:/var/lib/app/state, or a path here
    #[arg(value_name = "SOURCE")]
    source: Place,
    /// The folder that it is put into
    #[arg(value_name = "DEST")]
    dest: Place,
    /// The most GiB that a task may send
    #[arg(long, value_name = "GIB", default_value_t = 16)]
    max_gib: u32,
}

/// One side of a copy.
#[derive(Clone, Debug)]
enum Place {
    Here(PathBuf),
    Task(TaskSelector, String),
}

impl FromStr for Place {
    type Err = String;

    /// A path that holds a colon is written with a leading `./`.
    fn from_str(text: &str) -> Result<Place, String> {
        match text.split_once(':') {
            Some((task, path)) if !task.starts_with(['.', '/']) => match path.starts_with('/') {
                true => Ok(Place::Task(task.parse()?, path.to_owned())),
                false => Err(format!(
                    "'{path}' is not a path in a task; begin it with '/'"
                )),
            },
            _ => Ok(Place::Here(text.into())),
        }
    }
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    match (&args.source, &args.dest) {
        (Place::Task(task, path), Place::Here(folder)) => {
            let task = task.resolve_one(&client).await?;
            return fetch(&client, task, path, folder, args.max_gib).await;
        }
        (Place::Here(path), Place::Task(task, folder)) => {
            let task = task.resolve_one(&client).await?;
            send(&client, task, path, folder).await?;
        }
        _ => {
            return Err(advice(
                "one side of a copy is in a task and the other is here",
                "name the task's side TASK:PATH, such as web.0:/tmp",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Packs `path` in the task and unpacks it into `folder` here.
async fn fetch(
    client: &Client,
    task: TaskId,
    path: &str,
    folder: &Path,
    max_gib: u32,
) -> anyhow::Result<ExitCode> {
    let asked = Path::new(path);
    let (Some(parent), Some(name)) = (asked.parent(), asked.file_name()) else {
        return Err(advice(
            format!("'{path}' is not copied as a whole"),
            "name a file or a folder of the task by its own name",
        ));
    };
    let root = File::open(folder).with_context(|| format!("cannot open {}", folder.display()))?;
    anyhow::ensure!(
        root.metadata()?.is_dir(),
        "{} is not a folder",
        folder.display()
    );
    let (archive, to_unpack) = std::io::pipe()?;
    let to_unpack = pipe::Sender::from_owned_fd(to_unpack.into())?;
    let only = name.to_owned();
    let mut unpacking =
        tokio::task::spawn_blocking(move || unpack(root.into(), archive, &only, max_gib));
    let (parent, name) = (parent.to_string_lossy(), name.to_string_lossy());
    let argv = ["tar", "-c", "-f", "-", "-C", &*parent, "--", &*name];
    let said = tokio::select! {
        said = exchange(client, task, &argv, None, Some(to_unpack)) => said?,
        // It waits for the last byte of an archive that it takes.
        refused = &mut unpacking => return refused?.0.map(|_| ExitCode::FAILURE),
    };
    let (unpacked, _) = unpacking.await?;
    check(said)?;
    Ok(match unpacked? {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Unpacks what a task sends, and says how many links were left out. The reader comes back, since whoever writes to
/// one that is closed fails before the reason is known.
fn unpack(
    root: OwnedFd,
    mut archive: PipeReader,
    only: &OsStr,
    max_gib: u32,
) -> (anyhow::Result<u64>, PipeReader) {
    let mut left_out = 0;
    let mut tell = |path: &Path| {
        left_out += 1;
        let path = path.to_string_lossy();
        anstream::eprintln!("left out: the link {} leads out of it", visible(&path));
    };
    let rules = Rules {
        bytes_max: u64::from(max_gib) << 30,
        mode_kept: 0o777 & !own_umask().bits(),
        owners_below: None,
        only: Some(only),
    };
    let unpacked = tw_archive::unpack(root, &mut archive, rules, &mut tell)
        .map_err(refusal)
        .and_then(|()| drain(&mut archive))
        .map(|()| left_out);
    (unpacked, archive)
}

/// What the caller's new files are never allowed.
fn own_umask() -> Mode {
    let mask = umask(Mode::empty());
    umask(mask);
    mask
}

fn refusal(cause: UnpackError) -> anyhow::Error {
    let hint = match &cause {
        UnpackError::TooLarge { .. } => "--max-gib takes more",
        UnpackError::Write { .. } => "what came before it was written",
        _ => "the task sent what was not asked for; what came before it was written",
    };
    let mut message = cause.to_string();
    if let Some(source) = std::error::Error::source(&cause) {
        message = format!("{message}: {source}");
    }
    advice(visible(&message), hint)
}

/// Reads what follows the end of an archive.
fn drain(archive: &mut PipeReader) -> anyhow::Result<()> {
    let padding = std::io::copy(
        &mut archive.take(PADDING_BYTES_MAX + 1),
        &mut std::io::sink(),
    )?;
    anyhow::ensure!(
        padding <= PADDING_BYTES_MAX,
        "the task goes on sending after the end of its archive"
    );
    Ok(())
}

/// Packs `path` here and unpacks it into `folder` in the task.
async fn send(client: &Client, task: TaskId, path: &Path, folder: &str) -> anyhow::Result<()> {
    let path =
        std::fs::canonicalize(path).with_context(|| format!("cannot find {}", path.display()))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        anyhow::bail!("the root of a machine is not copied as a whole");
    };
    let mut pack = Command::new("tar")
        .args(["-c", "-f", "-", "-C"])
        .arg(parent)
        .arg("--")
        .arg(name)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("cannot run tar")?;
    let argv = ["tar", "-x", "--no-same-owner", "-f", "-", "-C", folder];
    let exit = exchange(client, task, &argv, pack.stdout.take(), None).await?;
    check(exit)?;
    let packed = pack.wait().await?;
    anyhow::ensure!(packed.success(), "cannot pack {}", path.display());
    Ok(())
}

/// How the command in the task ended, and what it said.
struct Said {
    exit: Exit,
    stderr: String,
}

fn check(said: Said) -> anyhow::Result<()> {
    match said.exit.success() {
        true => Ok(()),
        false => anyhow::bail!(
            "in the task: {} ({})",
            visible(said.stderr.trim()),
            said.exit
        ),
    }
}

/// Runs a command in a task between two ends here.
async fn exchange(
    client: &Client,
    task: TaskId,
    argv: &[&str],
    input: Option<ChildStdout>,
    mut output: Option<pipe::Sender>,
) -> anyhow::Result<Said> {
    let request = ExecRequest {
        task,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        terminal: None,
        debug: false,
        credit: true,
    };
    let session = client.session("/v1/session").await?;
    let (mut from, mut to) = tokio::io::split(session);
    let open = Frame::json(FrameKind::Open, &SessionRequest::Exec(request));
    write_frame(&mut to, &open).await?;
    let (grants, mut credit) = input_credit();
    let feeding = tokio::spawn(async move {
        if let Some(mut input) = input {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                let room = credit.available().await.min(buffer.len());
                match input.read(&mut buffer[..room]).await? {
                    0 => break,
                    count => {
                        credit.spend(count);
                        let frame = Frame::new(FrameKind::Stdin, &buffer[..count]);
                        write_frame(&mut to, &frame).await?;
                    }
                }
            }
        }
        write_frame(&mut to, &Frame::new(FrameKind::StdinEnd, [])).await?;
        // Its end would be taken for the caller's.
        std::future::pending::<anyhow::Result<()>>().await
    });
    let mut stderr = String::new();
    let exit = loop {
        let frame = read_frame(&mut from).await?;
        let frame = frame.context("the connection ended before the copy did")?;
        match frame.kind {
            FrameKind::Stdout => {
                if let Some(output) = &mut output {
                    output.write_all(&frame.bytes).await?;
                }
            }
            FrameKind::Stderr if stderr.len() < STDERR_BYTES_MAX => {
                stderr.push_str(&String::from_utf8_lossy(&frame.bytes));
            }
            FrameKind::Credit => grants.take(&frame),
            FrameKind::Exit => break frame.parse()?,
            FrameKind::Error => return Err(frame.parse::<ErrorBody>()?.into()),
            _ => {}
        }
    };
    feeding.abort();
    Ok(Said { exit, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_is_a_path_here_or_one_in_a_task() {
        assert!(matches!("web.0:/tmp/x".parse(), Ok(Place::Task(_, path)) if path == "/tmp/x"));
        assert!(matches!("./web:1".parse(), Ok(Place::Here(_))));
        assert!(matches!("notes.txt".parse(), Ok(Place::Here(_))));
        let refused = "web.0:tmp".parse::<Place>().unwrap_err();
        assert!(refused.contains("begin it with '/'"), "{refused}");
    }
}

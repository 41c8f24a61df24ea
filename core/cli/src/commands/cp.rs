//! `tw cp`

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::str::FromStr;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tw_api::{
    Client, ErrorBody, ExecRequest, Frame, FrameKind, SessionRequest, read_frame, write_frame,
};
use tw_model::{Exit, TaskId};

use crate::context::{Context, TaskSelector};
use crate::failure::advice;

/// Copy files and folders out of a running task, or into one
///
/// Both sides are named TASK:PATH or PATH; exactly one of them is in a task. The source is put into the folder DEST.
/// It runs as the task's user, so it reads and writes what the task may, and needs `tar` on both sides.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A file or folder: web.0:/var/lib/app/state, or a path here
    #[arg(value_name = "SOURCE")]
    source: Place,
    /// The folder that it is put into
    #[arg(value_name = "DEST")]
    dest: Place,
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
            fetch(&client, task, path, folder).await?;
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
async fn fetch(client: &Client, task: TaskId, path: &str, folder: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(folder.is_dir(), "{} is not a folder", folder.display());
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    anyhow::ensure!(
        !name.is_empty(),
        "the root of a task is not copied as a whole"
    );
    let parent = if parent.is_empty() { "/" } else { parent };
    let mut unpack = Command::new("tar")
        .args(["-x", "--no-same-owner", "-f", "-", "-C"])
        .arg(folder)
        .stdin(Stdio::piped())
        .spawn()
        .context("cannot run tar")?;
    let argv = ["tar", "-c", "-f", "-", "-C", parent, "--", name];
    let exit = exchange(client, task, &argv, None, unpack.stdin.take()).await;
    let unpacked = unpack.wait().await?;
    check(exit?)?;
    anyhow::ensure!(
        unpacked.success(),
        "cannot unpack into {}",
        folder.display()
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
        false => anyhow::bail!("in the task: {} ({})", said.stderr.trim(), said.exit),
    }
}

/// Runs a command in a task between two ends here.
async fn exchange(
    client: &Client,
    task: TaskId,
    argv: &[&str],
    input: Option<ChildStdout>,
    mut output: Option<ChildStdin>,
) -> anyhow::Result<Said> {
    let request = ExecRequest {
        task,
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        terminal: None,
        debug: false,
    };
    let session = client.session("/v1/session").await?;
    let (mut from, mut to) = tokio::io::split(session);
    let open = Frame::json(FrameKind::Open, &SessionRequest::Exec(request));
    write_frame(&mut to, &open).await?;
    let feeding = tokio::spawn(async move {
        if let Some(mut input) = input {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match input.read(&mut buffer).await? {
                    0 => break,
                    count => {
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
            FrameKind::Stderr => stderr.push_str(&String::from_utf8_lossy(&frame.bytes)),
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

//! `tw logs`

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;
use tw_api::{
    Client, ErrorBody, Frame, FrameKind, LogLine, LogsRequest, SessionRequest, Stream, read_frame,
    write_frame,
};
use tw_model::{Millis, TaskId, Timestamp};

use crate::context::{Context, TaskSelector};
use crate::reader;
use crate::text::CYAN;

/// Show the output of tasks, also of tasks that have ended
///
/// What a task wrote to standard error comes on standard error.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A job, a task such as web.0, or one incarnation of it such as web.0#3
    #[arg(value_name = "JOB|TASK")]
    task: TaskSelector,
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines of each task
    #[arg(short = 'n', long, value_name = "LINES")]
    tail: Option<u64>,
    /// Only lines since then: a moment such as 2026-01-31T12:00:00Z, or how long ago, such as 10m
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// Only lines before then
    #[arg(long, value_name = "TIME", value_parser = moment)]
    until: Option<Timestamp>,
    /// The output of a sidecar instead of the command's
    #[arg(long, value_name = "NAME")]
    sidecar: Option<String>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Print JSON, one line each
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let tasks = args.task.resolve_started(&client).await?;
    let several = tasks.len() > 1;
    let (lines, mut received) = mpsc::channel(256);
    for task in tasks {
        let request = LogsRequest {
            task,
            follow: args.follow,
            tail: args.tail,
            since: args.since,
            until: args.until,
            sidecar: args.sidecar.clone(),
        };
        let (client, lines) = (client.clone(), lines.clone());
        tokio::spawn(async move {
            if let Err(failure) = read_logs(&client, &request, &lines).await {
                let _ = lines.send(Err(failure)).await;
            }
        });
    }
    drop(lines);
    let show = |task: &TaskId, line: &LogLine| print(&args, several, task, line);
    if args.follow {
        while let Some(line) = received.recv().await {
            let (task, line) = line?;
            show(&task, &line);
            if !reader::is_there() {
                break;
            }
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (mut all, mut failure) = (Vec::new(), None);
    while let Some(line) = received.recv().await {
        match line {
            Ok(line) => all.push(line),
            Err(cause) => failure = failure.or(Some(cause)),
        }
    }
    all.sort_by_key(|(_, line)| line.at);
    all.iter().for_each(|(task, line)| show(task, line));
    // What one of them does not say keeps nothing from the others.
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// A moment, or how long ago one was.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse() {
        return Ok(moment);
    }
    let ago: Millis = text.parse().map_err(|_| {
        format!(
            "'{text}' is no time: write 2026-01-31T12:00:00Z, or how long ago, such as 10m or 1h30m"
        )
    })?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_err(|cause| cause.to_string())?;
    let span_us =
        i64::try_from(ago.as_duration().as_micros()).map_err(|cause| cause.to_string())?;
    Ok(Timestamp(now.as_micros() as i64 - span_us))
}

type Received = anyhow::Result<(TaskId, LogLine)>;

async fn read_logs(
    client: &Client,
    request: &LogsRequest,
    lines: &mpsc::Sender<Received>,
) -> anyhow::Result<()> {
    let mut session = client.session("/v1/session").await?;
    let open = SessionRequest::Logs(request.clone());
    write_frame(&mut session, &Frame::json(FrameKind::Open, &open)).await?;
    while let Some(frame) = read_frame(&mut session).await? {
        match frame.kind {
            FrameKind::Log => {
                let line: LogLine = frame.parse()?;
                if lines.send(Ok((request.task.clone(), line))).await.is_err() {
                    return Ok(());
                }
            }
            FrameKind::Error => return Err(frame.parse::<ErrorBody>()?.into()),
            FrameKind::End => return Ok(()),
            _ => {}
        }
    }
    // The controller or the agent went away; give the next one a moment before the command is tried again.
    tokio::time::sleep(Duration::from_millis(100)).await;
    anyhow::bail!(
        "the connection ended before the logs of {} did",
        request.task
    )
}

fn print(args: &Args, several: bool, task: &TaskId, line: &LogLine) {
    if args.json {
        let object = serde_json::json!({"task": task, "at": line.at, "stream": line.stream, "text": line.text});
        anstream::println!("{object}");
        return;
    }
    let time = match args.timestamps {
        true => format!("{} ", line.at),
        false => String::new(),
    };
    let name = match several {
        true => format!("{CYAN}{task}{CYAN:#} "),
        false => String::new(),
    };
    match line.stream {
        Stream::Stdout => anstream::println!("{name}{time}{}", line.text),
        Stream::Stderr => anstream::eprintln!("{name}{time}{}", line.text),
    }
}

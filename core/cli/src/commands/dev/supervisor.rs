//! Keeps a controller and agents running, each a process of its own, until it is asked to end.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tw_api::Client;
use tw_model::{LIBEXEC, companion_places};

use super::layout::Layout;
use super::{Args, ending, machine};
use crate::context::{Context, SOCKET};
use crate::failure::advice;

/// The wait before a process that died is started again.
const RESPAWN_AFTER: Duration = Duration::from_millis(200);

/// A process that ends by itself sooner than this has not started.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// How often a process that has never started is tried.
const START_ATTEMPTS: u32 = 3;

/// How many seconds a machine may be silent where nothing is said.
const LOST_AFTER_S: f64 = 5.0;

/// How often the supervisor looks after its processes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(super) struct Settings {
    agents: u32,
    lost_after: f64,
    config: Option<PathBuf>,
}

impl Settings {
    pub(super) fn new(args: &Args, context: &Context) -> Settings {
        let file = context.config().lost_after;
        Settings {
            agents: args.agents,
            lost_after: args
                .lost_after
                .or(file.map(|time| time.as_secs_f64()))
                .unwrap_or(LOST_AFTER_S),
            config: context.config_file().map(Path::to_owned),
        }
    }

    /// The words that name the configuration file to another `tw`.
    fn config_words(&self) -> Vec<String> {
        let named = self.config.iter();
        named
            .flat_map(|path| ["--config".to_owned(), path.display().to_string()])
            .collect()
    }
}

/// A process that is started again when it ends.
struct Kept {
    name: String,
    command: Vec<String>,
    child: Option<Child>,
    /// No start before this moment, and none after it yet.
    not_before: tokio::time::Instant,
    /// How often it has ended at once by itself; none from its first real start on, after which it is tried
    /// without end.
    failed_starts: Option<u32>,
}

impl Kept {
    /// Notes an end of the process; true when it has never started and should not be tried again.
    fn note_end(&mut self, status: ExitStatus) -> bool {
        let lived = self.not_before.elapsed();
        self.child = None;
        self.not_before = tokio::time::Instant::now() + RESPAWN_AFTER;
        self.failed_starts = match self.failed_starts {
            Some(failed) if lived < STARTED_AFTER => {
                Some(failed + u32::from(status.code().is_some()))
            }
            _ => None,
        };
        self.failed_starts >= Some(START_ATTEMPTS)
    }
}

/// Supervises until SIGTERM or SIGINT, and then ends everything it started: tasks in order, unless asked once more.
/// SIGQUIT ends it without waiting for tasks.
pub(super) async fn run(layout: Layout, settings: Settings, client: &Client) -> anyhow::Result<()> {
    let _lock = layout.lock()?;
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut quit = signal(SignalKind::quit())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut kept = processes(&layout, &settings)?;
    let in_order = loop {
        for process in &mut kept {
            look_after(process, &layout).await?;
        }
        tokio::select! {
            _ = term.recv() => break true,
            _ = int.recv() => break true,
            _ = quit.recv() => break false,
            _ = hangup.recv() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    };
    if in_order {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
            _ = quit.recv() => {}
            () = ending::end_tasks_if_possible(client) => {}
        }
    }
    for process in &mut kept {
        if let Some(mut child) = process.child.take() {
            end_child(&mut child).await;
        }
    }
    clean(&layout).await
}

fn processes(layout: &Layout, settings: &Settings) -> anyhow::Result<Vec<Kept>> {
    let state = layout.root().display().to_string();
    let tw = std::env::current_exe()?.display().to_string();
    let controller = [
        &tw,
        "--state",
        &state,
        "controller",
        "--lost-after",
        &settings.lost_after.to_string(),
    ];
    let mut controller = keep("controller", &controller);
    controller.command.extend(settings.config_words());
    let mut kept = vec![controller];
    let (cores, memory) = machine::share(settings.agents);
    let ports = 1000 / settings.agents.max(1) as u16;
    for number in 1..=settings.agents {
        let name = format!("agent-{number}");
        let first = layout.port_base() + ports * (number as u16 - 1);
        let agent = [
            &agent_program()?.display().to_string(),
            "run",
            "--name",
            &name,
            "--state",
            &layout.agent(&name).display().to_string(),
            "--controller",
            &format!("unix:{}", layout.root().join(SOCKET).display()),
            "--cgroup",
            &format!("{}/{name}", layout.cgroup()),
            "--cpu",
            &format!("{cores:.3}"),
            "--memory",
            &memory.0.to_string(),
            "--rack",
            &format!("rack-{number}"),
            "--ports",
            &format!("{first}-{}", first + ports - 1),
        ];
        std::fs::create_dir_all(layout.agent(&name))?;
        kept.push(keep(&name, &agent));
    }
    Ok(kept)
}

fn keep(name: &str, command: &[&str]) -> Kept {
    Kept {
        name: name.to_owned(),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        child: None,
        not_before: tokio::time::Instant::now(),
        failed_starts: Some(0),
    }
}

async fn look_after(process: &mut Kept, layout: &Layout) -> anyhow::Result<()> {
    if layout.is_taken(&process.name) {
        if let Some(mut child) = process.child.take() {
            let _ = child.kill().await;
            agent_command(layout, &process.name, "clean").await?;
        }
        return Ok(());
    }
    if let Some(child) = &mut process.child
        && let Some(status) = child.try_wait()?
    {
        if process.note_end(status) {
            return Err(never_started(process, layout));
        }
        anstream::eprintln!("{} ended ({status}); starting it again", process.name);
    }
    if process.child.is_none() && tokio::time::Instant::now() >= process.not_before {
        process.child = Some(start(process, layout)?);
    }
    Ok(())
}

fn start(process: &Kept, layout: &Layout) -> anyhow::Result<Child> {
    let (program, arguments) = process
        .command
        .split_first()
        .context("a process has a program")?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(append(layout.log(&process.name))?)
        // Of its own group, so that Ctrl-C reaches the supervisor alone, which then ends it in order.
        .process_group(0)
        .kill_on_drop(true);
    // SAFETY: between fork and exec only `prctl` runs, which is async-signal-safe.
    unsafe {
        // A supervisor that is killed leaves no process that the next one would not know of.
        command.pre_exec(|| Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?));
    }
    command
        .spawn()
        .with_context(|| format!("cannot start {program}"))
}

async fn end_child(child: &mut Child) {
    let Some(pid) = child.id() else { return };
    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
    if tokio::time::timeout(Duration::from_secs(5), child.wait())
        .await
        .is_err()
    {
        let _ = child.kill().await;
    }
}

/// Ends every task of every agent here, and removes their cgroups and mounts.
pub(super) async fn clean(layout: &Layout) -> anyhow::Result<()> {
    let Ok(agents) = std::fs::read_dir(layout.root().join("agents")) else {
        return Ok(());
    };
    for agent in agents {
        let name = agent?.file_name().to_string_lossy().into_owned();
        agent_command(layout, &name, "clean").await?;
    }
    Ok(())
}

async fn agent_command(layout: &Layout, name: &str, command: &str) -> anyhow::Result<()> {
    let output = Command::new(agent_program()?)
        .arg(command)
        .arg("--state")
        .arg(layout.agent(name))
        .arg("--cgroup")
        .arg(format!("{}/{name}", layout.cgroup()))
        .output()
        .await?;
    match output.status.success() {
        true => Ok(()),
        false => anyhow::bail!(
            "`tw-agent {command}` of {name} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// Without root, says what tasks will lack. Refuses where they would have no sandbox at all.
pub(super) async fn say_what_is_missing(layout: &Layout) -> anyhow::Result<()> {
    let checked = Command::new(agent_program()?)
        .args(["check", "--state"])
        .arg(layout.agent("agent-1"))
        .env("TW_LOG", "error")
        .output()
        .await?;
    if !checked.status.success() {
        let said = String::from_utf8_lossy(&checked.stderr);
        return Err(advice(
            format!("tasks would have no sandbox here: {}", last_message(&said)),
            "run it with sudo; `tw eval`, `tw check` and `tw diff` need neither root nor sandboxes",
        ));
    }
    let lacks = String::from_utf8_lossy(&checked.stdout);
    if !lacks.is_empty() {
        anstream::eprintln!("Without root, tasks have a sandbox that lacks:");
    }
    for (what, remedy) in lacks.lines().filter_map(|line| line.split_once('\t')) {
        anstream::eprintln!("  {what}; {remedy}");
    }
    Ok(())
}

/// The message in an agent's log line, which is JSON where nobody watches.
fn last_message(log: &str) -> String {
    let line = log.lines().last().unwrap_or("it said nothing");
    let parsed = serde_json::from_str::<serde_json::Value>(line);
    let message = parsed.ok().and_then(|line| {
        let message = line.pointer("/fields/message")?.as_str()?;
        Some(message.to_owned())
    });
    message.unwrap_or_else(|| line.to_owned())
}

/// The agent's program, where companions of this one are looked for.
fn agent_program() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe()?;
    let libexec = std::env::var_os(LIBEXEC).map(PathBuf::from);
    let places = companion_places(&here, libexec.as_deref(), "tw-agent");
    let found = places.into_iter().find(|program| program.is_file());
    found.ok_or_else(|| {
        advice(
            format!("tw-agent is not beside {}", here.display()),
            "install it there, or name its folder in TW_LIBEXEC",
        )
    })
}

fn append(path: PathBuf) -> anyhow::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(&path);
    opened.with_context(|| format!("cannot write {}", path.display()))
}

/// Starts a supervisor that outlives this process.
pub(super) fn spawn_detached(
    layout: &Layout,
    settings: &Settings,
) -> anyhow::Result<std::process::Child> {
    std::fs::create_dir_all(layout.root().join("log"))?;
    let log = append(layout.log("dev"))?;
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command
        .arg("--state")
        .arg(layout.root())
        .args([
            "dev",
            "--agents",
            &settings.agents.to_string(),
            "--lost-after",
            &settings.lost_after.to_string(),
        ])
        .args(settings.config_words())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log);
    // SAFETY: between fork and exec only `setsid` runs, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(drop)?));
    }
    Ok(command.spawn()?)
}

/// The error of a process that ends at once, each time: what it said last.
fn never_started(process: &Kept, layout: &Layout) -> anyhow::Error {
    let path = layout.log(&process.name);
    let log = std::fs::read_to_string(&path).unwrap_or_default();
    let last = log.lines().last().unwrap_or("it said nothing");
    let last = last.strip_prefix("error: ").unwrap_or(last);
    advice(
        format!("{} does not start: {last}", process.name),
        format!("its log is {}", path.display()),
    )
}

/// The error of a supervisor that ended before it was ready: its own, from the end of its log.
pub(super) fn failed_start(layout: &Layout, status: ExitStatus) -> anyhow::Error {
    let log = std::fs::read_to_string(layout.log("dev")).unwrap_or_default();
    let said = log
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("error: "));
    let message = match said {
        Some(error) => error.to_owned(),
        None => format!("the supervisor ended at once ({status})"),
    };
    advice(
        message,
        format!("its log is {}", layout.log("dev").display()),
    )
}

/// Tells the supervisor to look at the folder again.
pub(super) fn notify(layout: &Layout) -> anyhow::Result<()> {
    match layout.supervisor()? {
        Some(pid) => Ok(kill(pid, Signal::SIGHUP)?),
        None => Err(advice(
            format!("nothing runs in {}", layout.root().display()),
            "start it with `tw dev`",
        )),
    }
}

/// Asks the supervisor to end at once and waits until it has.
pub(super) async fn end(layout: &Layout, pid: Pid) -> anyhow::Result<()> {
    kill(pid, Signal::SIGQUIT)?;
    let waiting = async {
        while layout.supervisor()?.is_some() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::Ok(())
    };
    match tokio::time::timeout(Duration::from_secs(60), waiting).await {
        Ok(ended) => ended,
        Err(_) => Err(advice(
            format!("process {pid} has not ended within a minute"),
            format!("its log is {}", layout.log("dev").display()),
        )),
    }
}

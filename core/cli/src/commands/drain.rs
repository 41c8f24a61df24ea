//! `tw drain`

mod each;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tw_api::{
    Client, DrainReply, DrainRequest, DrainStart, JobStatus, JobSummary, JobsReply, MachineStatus,
    MachinesReply,
};
use tw_model::{JobId, MachineFacts, MachineId, Millis, TaskId, Timestamp, nearest};

use crate::context::{Context, job_path};
use crate::failure::advice;
use crate::text::count;

const LOOK_EVERY: Duration = Duration::from_millis(300);

/// After how long without a change the tasks that stay are named.
const NAMED_AFTER: Duration = Duration::from_secs(5);

/// How many of them are named.
const NAMED_MAX: usize = 5;

/// Empty machines for maintenance: their tasks move within their jobs' budgets, and nothing new is placed there
///
/// A machine keeps empty until the drain is cancelled, also when it restarts. Without a deadline, tasks for which
/// there is no room elsewhere stay; with one, the machines are empty by then.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true))]
pub(crate) struct Args {
    /// Machines, as `tw machines` lists them
    #[arg(value_name = "MACHINE", group = "which")]
    machines: Vec<MachineId>,
    /// All machines of a rack
    #[arg(long, value_name = "RACK", group = "which")]
    rack: Vec<String>,
    /// When the machines must be empty, from the start of the drain on, such as 30m or 2h
    #[arg(long, value_name = "TIME", conflicts_with = "cancel")]
    deadline: Option<Millis>,
    /// When it begins, such as 2026-12-24T02:00:00Z; the deadline counts from there
    #[arg(long, value_name = "MOMENT", conflicts_with_all = ["cancel", "each"])]
    at: Option<Timestamp>,
    /// After how long it begins, such as 2h; the deadline counts from there
    #[arg(long, value_name = "TIME", conflicts_with_all = ["cancel", "each", "at"])]
    starts_in: Option<Millis>,
    /// All machines of a cluster
    #[arg(long, value_name = "CLUSTER", group = "which")]
    cluster: Vec<String>,
    /// All machines of a data centre
    #[arg(long, value_name = "DATACENTER", group = "which")]
    datacenter: Vec<String>,
    /// All machines of a region
    #[arg(long, value_name = "REGION", group = "which")]
    region: Vec<String>,
    /// All machines
    #[arg(long, group = "which")]
    all: bool,
    /// How long the maintenance lasts; tasks that endure it (`maintenance` of their spec) come back to their machine
    #[arg(long = "for", value_name = "TIME", conflicts_with = "cancel")]
    lasts: Option<Millis>,
    /// One machine after the other: empty it, run this command with TW_MACHINE set, let tasks in again, go on
    #[arg(long, value_name = "COMMAND", conflicts_with_all = ["cancel", "detach", "json"])]
    each: Option<String>,
    /// With --each: how long a machine and the jobs may take to be as well as they were in the beginning
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "each")]
    wait: Millis,
    /// With --each: begin with this machine; those before it, by their names, are done
    #[arg(long, value_name = "MACHINE", requires = "each")]
    from: Option<MachineId>,
    /// Why, in words for people
    #[arg(long, default_value = "", conflicts_with = "cancel")]
    reason: String,
    /// Let the machines take tasks again
    #[arg(long)]
    cancel: bool,
    /// Return at once, not when the machines are empty
    #[arg(long)]
    detach: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> anyhow::Result<ExitCode> {
    let client = context.client()?;
    let machines = chosen(&client, &args).await?;
    if let Some(command) = &args.each {
        return each::one_by_one(&client, &args, &machines, command).await;
    }
    let request = match args.cancel {
        true => DrainRequest::End { machines },
        false => begin(&args, machines),
    };
    let reply: DrainReply = client.post("/v1/drain", &request).await?;
    if args.json {
        anstream::println!("{}", serde_json::to_string(&reply)?);
        return Ok(ExitCode::SUCCESS);
    }
    let names: Vec<String> = reply.machines.iter().map(MachineId::to_string).collect();
    let names = names.join(", ");
    if args.cancel {
        anstream::println!("{names}: tasks may be placed there again");
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(start) = start(&args) {
        let start = match start {
            DrainStart::At(moment) => format!("at {moment}"),
            DrainStart::InMs(wait) => format!("in {}", Millis(wait)),
        };
        let tasks = count(reply.tasks as usize, "task");
        anstream::println!(
            "{names}: the drain begins {start}; on them now: {tasks}. `tw drain {} --cancel` takes it back",
            words(&reply.machines)
        );
        return Ok(ExitCode::SUCCESS);
    }
    let tasks = count(reply.tasks as usize, "task");
    anstream::println!("{names}: {tasks} to leave");
    if reply.tasks > 0 && !is_there_another(&client, &reply.machines).await? {
        anstream::println!(
            "  no other machine takes tasks: {}",
            match args.deadline {
                Some(_) => "what ends by the deadline waits until one does",
                None => "they stay until one does, or end by a `--deadline`",
            }
        );
    }
    if args.detach {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(match until_empty(&client, &reply.machines).await? {
        true => {
            let machines = words(&reply.machines);
            anstream::println!("empty; `tw drain {machines} --cancel` lets tasks in again");
            ExitCode::SUCCESS
        }
        false => ExitCode::FAILURE,
    })
}

fn begin(args: &Args, machines: Vec<MachineId>) -> DrainRequest {
    DrainRequest::Begin {
        machines,
        reason: args.reason.clone(),
        within_ms: args.deadline.map(|deadline| deadline.0),
        lasts_ms: args.lasts.map(|lasts| lasts.0),
        starts: start(args),
    }
}

/// When the drain begins; none where that is at once.
fn start(args: &Args) -> Option<DrainStart> {
    let wait = args.starts_in.map(|wait| DrainStart::InMs(wait.0));
    args.at.map(DrainStart::At).or(wait)
}

/// The machines that are named, and those of the domains that are.
async fn chosen(client: &Client, args: &Args) -> anyhow::Result<Vec<MachineId>> {
    let mut chosen: BTreeSet<MachineId> = args.machines.iter().cloned().collect();
    let domains = [&args.rack, &args.cluster, &args.datacenter, &args.region];
    if args.all || domains.iter().any(|names| !names.is_empty()) {
        let all: MachinesReply = client.get("/v1/machines").await?;
        chosen.extend(of_domains(&all.machines, args)?);
    }
    Ok(chosen.into_iter().collect())
}

/// The machines of each domain that is named, of which there must be some.
fn of_domains(machines: &[MachineStatus], args: &Args) -> anyhow::Result<BTreeSet<MachineId>> {
    type NameIn = fn(&MachineFacts) -> &String;
    let domains: [(&str, &[String], NameIn); 4] = [
        ("rack", &args.rack, |facts| &facts.rack),
        ("cluster", &args.cluster, |facts| &facts.cluster),
        ("data centre", &args.datacenter, |facts| &facts.datacenter),
        ("region", &args.region, |facts| &facts.region),
    ];
    let mut chosen = BTreeSet::new();
    if args.all {
        chosen.extend(machines.iter().map(|machine| machine.id.clone()));
    }
    for (domain, names, name_in) in domains {
        for name in names {
            let here = machines.iter().filter(|row| name_in(&row.facts) == name);
            let here: Vec<MachineId> = here.map(|machine| machine.id.clone()).collect();
            if here.is_empty() {
                let known = machines.iter().map(|row| name_in(&row.facts).as_str());
                return Err(no_machine(domain, name, known.collect()));
            }
            chosen.extend(here);
        }
    }
    Ok(chosen)
}

/// How many names of a kind an error gives.
const KNOWN_MAX: usize = 10;

fn no_machine(domain: &str, name: &str, mut known: BTreeSet<&str>) -> anyhow::Error {
    known.remove("");
    let known = Vec::from_iter(known);
    let list = known[..known.len().min(KNOWN_MAX)].join(", ");
    let more = match known.len().saturating_sub(KNOWN_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let meant = nearest(name, &known).map(|near| format!("did you mean '{near}'? "));
    advice(
        format!("no machine is in {domain} '{name}'"),
        match known.is_empty() {
            true => format!("the machines name no {domain}"),
            false => format!("{}there is {list}{more}", meant.unwrap_or_default()),
        },
    )
}

/// Whether a machine takes tasks that is none of these.
async fn is_there_another(client: &Client, machines: &[MachineId]) -> anyhow::Result<bool> {
    let all: MachinesReply = client.get("/v1/machines").await?;
    Ok(all.machines.iter().any(|machine| {
        machine.connected && machine.drain.is_none() && !machines.contains(&machine.id)
    }))
}

/// Says how far the drain is until nothing is left on the machines; false if someone cancelled it.
async fn until_empty(client: &Client, machines: &[MachineId]) -> anyhow::Result<bool> {
    let mut said = u32::MAX;
    let mut changed = Instant::now();
    let mut is_named = false;
    loop {
        let all: MachinesReply = client.get("/v1/machines").await?;
        let ours: Vec<&MachineStatus> = all
            .machines
            .iter()
            .filter(|machine| machines.contains(&machine.id))
            .collect();
        let left: u32 = ours.iter().map(|machine| machine.tasks).sum();
        if left == 0 {
            return Ok(true);
        }
        if ours.iter().all(|machine| machine.drain.is_none()) {
            let left = count(left as usize, "task");
            anstream::println!("someone cancelled the drain; still there: {left}");
            return Ok(false);
        }
        let deadline = ours
            .iter()
            .filter_map(|machine| machine.drain.as_ref()?.deadline)
            .max();
        if left != said {
            anstream::println!("{} left{}", count(left as usize, "task"), by(deadline));
            (said, changed, is_named) = (left, Instant::now(), false);
        }
        if !is_named && changed.elapsed() >= NAMED_AFTER {
            for line in waited_for(client, machines).await? {
                anstream::println!("  {line}");
            }
            if deadline.is_none() {
                let machines = words(machines);
                anstream::println!(
                    "  `tw drain {machines} --deadline TIME` would end them by then"
                );
            }
            is_named = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Machines as this command takes them.
fn words(machines: &[MachineId]) -> String {
    let names: Vec<&str> = machines.iter().map(MachineId::as_str).collect();
    names.join(" ")
}

fn by(deadline: Option<Timestamp>) -> String {
    deadline.map_or(String::new(), |deadline| format!(", empty by {deadline}"))
}

/// The tasks that are on the machines, and what each waits for.
async fn waited_for(client: &Client, machines: &[MachineId]) -> anyhow::Result<Vec<String>> {
    let tasks = tasks_on(client, machines).await?;
    let lines = tasks.iter().flat_map(|(job, tasks)| {
        let stays = stays_because(job);
        tasks.iter().map(move |task| format!("{task}: {stays}"))
    });
    let mut lines: Vec<String> = lines.collect();
    let more = lines.len().saturating_sub(NAMED_MAX);
    lines.truncate(NAMED_MAX);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    Ok(lines)
}

/// The tasks that are on these machines, by job.
pub(super) async fn tasks_on(
    client: &Client,
    machines: &[MachineId],
) -> anyhow::Result<Vec<(JobSummary, Vec<TaskId>)>> {
    let all: JobsReply = client.get("/v1/jobs").await?;
    let mut found = Vec::new();
    for job in all.jobs {
        let id = JobId::new(job.namespace.clone(), job.name.clone());
        let status: JobStatus = client.get(&job_path(&id)).await?;
        let here = |machine: &MachineId| machines.contains(machine);
        let tasks = status.tasks.into_iter();
        let tasks = tasks
            .filter(|task| !task.state.is_terminal() && task.machine.as_ref().is_some_and(here));
        found.push((job, tasks.map(|task| task.id).collect()));
    }
    Ok(found)
}

fn stays_because(job: &JobSummary) -> &'static str {
    match job.kind.as_str() {
        "batch" => "a batch task, which is left to end by itself",
        _ if job.healthy < job.replicas => {
            "it leaves once enough other tasks of its job are healthy"
        }
        _ => "it leaves once another machine has room for it",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn fleet() -> Vec<MachineStatus> {
        let place = [
            ("m1", "r1", "c1", "d1", "eu"),
            ("m2", "r2", "c1", "d1", "eu"),
            ("m3", "r3", "c2", "d2", "eu"),
            ("m4", "r4", "", "", ""),
        ];
        let machines = place.map(|(id, rack, cluster, datacenter, region)| {
            let nothing = json!({"cpu_millicores": 0, "memory_bytes": 0, "disk_bytes": 0});
            let mut capacity = nothing.clone();
            capacity["port_first"] = 1.into();
            capacity["port_last"] = 2.into();
            serde_json::from_value(json!({
                "id": id, "state": "up", "epoch": 1, "tasks": 0, "connected": true,
                "changed_at": "2026-01-01T00:00:00Z", "capacity": capacity, "reserved": nothing,
                "facts": {
                    "address": "", "os": "", "kernel": "", "rack": rack, "cluster": cluster,
                    "datacenter": datacenter, "region": region, "labels": {}, "enforces": [],
                },
            }))
            .unwrap()
        });
        machines.into()
    }

    fn meant(words: &[&str]) -> Result<String, String> {
        let args = Line::parse_from([&["drain"], words].concat()).args;
        let found = of_domains(&fleet(), &args).map_err(|cause| cause.to_string())?;
        let names: Vec<&str> = found.iter().map(MachineId::as_str).collect();
        Ok(names.join(" "))
    }

    #[test]
    fn machines_are_meant_by_each_domain() {
        for (words, expected) in [
            (&["--rack", "r2"][..], "m2"),
            (&["--rack", "r2", "--rack", "r3"], "m2 m3"),
            (&["--cluster", "c1"], "m1 m2"),
            (&["--datacenter", "d2"], "m3"),
            (&["--region", "eu"], "m1 m2 m3"),
            (&["--cluster", "c1", "--rack", "r4"], "m1 m2 m4"),
            (&["--all"], "m1 m2 m3 m4"),
        ] {
            assert_eq!(meant(words).as_deref(), Ok(expected), "{words:?}");
        }
        let refused = meant(&["--datacenter", "d9"]).unwrap_err();
        assert_eq!(refused, "no machine is in data centre 'd9'");
    }

    #[test]
    fn a_later_start_is_sent_only_where_there_is_one() {
        let sent = |words: &[&str]| {
            let args = Line::parse_from([&["drain", "m1"], words].concat()).args;
            serde_json::to_value(begin(&args, args.machines.clone())).unwrap()
        };
        assert_eq!(sent(&[]).get("starts"), None);
        assert_eq!(
            sent(&["--starts-in", "1s"])["starts"],
            json!({"in_ms": 1000})
        );
    }

    #[test]
    fn a_domain_that_is_not_there_is_told_with_those_that_are() {
        let hint = |name: &str, known: &[&str]| {
            let cause = no_machine("rack", name, known.iter().copied().collect());
            crate::failure::hints(&cause).join(" ")
        };
        assert_eq!(
            hint("rakc-a", &["", "rack-a", "z"]),
            "did you mean 'rack-a'? there is rack-a, z"
        );
        assert_eq!(hint("elsewhere", &["a", "b"]), "there is a, b");
        assert_eq!(hint("a", &[""]), "the machines name no rack");
        let many: Vec<String> = (10..99).map(|number| format!("r{number}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let said = hint("elsewhere", &many);
        assert!(said.ends_with("r18, r19 and 79 more"), "{said}");
    }
}

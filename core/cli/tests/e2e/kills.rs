//! Kills at random moments under load: what was acknowledged stays, and the cluster finds its way back.
//!
//! `TW_FAULTS` sets how many kills (30 by default), `TW_SEED` repeats a run's choices.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};
use tw_api::ClientError;

use crate::cluster::Cluster;
use crate::probe::{self, wait_until};

const JOBS: [&str; 3] = ["load-0", "load-1", "load-2"];

/// How long tasks that are not wanted may take to end.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// Jobs that restart fast, so that every kill meets something that runs.
const SPEC: &str = r#"
from tw import SECOND, Job, MiB, Resources, Restart, Rollout, Stop, export
for number in range(3):
    export(Job(
        name=f"load-{number}", command=["sleep", "1000"], replicas=2, env={"REVISION": "0"},
        resources=Resources(cpu=0.02, memory=16 * MiB),
        restart=Restart(delay=0.1 * SECOND, delay_max=0.5 * SECOND),
        rollout=Rollout(stages=["100%"], max_unavailable=3, healthy_for=0.1 * SECOND, deadline=60 * SECOND),
        stop=Stop(drain=0 * SECOND, grace=1 * SECOND),
    ))
"#;

#[test]
fn kills_under_load_lose_nothing_that_was_acknowledged() {
    let kills = number_from("TW_FAULTS").unwrap_or(30);
    let clock = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let seed = number_from("TW_SEED").unwrap_or(clock.as_micros() as u64);
    anstream::eprintln!("TW_SEED={seed} TW_FAULTS={kills}");

    let cluster = Cluster::start(2);
    cluster.repository.write("config.tw", SPEC);
    cluster.apply();
    JOBS.iter().for_each(|job| cluster.wait_settled(job));

    let ended = AtomicBool::new(false);
    let (killed, submitted) = std::thread::scope(|scope| {
        let load = scope.spawn(|| submit_until(&cluster, &ended));
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            kill_at_random(&cluster, kills, seed)
        }));
        ended.store(true, Ordering::Relaxed);
        let submitted = load.join().unwrap();
        (
            killed.unwrap_or_else(|cause| std::panic::resume_unwind(cause)),
            submitted,
        )
    });
    anstream::eprintln!(
        "killed {killed:?}; {} changes acknowledged, {} attempts failed: {:#?}",
        submitted.acknowledged,
        submitted.failures.values().sum::<u32>(),
        submitted.failures
    );
    assert!(
        submitted.acknowledged > 0,
        "some changes got through: {:?}",
        submitted.failures
    );

    wait_until("all machines connected", || cluster.connected() == 2);
    for change in submitted.last.values() {
        let now = cluster.spec_of(change.job).unwrap();
        change.assert_kept(&now);
    }
    // An update that kills made halt stays halted until somebody submits again, as after any other failure.
    for (number, job) in JOBS.iter().enumerate() {
        wait_until("the last change", || {
            let now = cluster.spec_of(job);
            now.is_ok_and(|now| cluster.submit(&now, 1_000_000 + number as u64).is_ok())
        });
        cluster.wait_settled(job);
    }
    let begun = Instant::now();
    while cluster.live_tasks() != cluster.wanted_tasks() && begun.elapsed() < SETTLED_WITHIN {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        cluster.live_tasks(),
        cluster.wanted_tasks(),
        "one live task an index; helpers keep {:#?}",
        cluster.helpers()
    );
}

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable}={text} is not a number")),
    )
}

/// Kills agents, helpers, tasks and the controller, a fraction of a second apart: how often each.
fn kill_at_random(cluster: &Cluster, kills: u64, seed: u64) -> BTreeMap<&'static str, u64> {
    let mut random = Random(seed | 1);
    let mut killed = BTreeMap::new();
    while killed.values().sum::<u64>() < kills {
        std::thread::sleep(Duration::from_millis(100 + random.below(300)));
        let kind = ["agent", "controller", "helper", "task"][random.below(4) as usize];
        let victim = match kind {
            "agent" => cluster.process(&format!("agent-{}", 1 + random.below(2))),
            "controller" => cluster.process("controller"),
            of_task => {
                let folders = cluster.helpers();
                let chosen = random.below(folders.len().max(1) as u64) as usize;
                folders
                    .get(chosen)
                    .and_then(|folder| started_pid(folder, of_task))
            }
        };
        // It may be away just now, or end by itself before the signal comes.
        if victim.is_some_and(probe::try_kill_9) {
            *killed.entry(kind).or_default() += 1;
        }
    }
    killed
}

fn started_pid(folder: &str, who: &str) -> Option<i32> {
    let text = std::fs::read_to_string(format!("{folder}/started.json")).ok()?;
    let record: Value = serde_json::from_str(&text).ok()?;
    Some(record[who]["pid"].as_i64()? as i32)
}

/// A change that the controller said was durable.
struct Acknowledged {
    job: &'static str,
    version: u64,
    revision: u64,
}

impl Acknowledged {
    /// Fails unless the version is there and is what was submitted. Only the newest versions are kept, so each
    /// is looked for before the next change of its job.
    #[track_caller]
    fn assert_kept(&self, now: &Value) {
        let (job, version) = (self.job, self.version);
        let versions = now["versions"].as_array().unwrap();
        assert!(
            versions.iter().any(|kept| kept["version"] == version),
            "version {version} of {job} was acknowledged and is lost: {now}"
        );
        let current = now["current"].as_u64().unwrap();
        assert!(
            current >= version,
            "{job} fell back from version {version} to {current}"
        );
        if current == version {
            let revision = &now["job"]["spec"]["env"]["REVISION"];
            assert_eq!(
                *revision,
                self.revision.to_string(),
                "version {version} of {job}"
            );
        }
    }
}

#[derive(Default)]
struct Submitted {
    /// How many changes were acknowledged.
    acknowledged: u32,
    /// The last one of each job.
    last: BTreeMap<&'static str, Acknowledged>,
    /// How often each error came.
    failures: BTreeMap<String, u32>,
}

/// Changes one job after another for as long as it may, and each time looks for the change before.
fn submit_until(cluster: &Cluster, ended: &AtomicBool) -> Submitted {
    let mut submitted = Submitted::default();
    let mut revision = 0;
    while !ended.load(Ordering::Relaxed) {
        revision += 1;
        let job = JOBS[revision as usize % JOBS.len()];
        let version = cluster.spec_of(job).and_then(|now| {
            if let Some(before) = submitted.last.get(job) {
                before.assert_kept(&now);
            }
            cluster.submit(&now, revision)
        });
        match version {
            Ok(version) => {
                submitted.acknowledged += 1;
                submitted.last.insert(
                    job,
                    Acknowledged {
                        job,
                        version,
                        revision,
                    },
                );
            }
            Err(failure) => *submitted.failures.entry(failure.to_string()).or_default() += 1,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    submitted
}

impl Cluster {
    /// What a job is now, and which versions of it are kept.
    fn spec_of(&self, job: &str) -> Result<Value, ClientError> {
        self.get(&format!("/v1/jobs/default/{job}/spec"))
    }

    /// Plans and applies a job with another revision and number of replicas: the version it became.
    fn submit(&self, now: &Value, revision: u64) -> Result<u64, ClientError> {
        let mut wanted = now["job"].clone();
        wanted["spec"]["env"]["REVISION"] = json!(revision.to_string());
        wanted["spec"]["replicas"] = json!(1 + revision % 3);
        let plan = self.post("/v1/plan", &json!({"jobs": [wanted]}))?;
        let reply = self.post(
            "/v1/apply",
            &json!({"jobs": [wanted], "digest": plan["digest"]}),
        )?;
        Ok(reply["jobs"][0]["version"].as_u64().unwrap())
    }

    /// The folders of the tasks that live: of which the helper or the task's PID 1 is there.
    fn helpers(&self) -> Vec<String> {
        let state = self.state();
        let agents = std::fs::read_dir(state.join("agents")).unwrap().flatten();
        let tasks = agents.filter_map(|agent| std::fs::read_dir(agent.path().join("tasks")).ok());
        let folders = tasks.flat_map(|tasks| tasks.flatten().map(|task| task.path()));
        let live = folders.filter_map(|folder| {
            let folder = folder.to_str()?.to_owned();
            let pids = ["helper", "task"].map(|who| started_pid(&folder, who));
            pids.into_iter()
                .flatten()
                .any(probe::is_alive)
                .then_some(folder)
        });
        live.collect()
    }

    /// How many live tasks each job and index has, from the processes of this machine.
    fn live_tasks(&self) -> BTreeMap<String, u32> {
        let mut live = BTreeMap::new();
        for folder in self.helpers() {
            let name = folder.rsplit('/').next().unwrap();
            let (index, _incarnation) = name.rsplit_once('.').unwrap();
            *live.entry(index.to_owned()).or_default() += 1;
        }
        live
    }

    /// One task for each index that the jobs ask for.
    fn wanted_tasks(&self) -> BTreeMap<String, u32> {
        let replicas = |job: &str| self.status(job)["job"]["replicas"].as_u64().unwrap();
        let indices =
            |job| (0..replicas(job)).map(move |index| (format!("default.{job}.{index}"), 1));
        JOBS.into_iter().flat_map(indices).collect()
    }
}

/// xorshift64: choices that a seed repeats.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

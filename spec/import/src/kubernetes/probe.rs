//! Probes become checks.

use tw_model::{CommandCheck, CommandLine, HealthCheck, HttpCheck, Keyed, Millis, Name, TcpCheck};

use crate::check::Timing;
use crate::draft::{Draft, PortMention};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;

const PROBE: Fates = &[
    (
        "initialDelaySeconds",
        Fate::Ignored("a new task has time to become healthy: Rollout(deadline=…)"),
    ),
    (
        "successThreshold",
        Fate::IgnoredIf(
            &["1"],
            "a task is healthy after one success; a rollout waits for Rollout(healthy_for=…)",
        ),
    ),
    (
        "terminationGracePeriodSeconds",
        Fate::Lost("a task always has the time of Stop(grace=…) to end"),
    ),
];

const EVERY: Millis = Millis::seconds(5);
const TIMEOUT: Millis = Millis::seconds(2);
const FAILURES: u32 = 3;

/// Reads the probes of a container; gives the time that it may take to start.
pub(crate) fn read(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) -> Option<Millis> {
    let ready = fields
        .fields("readinessProbe", notes)
        .and_then(|probe| read_probe(draft, probe, notes));
    draft.spec.health.extend(ready.clone());
    if let Some(probe) = fields.fields("livenessProbe", notes) {
        let item = probe.item.clone();
        if let Some(alive) = read_probe(draft, probe, notes) {
            match &ready {
                Some(ready) if ready.key() == alive.key() => {
                    notes.ignored(&item, "one check says whether a task serves, and a task that does not is started again");
                }
                _ => draft.spec.health.push(alive),
            }
        }
    }
    let startup = fields.fields("startupProbe", notes)?;
    let item = startup.item.clone();
    let every = item
        .get("periodSeconds")
        .and_then(|item| item.number::<u64>())
        .unwrap_or(10);
    let failures = item
        .get("failureThreshold")
        .and_then(|item| item.number::<u64>())
        .unwrap_or(3);
    let check = read_probe(draft, startup, notes)?;
    if draft.spec.health.is_empty() {
        draft.spec.health.push(check);
    } else {
        notes.ignored(
            &item,
            "a new task has time to become healthy: Rollout(deadline=…)",
        );
    }
    Some(Millis::seconds(every.saturating_mul(failures).max(1)))
}

fn read_probe(draft: &mut Draft, mut probe: Fields, notes: &mut Notes) -> Option<HealthCheck> {
    let mut seconds = |key: &str| {
        probe
            .number::<u64>(key, notes)
            .map(|(seconds, _)| Millis::seconds(seconds))
    };
    let timing = Timing {
        every: seconds("periodSeconds"),
        timeout: seconds("timeoutSeconds"),
        failures: None,
    };
    let failures = probe
        .number::<u32>("failureThreshold", notes)
        .map(|(failures, _)| failures);
    let timing = Timing { failures, ..timing };
    let mut found = None;
    if let Some(http) = probe.fields("httpGet", notes) {
        found = read_http(draft, http, timing, notes);
    }
    if let Some(mut socket) = probe.fields("tcpSocket", notes) {
        found = read_port(draft, &mut socket, "port", notes).map(|port| connection(port, timing));
        socket.close(
            &[("host", Fate::Lost("a task is asked at its own port"))],
            notes,
        );
    }
    if let Some(mut grpc) = probe.fields("grpc", notes) {
        let item = grpc.item.clone();
        found = read_port(draft, &mut grpc, "port", notes).map(|port| connection(port, timing));
        grpc.close(
            &[(
                "service",
                Fate::Lost("a check of a port asks whether it takes connections"),
            )],
            notes,
        );
        notes.changed(&item, "health", "asks only whether the port takes connections; a CommandCheck can run grpc_health_probe");
    }
    if let Some(mut exec) = probe.fields("exec", notes) {
        let words: Vec<String> = exec
            .list("command", notes)
            .iter()
            .map(|word| word.text().to_owned())
            .collect();
        exec.close(&[], notes);
        if !words.is_empty() {
            let check = CommandCheck {
                command: CommandLine(words),
                every: EVERY,
                timeout: TIMEOUT,
                failures: FAILURES,
            };
            found = Some(HealthCheck::Command(timing.command(check)));
        }
    }
    let item = probe.item.clone();
    probe.close(PROBE, notes);
    if found.is_none() {
        notes.lost(&item, "health", "a check asks a port of the job, or runs a command: HttpCheck, TcpCheck or CommandCheck");
    }
    found
}

fn connection(port: Name, timing: Timing) -> HealthCheck {
    HealthCheck::Tcp(timing.tcp(TcpCheck {
        port,
        every: EVERY,
        timeout: TIMEOUT,
        failures: FAILURES,
    }))
}

fn read_http(
    draft: &mut Draft,
    mut http: Fields,
    timing: Timing,
    notes: &mut Notes,
) -> Option<HealthCheck> {
    let port = read_port(draft, &mut http, "port", notes);
    let path = http.scalar("path", notes);
    let scheme = http.scalar("scheme", notes);
    http.close(
        &[
            ("host", Fate::Lost("a task is asked at its own port")),
            (
                "httpHeaders",
                Fate::Lost(
                    "a request of a check has no headers of its own; a CommandCheck can send them",
                ),
            ),
        ],
        notes,
    );
    let port = port?;
    if let Some(scheme) = scheme.filter(|scheme| scheme.text() == "HTTPS") {
        notes.changed(
            &scheme,
            "health",
            "asks only whether the port takes connections: a request of a check is plain HTTP",
        );
        if let Some(path) = path {
            notes.lost(
                &path,
                "health",
                "a request of a check is plain HTTP; a CommandCheck can ask with TLS",
            );
        }
        return Some(connection(port, timing));
    }
    let path = match path {
        Some(path) if path.text().contains(char::is_whitespace) => {
            notes.lost(&path, "health", "a path has no blanks");
            "/".to_owned()
        }
        Some(path) if path.text().starts_with('/') => path.text().to_owned(),
        Some(path) => format!("/{}", path.text()),
        None => "/".to_owned(),
    };
    Some(HealthCheck::Http(timing.http(HttpCheck {
        port,
        path,
        every: EVERY,
        timeout: TIMEOUT,
        failures: FAILURES,
    })))
}

/// The port that a probe asks, by name or number; one that the container does not declare is added.
fn read_port(draft: &mut Draft, fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<Name> {
    let item: Item = fields.scalar(key, notes)?;
    if let Some(number) = item.number::<u16>() {
        if draft.port(number).is_none() {
            draft.name_ports(vec![PortMention {
                number,
                name: None,
                item: item.clone(),
            }]);
        }
        return draft.port(number).cloned();
    }
    let named = draft
        .listens
        .iter()
        .find(|listen| listen.name.as_str() == crate::draft::nearest_name(item.text()));
    match named {
        Some(listen) => Some(listen.name.clone()),
        None => {
            notes.lost(
                &item,
                "health",
                format!("the container has no port '{}'", item.text()),
            );
            None
        }
    }
}

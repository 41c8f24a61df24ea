//! Ports of a group and the services behind them.

use tw_model::{CommandCheck, CommandLine, HealthCheck, HttpCheck, Keyed, Millis, Name, TcpCheck};

use super::{Shared, close, millis};
use crate::check::Timing;
use crate::draft::{Draft, PortMention, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::settle::Addresses;

const NETWORK: Fates = &[
    (
        "Mode",
        Fate::IgnoredIf(
            &["host", "bridge", "none"],
            "a task listens on ports of its machine",
        ),
    ),
    (
        "MBits",
        Fate::Lost("bandwidth that is kept free is Resources(bandwidth=…)"),
    ),
    ("DNS", Fate::Lost("a task has the resolver of its machine")),
    (
        "Device",
        Fate::Ignored("a task listens on all addresses of its machine"),
    ),
    (
        "CIDR",
        Fate::Ignored("a task listens on all addresses of its machine"),
    ),
    (
        "IP",
        Fate::Ignored("a task listens on all addresses of its machine"),
    ),
    (
        "Hostname",
        Fate::Ignored("a task has the host name JOB-INDEX"),
    ),
    ("CNI", Fate::Lost("a task has the network of its machine")),
];

/// Declares the ports of a network. Those without a number of their own are told to the program by Nomad already.
pub(crate) fn ports(draft: &mut Draft, item: Item, notes: &mut Notes) {
    let mut network = Fields::open(item, notes);
    for key in ["DynamicPorts", "ReservedPorts"] {
        for item in network.list(key, notes) {
            let mut port = Fields::open(item.clone(), notes);
            let label = port
                .scalar("Label", notes)
                .map(|label| label.text().to_owned())
                .unwrap_or_default();
            let inside = port
                .number::<i64>("To", notes)
                .filter(|(number, _)| *number > 0);
            let fixed = port
                .number::<i64>("Value", notes)
                .filter(|(number, _)| *number > 0);
            if let Some((value, at)) = &fixed {
                notes.lost(
                    at,
                    "ports",
                    format!("a port has the number that its task is given, not always {value}"),
                );
            }
            close(
                port,
                &[
                    (
                        "HostNetwork",
                        Fate::IgnoredIf(
                            &["default"],
                            "a task listens on all addresses of its machine",
                        ),
                    ),
                    (
                        "IgnoreCollision",
                        Fate::Ignored("no two tasks are given one port"),
                    ),
                ],
                notes,
            );
            match inside.or(fixed) {
                Some((number, _)) => {
                    let number = u16::try_from(number).unwrap_or_default();
                    draft.name_ports(vec![PortMention {
                        number,
                        name: Some(label),
                        item,
                    }]);
                }
                None => add_port(draft, &label),
            }
        }
    }
    close(network, NETWORK, notes);
}

fn add_port(draft: &mut Draft, label: &str) {
    if let Ok(name) = nearest_name(label).parse::<Name>()
        && !draft.spec.ports.contains(&name)
    {
        draft.spec.ports.push(name);
    }
}

const SERVICE: Fates = &[
    (
        "Tags",
        Fate::Lost("what is said about a job to tools belongs into its labels"),
    ),
    (
        "CanaryTags",
        Fate::Lost("what is said about a job to tools belongs into its labels"),
    ),
    (
        "Meta",
        Fate::Lost("what is said about a job to tools belongs into its labels"),
    ),
    (
        "CanaryMeta",
        Fate::Lost("what is said about a job to tools belongs into its labels"),
    ),
    (
        "Provider",
        Fate::Ignored("jobs are found by {service:JOB:PORT}"),
    ),
    (
        "AddressMode",
        Fate::Ignored("a job is found at the address of its machine"),
    ),
    (
        "Connect",
        Fate::Lost("Twill has no service mesh: jobs reach each other by {service:JOB:PORT}"),
    ),
    (
        "OnUpdate",
        Fate::IgnoredIf(
            &["require_healthy"],
            "an update waits until a task is healthy",
        ),
    ),
    (
        "CheckRestart",
        Fate::Ignored("a task that is not healthy is started again"),
    ),
    (
        "TaskName",
        Fate::Ignored("a check runs in the task's sandbox"),
    ),
    (
        "Cluster",
        Fate::Ignored("jobs are found within their namespace"),
    ),
    (
        "Namespace",
        Fate::Ignored("jobs are found within their namespace"),
    ),
    ("EnableTagOverride", Fate::Ignored("only Consul reads it")),
    (
        "*",
        Fate::Lost("jobs are found by {service:JOB:PORT}, without more"),
    ),
];

const CHECK: Fates = &[
    ("Name", Fate::Ignored("a check is known by what it asks")),
    (
        "CheckRestart",
        Fate::Ignored("a task that is not healthy is started again"),
    ),
    ("Expose", Fate::Ignored("a check asks the task itself")),
    (
        "AddressMode",
        Fate::Ignored("a task is asked at its own port"),
    ),
    (
        "OnUpdate",
        Fate::IgnoredIf(
            &["require_healthy"],
            "an update waits until a task is healthy",
        ),
    ),
    (
        "SuccessBeforePassing",
        Fate::Lost(
            "a task is healthy after one success; a rollout waits for Rollout(healthy_for=…)",
        ),
    ),
    (
        "InitialStatus",
        Fate::Ignored("a new task has time to become healthy: Rollout(deadline=…)"),
    ),
    (
        "Method",
        Fate::IgnoredIf(&["GET"], "a check is a GET request"),
    ),
    (
        "Protocol",
        Fate::IgnoredIf(&["http"], "a request of a check is plain HTTP"),
    ),
    (
        "Header",
        Fate::Lost("a request of a check has no headers of its own; a CommandCheck can send them"),
    ),
    ("Body", Fate::Lost("a check is a GET request")),
    (
        "GRPC*",
        Fate::Lost("a check of a port asks whether it takes connections"),
    ),
    ("TLS*", Fate::Lost("a request of a check is plain HTTP")),
    (
        "TaskName",
        Fate::Ignored("a check runs in the task's sandbox"),
    ),
    (
        "FailuresBeforeWarning",
        Fate::Lost("a task is healthy or not"),
    ),
    ("Notes", Fate::Ignored("nobody but people reads it")),
];

/// Reads a service: its checks, and the name under which others find the job.
pub(crate) fn service(
    draft: &mut Draft,
    item: Item,
    shared: &Shared,
    addresses: &mut Addresses,
    notes: &mut Notes,
) {
    let mut service = Fields::open(item, notes);
    let name = service
        .scalar("Name", notes)
        .filter(|name| !name.text().is_empty());
    let label = service
        .scalar("PortLabel", notes)
        .filter(|label| !label.text().is_empty());
    let port = label
        .as_ref()
        .and_then(|label| find_port(draft, label, notes));
    if let (None, Some(label)) = (&name, &label) {
        notes.ignored(label, "others find a job by its ports, not by its services");
    }
    if let Some(name) = name {
        let job = draft.spec.name.clone();
        let found = port.as_ref().map_or("PORT".to_owned(), Name::to_string);
        notes.changed(
            &name,
            "ports",
            format!("others find '{}' as {{service:{job}:{found}}}", name.text()),
        );
        // Consul's names of services, in case texts hold them with a fixed port.
        let host = name.text().replace("${JOB}", &shared.id);
        for listen in draft
            .listens
            .clone()
            .iter()
            .filter(|listen| Some(&listen.name) == port.as_ref())
        {
            for host in [host.clone(), format!("{host}.service.consul")] {
                addresses.mapped(&host, &job, listen.number, listen.number);
            }
        }
    }
    for item in service.list("Checks", notes) {
        read_check(draft, item, port.as_ref(), notes);
    }
    close(service, SERVICE, notes);
}

/// A port by its label; a service may also name one by number. One that is not there is noted.
fn find_port(draft: &mut Draft, label: &Item, notes: &mut Notes) -> Option<Name> {
    if let Some(number) = label.number::<u16>() {
        if draft.port(number).is_none() {
            draft.name_ports(vec![PortMention {
                number,
                name: None,
                item: label.clone(),
            }]);
        }
        return draft.port(number).cloned();
    }
    let wanted = nearest_name(label.text());
    let found = draft
        .spec
        .ports
        .iter()
        .find(|port| port.as_str() == wanted)
        .cloned();
    if found.is_none() {
        let message = format!("the group's network has no port '{}'", label.text());
        notes.lost(label, "ports", message);
    }
    found
}

fn read_check(draft: &mut Draft, item: Item, of_service: Option<&Name>, notes: &mut Notes) {
    let mut check = Fields::open(item.clone(), notes);
    let mut time = |key: &str| millis(&mut check, key, "health", notes).map(|(millis, _)| millis);
    let (every, timeout) = (time("Interval"), time("Timeout"));
    let failures = super::count(&mut check, "FailuresBeforeCritical", notes)
        .map(|(number, _)| number as u32 + 1);
    let timing = Timing {
        every,
        timeout,
        failures,
    };
    let kind = check.scalar("Type", notes);
    let label = check
        .scalar("PortLabel", notes)
        .filter(|port| !port.text().is_empty());
    let port = match &label {
        Some(label) => find_port(draft, label, notes),
        None => of_service.cloned(),
    };
    let path = check
        .scalar("Path", notes)
        .map(|path| path.text().to_owned())
        .filter(|path| path.starts_with('/'));
    let program = check
        .scalar("Command", notes)
        .map(|program| program.text().to_owned())
        .unwrap_or_default();
    let arguments: Vec<String> = check
        .list("Args", notes)
        .iter()
        .map(|word| word.text().to_owned())
        .collect();
    let (default_every, default_timeout) = (Millis::seconds(5), Millis::seconds(2));
    let kind_text = kind
        .as_ref()
        .map(|kind| kind.text().to_owned())
        .unwrap_or_default();
    let is_tls = check
        .item
        .get("Protocol")
        .is_some_and(|protocol| protocol.text() == "https");
    let made = match (kind_text.as_str(), port) {
        ("script", _) if !program.is_empty() => {
            let words = std::iter::once(program).chain(arguments).collect();
            let made = CommandCheck {
                command: CommandLine(words),
                every: default_every,
                timeout: default_timeout,
                failures: 3,
            };
            Some(HealthCheck::Command(timing.command(made)))
        }
        ("http", Some(port)) if !is_tls => {
            let made = HttpCheck {
                port,
                path: path.unwrap_or("/".to_owned()),
                every: default_every,
                timeout: default_timeout,
                failures: 3,
            };
            Some(HealthCheck::Http(timing.http(made)))
        }
        ("tcp" | "grpc" | "http", Some(port)) => {
            if kind_text != "tcp" {
                notes.changed(
                    &item,
                    "health",
                    "asks only whether the port takes connections",
                );
            }
            let made = TcpCheck {
                port,
                every: default_every,
                timeout: default_timeout,
                failures: 3,
            };
            Some(HealthCheck::Tcp(timing.tcp(made)))
        }
        _ => {
            notes.lost(&item, "health", "a check asks a port of the job, or runs a command: HttpCheck, TcpCheck or CommandCheck");
            None
        }
    };
    if let Some(made) = made
        && !draft
            .spec
            .health
            .iter()
            .any(|known| known.key() == made.key())
    {
        draft.spec.health.push(made);
    }
    close(check, CHECK, notes);
}

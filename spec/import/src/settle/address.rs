//! Addresses of other jobs become `{service:JOB:PORT}`, where it is certain which job is meant.

use std::collections::BTreeMap;

use tw_model::Name;

use super::{known_image, service_template};
use crate::draft::{Draft, PortMention};
use crate::fields::Item;
use crate::note::Notes;

/// What the jobs of an import find each other by.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    hosts: BTreeMap<String, Host>,
}

#[derive(Debug)]
struct Host {
    job: Name,
    /// Numbers that callers use → numbers that the job listens on.
    ports: BTreeMap<u16, u16>,
    /// Whether callers reach every port of the job by its own number.
    is_direct: bool,
}

impl Addresses {
    /// A name under which every port of a job is reached.
    pub(crate) fn direct(&mut self, host: &str, job: &Name) {
        let host_entry = Host {
            job: job.clone(),
            ports: BTreeMap::new(),
            is_direct: true,
        };
        self.hosts.entry(host.to_owned()).or_insert(host_entry);
    }

    /// A name under which a job is reached at `number`, where it listens on `target`.
    pub(crate) fn mapped(&mut self, host: &str, job: &Name, number: u16, target: u16) {
        let host_entry = Host {
            job: job.clone(),
            ports: BTreeMap::new(),
            is_direct: false,
        };
        let entry = self.hosts.entry(host.to_owned()).or_insert(host_entry);
        if entry.job == *job {
            entry.ports.insert(number, target);
        }
    }
}

/// The port that a scheme means where an address names none.
const SCHEME_PORTS: [(&str, u16); 12] = [
    ("http", 80),
    ("https", 443),
    ("redis", 6379),
    ("postgres", 5432),
    ("postgresql", 5432),
    ("mysql", 3306),
    ("mongodb", 27017),
    ("amqp", 5672),
    ("ws", 80),
    ("wss", 443),
    ("nats", 4222),
    ("memcached", 11211),
];

/// An address found in a text.
struct Found {
    start: usize,
    end: usize,
    host: String,
    port: u16,
}

/// Replaces the addresses of jobs in all texts of all drafts.
pub(super) fn bind(drafts: &mut [Draft], addresses: Addresses, notes: &mut Notes) {
    declare_ports(drafts, &addresses);
    let ports: BTreeMap<Name, BTreeMap<u16, Name>> = drafts
        .iter()
        .map(|draft| {
            let ports = draft
                .listens
                .iter()
                .map(|listen| (listen.number, listen.name.clone()))
                .collect();
            (draft.spec.name.clone(), ports)
        })
        .collect();
    let template = |found: &Found| {
        let host = addresses.hosts.get(&found.host)?;
        let target = if host.is_direct {
            found.port
        } else {
            *host.ports.get(&found.port)?
        };
        let port = ports.get(&host.job)?.get(&target)?;
        Some(service_template(&host.job, port))
    };
    for draft in drafts.iter_mut() {
        let own = draft.spec.name.clone();
        notes.about(Some(own.as_str()));
        for (text, _) in draft.texts_mut() {
            let mut from = 0;
            while let Some(found) = find(text, from, &addresses) {
                from = match template(&found) {
                    Some(value) => {
                        text.replace_range(found.start..found.end, &value);
                        found.start + value.len()
                    }
                    None => found.end,
                };
            }
        }
        note_unbound(draft, &addresses, &ports, notes);
    }
}

/// Lets jobs have the ports that others call them by, or that their well-known images listen on.
fn declare_ports(drafts: &mut [Draft], addresses: &Addresses) {
    let mut called: Vec<(Name, PortMention)> = Vec::new();
    for draft in drafts.iter_mut() {
        for (text, item) in draft.texts_mut() {
            let mut from = 0;
            while let Some(found) = find(text, from, addresses) {
                from = found.end;
                let host = &addresses.hosts[&found.host];
                if let (true, Some(item)) = (host.is_direct, item.clone()) {
                    called.push((
                        host.job.clone(),
                        PortMention {
                            number: found.port,
                            name: None,
                            item,
                        },
                    ));
                }
            }
        }
    }
    for draft in drafts.iter_mut() {
        let mut mentions: Vec<PortMention> = called
            .iter()
            .filter(|(job, mention)| {
                *job == draft.spec.name && draft.port(mention.number).is_none()
            })
            .map(|(_, mention)| mention.clone())
            .collect();
        let has_callers = !mentions.is_empty() || is_named(draft.name(), addresses);
        if let (true, true, Some((number, _)), Some((_, item))) = (
            has_callers && mentions.is_empty(),
            draft.listens.is_empty(),
            known_image(draft).and_then(|known| known.listen),
            draft.image.clone(),
        ) {
            mentions.push(PortMention {
                number,
                name: None,
                item,
            });
        }
        draft.name_ports(mentions);
    }
}

fn is_named(job: &Name, addresses: &Addresses) -> bool {
    addresses
        .hosts
        .values()
        .any(|host| host.job == *job && host.is_direct)
}

/// The first address of a known host at or after `from`.
fn find(text: &str, from: usize, addresses: &Addresses) -> Option<Found> {
    let in_host = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut start = from;
    while start < text.len() {
        let rest = &text[start..];
        let begin = rest.find(in_host).map(|at| at + start)?;
        let end = text[begin..]
            .find(|c| !in_host(c))
            .map_or(text.len(), |at| at + begin);
        let word = &text[begin..end];
        start = end;
        let host = addresses
            .hosts
            .contains_key(word)
            .then(|| word.to_owned())
            .or_else(|| qualified(word, addresses));
        let Some(host) = host else { continue };
        // A path or a part of one is no host.
        let before = &text[..begin];
        if before.ends_with(['$', '{']) || (before.ends_with('/') && !before.ends_with("//")) {
            continue;
        }
        if let Some(found) =
            with_port(text, begin, end, &host).or_else(|| with_scheme(text, begin, end, &host))
        {
            return Some(found);
        }
    }
    None
}

/// `redis.shop.svc.cluster.local` is `redis` within a cluster.
fn qualified(word: &str, addresses: &Addresses) -> Option<String> {
    let (host, rest) = word.split_once('.')?;
    let parts: Vec<&str> = rest.split('.').collect();
    let in_cluster = matches!(parts[..], [_, "svc"] | [_, "svc", "cluster", "local"]);
    (in_cluster && addresses.hosts.contains_key(host)).then(|| host.to_owned())
}

fn with_port(text: &str, start: usize, end: usize, host: &str) -> Option<Found> {
    let digits = text[end..].strip_prefix(':')?;
    let length = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    let port = digits[..length].parse().ok()?;
    Some(Found {
        start,
        end: end + 1 + length,
        host: host.to_owned(),
        port,
    })
}

/// An address without a port, in a URL whose scheme says which one is meant.
fn with_scheme(text: &str, start: usize, end: usize, host: &str) -> Option<Found> {
    // What is followed by `@` is the user of an address, not its host.
    if text[end..].starts_with([':', '@']) {
        return None;
    }
    let before = &text[..start];
    let before = match before.rsplit_once('@') {
        Some((user, "")) => &user[..user.rfind("://").map(|at| at + 3)?],
        _ => before,
    };
    let scheme = before.strip_suffix("://")?;
    let scheme = scheme.rsplit(|c: char| !c.is_ascii_alphanumeric()).next()?;
    let (_, port) = SCHEME_PORTS.iter().find(|(name, _)| *name == scheme)?;
    Some(Found {
        start,
        end,
        host: host.to_owned(),
        port: *port,
    })
}

/// Says which values name a job without an address, or an address of nobody here.
fn note_unbound(
    draft: &Draft,
    addresses: &Addresses,
    ports: &BTreeMap<Name, BTreeMap<u16, Name>>,
    notes: &mut Notes,
) {
    for (key, value, item) in &draft.env {
        if let Some(host) = addresses.hosts.get(value.as_str()) {
            let names = ports
                .get(&host.job)
                .map(|ports| ports.values().collect::<Vec<_>>())
                .unwrap_or_default();
            // A name that is a job's by accident is none: a database called like the service.
            let upper = key.to_ascii_uppercase();
            let is_address = [
                "HOST", "HOSTS", "SERVER", "ADDR", "ADDRESS", "URL", "ENDPOINT", "HOSTNAME",
            ]
            .iter()
            .any(|end| upper.ends_with(end));
            if !is_address {
                continue;
            }
            let message = match names[..] {
                [port] => format!(
                    "jobs are not found by their name alone: {} is HOST:PORT of {}",
                    service_template(&host.job, port),
                    host.job
                ),
                _ => format!(
                    "jobs are not found by their name alone: {{service:{}:PORT}} is HOST:PORT of one of its ports",
                    host.job
                ),
            };
            notes.decide(item, "env", message);
        } else if let Some(host) = foreign(value) {
            note_foreign(&host, item, notes);
        }
    }
}

fn note_foreign(host: &str, item: &Item, notes: &mut Notes) {
    notes.decide(item, "env", format!("'{host}' is not part of this import; once it is a job of Twill, its address is {{service:{host}:PORT}}"));
}

/// The host of a value that is `NAME:PORT` and nothing else, with a name as only a cluster's own discovery knows it.
fn foreign(value: &str) -> Option<String> {
    let (host, port) = value.split_once(':')?;
    let port: u16 = port.parse().ok()?;
    let plain = host.starts_with(|c: char| c.is_ascii_lowercase())
        && host
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    (plain && port >= 10 && host != "localhost").then(|| host.to_owned())
}

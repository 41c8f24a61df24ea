//! The ports of a service, and the names by which others reach it.

use super::super::Project;
use super::super::dockerfile::Built;
use crate::draft::{Draft, PortMention, nearest_name};
use crate::fields::{Fate, Fields, Item};
use crate::note::Notes;

pub(super) fn read_ports(
    draft: &mut Draft,
    fields: &mut Fields,
    built: Option<&(Built, Item)>,
    notes: &mut Notes,
) {
    let mut mentions = Vec::new();
    for item in fields.list("ports", notes) {
        match item.is_map() {
            true => long_port(&item, &mut mentions, notes),
            false => short_port(&item, &mut mentions, notes),
        }
    }
    for item in fields.list("expose", notes) {
        short_port(&item, &mut mentions, notes);
    }
    if let Some((built, item)) = built {
        let exposed = |number: &u16| PortMention {
            number: *number,
            name: None,
            item: item.clone(),
        };
        mentions.extend(built.ports.iter().map(exposed));
    }
    draft.name_ports(mentions);
}

const PUBLISHED: &str = "published on the machine: jobs find each other by {service:JOB:PORT}, callers from outside need a proxy in front";

fn long_port(item: &Item, mentions: &mut Vec<PortMention>, notes: &mut Notes) {
    let mut port = Fields::open(item.clone(), notes);
    let target = port.number::<u16>("target", notes);
    let name = port
        .scalar("name", notes)
        .map(|item| item.text().to_owned());
    let application = port
        .scalar("app_protocol", notes)
        .map(|item| item.text().to_owned());
    if let Some(published) = port.take("published") {
        notes.lost(&published, "ports", PUBLISHED);
    }
    if let Some(protocol) = port.take("protocol")
        && protocol.text() == "udp"
    {
        notes.lost(&protocol, "ports", "a port of a job is a TCP port");
        return;
    }
    match target {
        Some((number, item)) => mentions.push(PortMention {
            number,
            name: name.or(application),
            item,
        }),
        None => notes.lost(item, "ports", "a port without its number (target)"),
    }
    port.close(
        &[
            ("host_ip", Fate::Lost(PUBLISHED)),
            ("mode", Fate::Ignored("callers are given a healthy task")),
        ],
        notes,
    );
}

/// `[[IP:]PUBLISHED:]TARGET[/PROTOCOL]`, each number perhaps a range.
fn short_port(item: &Item, mentions: &mut Vec<PortMention>, notes: &mut Notes) {
    let text = item.text();
    let (address, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (published, target) = match address.rsplit_once(':') {
        Some((published, target)) => (Some(published), target),
        None => (None, address),
    };
    if protocol.eq_ignore_ascii_case("udp") {
        notes.lost(
            item,
            "ports",
            format!("{text}: a port of a job is a TCP port"),
        );
        return;
    }
    if published.is_some() {
        notes.lost(item, "ports", PUBLISHED);
    }
    let (first, last) = target.split_once('-').unwrap_or((target, target));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) if last >= first && last - first < 100 => {
            let mention = |number| PortMention {
                number,
                name: None,
                item: item.clone(),
            };
            mentions.extend((first..=last).map(mention));
        }
        _ => notes.lost(item, "ports", format!("'{text}' is not a port")),
    }
}

pub(super) fn read_hosts(draft: &Draft, fields: &mut Fields, project: &mut Project<'_>) {
    let job = draft.name().clone();
    for key in ["container_name", "hostname"] {
        if let Some(item) = fields.item.get(key) {
            project.addresses.direct(item.text(), &job);
        }
    }
    let networks = fields
        .item
        .get("networks")
        .map(|item| item.entries())
        .unwrap_or_default();
    for alias in networks
        .iter()
        .filter_map(|(_, network)| network.get("aliases"))
        .flat_map(|item| item.items())
    {
        project.addresses.direct(alias.text(), &job);
    }
    for link in fields
        .item
        .get("links")
        .map(|item| item.items())
        .unwrap_or_default()
    {
        if let Some((service, alias)) = link.text().split_once(':')
            && let Ok(linked) = nearest_name(service).parse()
        {
            project.addresses.direct(alias, &linked);
        }
    }
}

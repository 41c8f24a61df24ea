//! Nomad's jobs in JSON, as its API has them and `nomad job run -output` and `nomad job inspect` print them.

mod group;
mod network;
mod placement;
mod task;
mod text;

use tw_model::{Kind, Millis, Name};

use crate::compose::Read;
use crate::document::{Node, Value};
use crate::draft::JobNames;
use crate::error::ImportError;
use crate::fields::{Fate, Fates, Fields, Item};
use crate::kubernetes::{NO_LINE, schedule};
use crate::note::Notes;
use crate::settle::Addresses;

const STATE: &str = "it says how the job was, not how it should be";
const TOKEN: &str = "who may apply a job is for its cluster to know";

const JOB: Fates = &[
    ("Name", Fate::Ignored("a job is named by its ID")),
    (
        "AllAtOnce",
        Fate::Lost("tasks start as there is room for them"),
    ),
    ("Dispatched", Fate::Ignored(STATE)),
    ("DispatchIdempotencyToken", Fate::Ignored(STATE)),
    ("Status*", Fate::Ignored(STATE)),
    ("Stable", Fate::Ignored(STATE)),
    ("Version*", Fate::Ignored(STATE)),
    ("SubmitTime", Fate::Ignored(STATE)),
    ("CreateIndex", Fate::Ignored(STATE)),
    ("ModifyIndex", Fate::Ignored(STATE)),
    ("JobModifyIndex", Fate::Ignored(STATE)),
    ("ParentID", Fate::Ignored(STATE)),
    ("NomadTokenID", Fate::Ignored(TOKEN)),
    ("ConsulToken", Fate::Ignored(TOKEN)),
    ("VaultToken", Fate::Ignored(TOKEN)),
    (
        "VaultNamespace",
        Fate::Lost("a secret belongs to the job's namespace: secrets=[Secret(name=…)]"),
    ),
    (
        "ConsulNamespace",
        Fate::Lost("jobs are found within their namespace by {service:JOB:PORT}"),
    ),
    (
        "Stop",
        Fate::IgnoredIf(
            &["false"],
            "a job that should not run is left out of the spec",
        ),
    ),
    (
        "Multiregion",
        Fate::Lost("write a job for each region: Requires(region=…)"),
    ),
    (
        "ParameterizedJob",
        Fate::Lost("a job runs with what its spec says: write one for each set of values"),
    ),
    ("Payload", Fate::Lost("a job runs with what its spec says")),
    (
        "NodePool",
        Fate::IgnoredIf(
            &["default", "all"],
            "keep to machines by labels that they have: Requires(labels={…})",
        ),
    ),
    ("UI", Fate::Lost("links of a job belong into its labels")),
];

/// What holds for all groups of a job.
pub(crate) struct Shared {
    pub(crate) id: String,
    pub(crate) kind: Kind,
    pub(crate) namespace: Option<Name>,
    pub(crate) constraints: Vec<Item>,
    pub(crate) affinities: Vec<Item>,
    pub(crate) spreads: Vec<Item>,
    pub(crate) meta: Vec<(String, Item)>,
    pub(crate) update: Option<Item>,
    pub(crate) priority: Option<u32>,
    pub(crate) region: Option<Name>,
    pub(crate) schedule: Option<tw_model::Schedule>,
}

/// Reads the jobs of all documents; each group of tasks is a job.
pub(crate) fn read(documents: &[Item], notes: &mut Notes) -> Result<Read, ImportError> {
    let mut names = JobNames::default();
    let mut drafts = Vec::new();
    let mut addresses = Addresses::default();
    for document in documents {
        let jobs = if document.is_list() {
            document.items()
        } else {
            vec![document.clone()]
        };
        for job in jobs {
            let item = match job.get("Job") {
                Some(inner) => {
                    note_envelope(&job, notes);
                    inner
                }
                None => job,
            };
            read_job(item, &mut names, &mut drafts, &mut addresses, notes)?;
        }
    }
    notes.about(None);
    Ok(Read {
        drafts,
        addresses,
        variables: Default::default(),
    })
}

/// What stands beside the job in a request to the API.
fn note_envelope(request: &Item, notes: &mut Notes) {
    let mut fields = Fields::open(request.clone(), notes);
    fields.take("Job");
    close(
        fields,
        &[(
            "*",
            Fate::Ignored("it is about the request, not about the job"),
        )],
        notes,
    );
}

fn read_job(
    item: Item,
    names: &mut JobNames,
    drafts: &mut Vec<crate::draft::Draft>,
    addresses: &mut Addresses,
    notes: &mut Notes,
) -> Result<(), ImportError> {
    let id = ["ID", "Name"]
        .iter()
        .find_map(|key| item.get(key))
        .map(|id| id.text().to_owned());
    let Some(id) = id.filter(|id| !id.is_empty()) else {
        return Err(ImportError::Invalid {
            file: item.file.to_string(),
            line: item.place.line,
            column: item.place.column,
            path: if item.path.is_empty() {
                "the document".to_owned()
            } else {
                item.path
            },
            message: "a job has an ID".to_owned(),
        });
    };
    let mut fields = Fields::open(item, notes);
    fields.take("ID");
    let groups = fields.list("TaskGroups", notes);
    // Notes about the job as a whole stand at its first group.
    let alone = groups.len() == 1;
    let jobs: Vec<Name> = groups
        .iter()
        .map(|group| {
            let name = group
                .get("Name")
                .map(|name| name.text().to_owned())
                .unwrap_or_default();
            let text = if alone {
                id.clone()
            } else {
                format!("{id}-{name}")
            };
            let at = if alone { &fields.item } else { group };
            names.take(&text, at, notes)
        })
        .collect();
    notes.about(jobs.first().map(Name::as_str));
    let shared = read_shared(id, &mut fields, notes);
    close(fields, JOB, notes);
    for (group, job) in groups.into_iter().zip(jobs) {
        drafts.push(group::read(job, group, &shared, addresses, notes));
    }
    Ok(())
}

fn read_shared(id: String, fields: &mut Fields, notes: &mut Notes) -> Shared {
    let kind = match fields.scalar("Type", notes) {
        Some(kind) => match kind.text() {
            "batch" => Kind::Batch,
            "system" => Kind::Daemon,
            "sysbatch" => {
                notes.decide(&kind, "kind", "a batch job runs a number of tasks and a daemon runs on without end; none runs once on each machine");
                Kind::Batch
            }
            "service" | "" => Kind::Service,
            other => {
                notes.lost(&kind, "kind", format!("'{other}' is no type of Nomad"));
                Kind::Service
            }
        },
        None => Kind::Service,
    };
    let name = |item: Option<Item>, plain: &str| {
        let text = item.filter(|item| !item.text().is_empty() && item.text() != plain)?;
        crate::draft::nearest_name(text.text()).parse::<Name>().ok()
    };
    let namespace = name(fields.scalar("Namespace", notes), "default");
    let region = name(fields.scalar("Region", notes), "global");
    if let Some(item) = fields.take("Datacenters") {
        let any = item
            .items()
            .iter()
            .all(|item| ["*", "dc1"].contains(&item.text()));
        match any {
            true => notes.ignored(&item, "any machine will do, unless the job requires more"),
            false => notes.lost(
                &item,
                "requires",
                "keep to machines by labels that they have: Requires(labels={…})",
            ),
        }
    }
    Shared {
        id,
        kind,
        namespace,
        constraints: fields.list("Constraints", notes),
        affinities: fields.list("Affinities", notes),
        spreads: fields.list("Spreads", notes),
        meta: fields
            .take("Meta")
            .map(|item| item.entries())
            .unwrap_or_default(),
        update: fields.take("Update"),
        priority: read_priority(fields, notes),
        region,
        schedule: read_periodic(fields, notes),
    }
}

fn read_priority(fields: &mut Fields, notes: &mut Notes) -> Option<u32> {
    let (priority, item) = fields.number::<u32>("Priority", notes)?;
    match priority {
        0 => None,
        1..=100 => Some(priority),
        _ => {
            notes.lost(&item, "priority", "a priority is from 0 to 100");
            None
        }
    }
}

fn read_periodic(fields: &mut Fields, notes: &mut Notes) -> Option<tw_model::Schedule> {
    let mut periodic = fields.fields("Periodic", notes)?;
    let item = periodic.item.clone();
    let enabled = periodic.take("Enabled");
    let is_enabled = enabled
        .as_ref()
        .is_none_or(|item| item.truth() != Some(false));
    if let Some(enabled) = enabled {
        notes.ignored(&enabled, "a schedule holds as long as it is in the spec");
    }
    let zone = periodic
        .scalar("TimeZone", notes)
        .map(|zone| zone.text().to_owned())
        .filter(|zone| !zone.is_empty());
    let mut line = periodic
        .scalar("Spec", notes)
        .filter(|line| !line.text().is_empty());
    let lines = periodic.list("Specs", notes);
    if line.is_none() {
        line = lines.first().cloned();
    }
    lines.iter().skip(1).for_each(|line| {
        notes.lost(
            line,
            "schedule",
            "a job has one schedule; write a job for each",
        )
    });
    let overlap = periodic.scalar("ProhibitOverlap", notes);
    close(
        periodic,
        &[(
            "SpecType",
            Fate::IgnoredIf(&["cron"], "a schedule is a line of a crontab"),
        )],
        notes,
    );
    let Some(line) = line else {
        notes.lost(&item, "schedule", NO_LINE);
        return None;
    };
    if !is_enabled {
        notes.lost(
            &line,
            "schedule",
            "it is not enabled, and a schedule holds as long as it is in the spec",
        );
        return None;
    }
    if let Some(overlap) = overlap {
        match overlap.truth() {
            Some(true) => notes.ignored(&overlap, "a run is left out while the one before it has not ended"),
            _ => notes.lost(&overlap, "schedule", "a run waits, is left out, or replaces the one before it: overlap=\"queue\", \"skip\" or \"replace\""),
        }
    }
    schedule(&line, zone, notes)
}

/// Closes a mapping of Go's: what has the zero value of its type is not set.
pub(crate) fn close(mut fields: Fields, fates: Fates, notes: &mut Notes) {
    for (key, item) in fields.item.entries() {
        if is_zero(&item.node)
            && !item.node.is_null()
            && let Some(item) = fields.take(&key)
        {
            notes.ignored(&item, "it is not set");
        }
    }
    fields.close(fates, notes);
}

fn is_zero(node: &Node) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Plain(text) => text == "0" || text == "false",
        Value::Quoted(text) => text.is_empty(),
        Value::List(items) => items.iter().all(|item| is_zero(item)),
        // A mapping in a mapping is there to be set, also where it leaves all at its defaults.
        Value::Map(pairs) => pairs
            .iter()
            .all(|pair| is_zero(&pair.node) && !matches!(pair.node.value, Value::Map(_))),
    }
}

/// Takes a time in nanoseconds, or one with units; 0 is none.
pub(crate) fn millis(
    fields: &mut Fields,
    key: &str,
    field: &str,
    notes: &mut Notes,
) -> Option<(Millis, Item)> {
    let item = fields.scalar(key, notes)?;
    let millis = match item.number::<u64>() {
        Some(nanoseconds) => Some(Millis(nanoseconds.div_ceil(1_000_000))),
        None => crate::quantity::duration(item.text()),
    };
    match millis {
        Some(Millis::ZERO) => {
            notes.ignored(&item, "it is not set");
            None
        }
        Some(millis) => Some((millis, item)),
        None => {
            notes.lost(&item, field, format!("'{}' is not a duration", item.text()));
            None
        }
    }
}

/// Takes a number; 0 is none.
pub(crate) fn count(fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<(u64, Item)> {
    let (number, item) = fields.number::<i64>(key, notes)?;
    match u64::try_from(number) {
        Ok(0) | Err(_) => {
            notes.ignored(&item, "it is not set");
            None
        }
        Ok(number) => Some((number, item)),
    }
}

//! Constraints, affinities and spreads.

use tw_model::{Affinity, Domain, VersionRange};

use crate::draft::Draft;
use crate::fields::{Item, note_others};
use crate::note::Notes;
use crate::placement;

const LABELS: &str = "machines are told apart by labels that they must have: Requires(labels={…})";

/// What a machine must have.
pub(crate) fn constraint(draft: &mut Draft, item: &Item, notes: &mut Notes) {
    note_others(item, &["LTarget", "RTarget", "Operand"], notes);
    let text = |key: &str| {
        item.get(key)
            .map(|item| item.text().trim().to_owned())
            .unwrap_or_default()
    };
    let (left, right, operand) = (text("LTarget"), text("RTarget"), text("Operand"));
    let target = left
        .trim_start_matches("${")
        .trim_end_matches('}')
        .to_owned();
    let is_equal = ["=", "==", "is", ""].contains(&operand.as_str());
    match (target.as_str(), operand.as_str()) {
        (_, "distinct_hosts") => match right.as_str() {
            "false" => notes.ignored(item, "it is not set"),
            _ => {
                let job = draft.spec.name.clone();
                draft.spec.anti_affinity.push(Affinity { job, within: Domain::Machine, required: true });
            }
        },
        (_, "distinct_property") => match placement::domain(&left) {
            Some(over) => placement::spread(draft, over),
            None => notes.lost(item, "spread", "tasks are spread over machines, racks, clusters, data centres or regions: Spread(over=\"rack\")"),
        },
        ("attr.kernel.name", _) if is_equal && right == "linux" => notes.ignored(item, "Twill runs on Linux"),
        ("attr.kernel.version", _) => match version(&operand, &right) {
            Some(range) => draft.spec.requires.kernel = range,
            None => notes.lost(item, "requires", "a range of versions is written Requires(kernel=\">=6.1, <7\")"),
        },
        ("attr.os.version", _) => match version(&operand, &right) {
            Some(range) => draft.spec.requires.os_version = range,
            None => notes.lost(item, "requires", "a range of versions is written Requires(os_version=\">=12\")"),
        },
        ("attr.os.name", _) if is_equal => draft.spec.requires.os = right,
        ("node.region", _) if is_equal => match crate::draft::nearest_name(&right).parse() {
            Ok(region) => draft.spec.requires.region = Some(region),
            Err(_) => notes.lost(item, "requires", LABELS),
        },
        (target, _) if is_equal && !right.contains("${") => match label(target) {
            Some(key) => {
                placement::require_label(draft, key, &right);
                notes.changed(item, "requires", format!("machines need the label {key}"));
            }
            None => notes.lost(item, "requires", LABELS),
        },
        _ => notes.lost(item, "requires", LABELS),
    }
}

/// The label that stands for a property of a node.
fn label(target: &str) -> Option<&str> {
    match target {
        "node.class" => Some("class"),
        "node.datacenter" => Some("datacenter"),
        "node.pool" => Some("pool"),
        _ => target
            .strip_prefix("meta.")
            .or_else(|| target.strip_prefix("node.meta.")),
    }
}

/// A range of versions; Nomad's `~>` keeps all parts but the last.
fn version(operand: &str, right: &str) -> Option<VersionRange> {
    let right = right.trim_start_matches(['v', 'V']);
    let plain =
        |text: &str| !text.is_empty() && text.split('.').all(|part| part.parse::<u64>().is_ok());
    match operand {
        "version" | "semver" => {
            let bounds: Option<Vec<String>> = right
                .split(',')
                .map(|bound| {
                    let bound = bound.trim();
                    let number = bound.trim_start_matches(['>', '<', '=', '~', '!', ' ']);
                    let sign = bound[..bound.len() - number.len()].trim();
                    if !plain(number) || sign == "!=" {
                        return None;
                    }
                    match sign {
                        "~>" => {
                            let (kept, last) = number.rsplit_once('.')?;
                            let (start, up) = kept
                                .rsplit_once('.')
                                .map_or(("", kept), |(start, up)| (start, up));
                            let next = up.parse::<u64>().ok()? + 1;
                            let end = if start.is_empty() {
                                next.to_string()
                            } else {
                                format!("{start}.{next}")
                            };
                            Some(format!(">={kept}.{last}, <{end}"))
                        }
                        "" | "=" => Some(number.to_owned()),
                        sign => Some(format!("{sign}{number}")),
                    }
                })
                .collect();
            bounds.map(|bounds| VersionRange(bounds.join(", ")))
        }
        "=" | "==" | "is" | "" => plain(right).then(|| VersionRange(right.to_owned())),
        ">" | ">=" | "<" | "<=" => plain(right).then(|| VersionRange(format!("{operand}{right}"))),
        _ => None,
    }
}

/// A wish about machines.
pub(crate) fn affinity(item: &Item, notes: &mut Notes) {
    notes.lost(
        item,
        "requires",
        "what a job wants of its machines it requires: Requires(labels={…})",
    );
}

/// A spread over the values of a property.
pub(crate) fn spread(draft: &mut Draft, item: &Item, notes: &mut Notes) {
    note_others(item, &["Attribute", "Weight", "SpreadTarget"], notes);
    if let Some(weight) = item.get("Weight") {
        notes.ignored(&weight, "every spread holds");
    }
    let attribute = item
        .get("Attribute")
        .map(|item| item.text().to_owned())
        .unwrap_or_default();
    match placement::domain(&attribute) {
        Some(over) => placement::spread(draft, over),
        None => notes.lost(item, "spread", "tasks are spread over machines, racks, clusters, data centres or regions: Spread(over=\"rack\")"),
    }
    if let Some(targets) = item
        .get("SpreadTarget")
        .filter(|targets| targets.node.leaves() > 0)
    {
        notes.lost(&targets, "spread", "parts of the fleet have equal shares");
    }
}

//! What a service may use.

use tw_model::{Bytes, Cores};

use crate::check;
use crate::draft::Draft;
use crate::fields::{Fate, Fields, Item};
use crate::note::Notes;
use crate::quantity;

fn bytes(fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<(Bytes, Item)> {
    let item = fields.scalar(key, notes)?;
    match quantity::compose_bytes(item.text()) {
        Some(bytes) => Some((bytes, item)),
        None => {
            notes.lost(
                &item,
                "resources",
                format!("'{}' is not a size", item.text()),
            );
            None
        }
    }
}

fn cores(fields: &mut Fields, key: &str, notes: &mut Notes) -> Option<(Cores, Item)> {
    let item = fields.scalar(key, notes)?;
    match quantity::cores(item.text()) {
        Some(cores) => Some((cores, item)),
        None => {
            notes.lost(
                &item,
                "resources",
                format!("'{}' is not a number of cores", item.text()),
            );
            None
        }
    }
}

pub(super) fn read_resources(draft: &mut Draft, fields: &mut Fields, notes: &mut Notes) {
    let mut wanted = check::Wanted {
        cpu_limit: cores(fields, "cpus", notes),
        memory_limit: bytes(fields, "mem_limit", notes),
        memory_request: bytes(fields, "mem_reservation", notes),
        ..Default::default()
    };
    let pids = fields.number::<i64>("pids_limit", notes);
    let swap = bytes_or_unlimited(fields, notes);
    if let Some(deploy) = fields.item.get("deploy")
        && let Some(resources) = deploy.get("resources")
    {
        read_deploy_resources(draft, resources, &mut wanted, notes);
    }
    if let (Some((total, item)), Some((memory, _))) = (swap, &wanted.memory_limit) {
        // Compose counts memory and swap together.
        let swap = total.saturating_sub(*memory);
        draft.spec.resources.swap = swap;
        if swap == Bytes(0) {
            notes.ignored(&item, "a task does not swap");
        }
    }
    if let Some((pids, item)) = pids {
        set_pids(draft, pids, &item, notes);
    }
    wanted.fill(draft, notes);
}

fn bytes_or_unlimited(fields: &mut Fields, notes: &mut Notes) -> Option<(Bytes, Item)> {
    if fields
        .item
        .get("memswap_limit")
        .is_some_and(|item| item.text() == "-1")
    {
        let item = fields.take("memswap_limit")?;
        notes.lost(&item, "resources", "swap has a bound: Resources(swap=…)");
        return None;
    }
    if !fields
        .item
        .entries()
        .iter()
        .any(|(key, _)| key == "mem_limit")
    {
        let item = fields.take("memswap_limit")?;
        notes.lost(
            &item,
            "resources",
            "without a limit of the memory it says nothing",
        );
        return None;
    }
    bytes(fields, "memswap_limit", notes)
}

fn set_pids(draft: &mut Draft, pids: i64, item: &Item, notes: &mut Notes) {
    match u32::try_from(pids) {
        Ok(pids) if pids > 0 => draft.spec.resources.pids = pids,
        _ => notes.lost(
            item,
            "resources",
            "the number of processes has a bound: Resources(pids=…)",
        ),
    }
}

fn read_deploy_resources(
    draft: &mut Draft,
    item: Item,
    wanted: &mut check::Wanted,
    notes: &mut Notes,
) {
    let mut resources = Fields::open(item, notes);
    for key in ["limits", "reservations"] {
        let Some(mut part) = resources.fields(key, notes) else {
            continue;
        };
        let (cpu, memory) = (
            cores(&mut part, "cpus", notes),
            bytes(&mut part, "memory", notes),
        );
        match key {
            "limits" => {
                wanted.cpu_limit = cpu.or(wanted.cpu_limit.take());
                wanted.memory_limit = memory.or(wanted.memory_limit.take());
                if let Some((pids, item)) = part.number::<i64>("pids", notes) {
                    set_pids(draft, pids, &item, notes);
                }
            }
            _ => {
                wanted.cpu_request = cpu;
                wanted.memory_request = memory.or(wanted.memory_request.take());
            }
        }
        part.close(
            &[
                ("devices", Fate::Lost("Twill gives out no devices; keep to machines that have them: Requires(labels={…})")),
                ("generic_resources", Fate::Lost("keep to machines that have them: Requires(labels={…})")),
            ],
            notes,
        );
    }
    resources.close(&[], notes);
}

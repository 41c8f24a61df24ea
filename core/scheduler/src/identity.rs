//! Who may speak for a machine: one agent, of one boot, that says what can be true.
//!
//! A machine is known by its name. Its boot id tells a restart, after which nothing of before runs; the mark of the
//! agent's state folder tells another agent, which knows nothing of what the one before it has started. Two that go by
//! one name at the same time would end each other's tasks, so the second is refused while the first is heard.
//!
//! What an agent says when it registers is all that it holds, so a registration that was long on its way, or that
//! arrives twice, would deny the tasks that were begun since. How long the boot has lasted tells which one is newer.

use tw_model::{
    Bytes, Capacity, Code, Cores, FORMER_BOOTS_KEPT, MachineIdentity, MachineRecord, MachineState,
    Millis,
};

use crate::step::Refusal;

/// A machine that was heard of so lately is there.
const IN_USE_WITHIN: Millis = Millis::seconds(3);

/// More than any machine has.
const CPU_MAX: Cores = Cores(100_000 * 1000);
const MEMORY_MAX: Bytes = Bytes(1 << 50);
const DISK_MAX: Bytes = Bytes(1 << 60);

/// The longest text that a machine may say of itself, in bytes, and the most labels.
const FACT_BYTES_MAX: usize = 4096;
const LABELS_MAX: usize = 256;

/// How an agent that registers stands to what is known of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The same boot and the same agent, or a new machine.
    Same,
    /// The machine has restarted; nothing of before runs.
    Rebooted,
    /// The same boot, another state folder: what was started before may run, and this agent does not know of it.
    OtherAgent,
}

/// Compares who registers with who is known, and refuses who cannot be both.
pub(crate) fn compare(
    known: Option<&MachineRecord>,
    said: &MachineRecord,
    heard_ago: Option<Millis>,
) -> Result<Standing, Refusal> {
    plausible(said)?;
    let Some(known) = known else {
        return Ok(Standing::Same);
    };
    let id = &said.id;
    if known.identity.former_boots.contains(&said.boot_id) {
        return Err(Refusal::new(
            Code::AgentIdentity,
            format!(
                "machine {id} has restarted since the boot {} that this agent names",
                said.boot_id
            ),
            "two machines go by this name: give one of them another --name",
        ));
    }
    let (last, this) = (known.identity.uptime, said.identity.uptime);
    if known.boot_id == said.boot_id && this != Millis(0) && this <= last {
        return Err(Refusal::new(
            Code::AgentIdentity,
            format!(
                "machine {id} registered when it had been up for {} ms, and this was said at {} ms",
                last.0, this.0
            ),
            "a message that comes late is of no use; a machine that was set back to a snapshot has to restart",
        ));
    }
    let (ours, theirs) = (&known.identity.agent, &said.identity.agent);
    let standing = match known.boot_id == said.boot_id {
        false => Standing::Rebooted,
        true if ours == theirs || ours.is_empty() || theirs.is_empty() => Standing::Same,
        true => Standing::OtherAgent,
    };
    let there = known.state == MachineState::Up && heard_ago.is_some_and(|ago| ago < IN_USE_WITHIN);
    if standing != Standing::Same && there {
        let what = match standing {
            Standing::Rebooted => "another boot",
            _ => "another state folder",
        };
        return Err(Refusal::new(
            Code::AgentIdentity,
            format!("the agent of machine {id} runs, and this one is of {what}"),
            "end one of the two, or give it another --name; after a restart this passes within seconds",
        ));
    }
    Ok(standing)
}

/// What is known of a machine's identity once an agent has registered.
pub(crate) fn follow(
    known: &MachineRecord,
    said: &MachineRecord,
    standing: Standing,
) -> Box<MachineIdentity> {
    let mut identity = known.identity.clone();
    let next = known.epoch + 1;
    match standing {
        Standing::Same => {}
        Standing::Rebooted => {
            identity.former_boots.push(known.boot_id.clone());
            let surplus = identity
                .former_boots
                .len()
                .saturating_sub(FORMER_BOOTS_KEPT);
            identity.former_boots.drain(..surplus);
            identity.ended_below = next;
            identity.agent_since = next;
        }
        Standing::OtherAgent => identity.agent_since = next,
    }
    identity.uptime = said.identity.uptime;
    if !said.identity.agent.is_empty() {
        identity.agent.clone_from(&said.identity.agent);
    }
    identity
}

/// Refuses what no machine can say of itself.
fn plausible(said: &MachineRecord) -> Result<(), Refusal> {
    let id = &said.id;
    let nonsense = |found: String| {
        let hint = "look at the flags of its agent, and at the machine";
        Err(Refusal::new(
            Code::AgentNonsense,
            format!("machine {id} says that {found}"),
            hint,
        ))
    };
    let Capacity {
        cpu,
        memory,
        disk,
        port_first,
        port_last,
        ..
    } = said.capacity;
    if said.boot_id.is_empty() || said.boot_id.len() > 128 {
        return nonsense(format!("its boot is '{}'", short(&said.boot_id)));
    }
    if cpu == Cores(0) || cpu > CPU_MAX {
        return nonsense(format!("it has {cpu} cores"));
    }
    if memory == Bytes(0) || memory > MEMORY_MAX {
        return nonsense(format!("it has {memory} of memory"));
    }
    if disk > DISK_MAX {
        return nonsense(format!("it has {disk} of disk"));
    }
    if port_first == 0 || port_first > port_last {
        return nonsense(format!("its ports are {port_first} to {port_last}"));
    }
    let facts = &said.facts;
    let texts = [
        &facts.address,
        &facts.os,
        &facts.kernel,
        &facts.rack,
        &facts.cluster,
        &facts.datacenter,
        &facts.region,
        &facts.profile,
    ];
    let labels = facts.labels.iter().flat_map(|(key, value)| [key, value]);
    let mut all = texts.into_iter().chain(labels).chain(&facts.enforces);
    if let Some(text) = all.find(|text| text.len() > FACT_BYTES_MAX || text.contains('\0')) {
        return nonsense(format!("something of it is '{}'", short(text)));
    }
    if facts.labels.len() > LABELS_MAX {
        return nonsense(format!("it has {} labels", facts.labels.len()));
    }
    Ok(())
}

/// The beginning of a text that may be long.
fn short(text: &str) -> String {
    text.chars().take(40).filter(|c| !c.is_control()).collect()
}

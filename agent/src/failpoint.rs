//! Named places on the way of a start and a stop, at which a test may hold a process to kill what it likes.
//!
//! A debug build looks at `TW_FAILPOINT` (a name of [`ALL`]) and `TW_FAILPOINT_FOLDER`: the process that gets
//! to that place writes its pid into `FOLDER/NAME` and goes on once `FOLDER/NAME.go` is there. A release
//! build has none of this.

/// Every place, in the order in which a task's life passes them.
pub const ALL: [&str; 29] = [
    "agent.assigned",
    "agent.starting_reported",
    "agent.folder_prepared",
    "agent.assignment_written",
    "agent.helper_spawned",
    "helper.entered",
    "helper.locked",
    "helper.listening",
    "helper.leaf_created",
    "helper.limits_set",
    "helper.command_runs",
    "helper.start_recorded",
    "helper.joined",
    "agent.helper_connected",
    "agent.running_reported",
    "agent.stop_wanted",
    "agent.stop_sent",
    "helper.stop_taken",
    "helper.signal_sent",
    "helper.kill_sent",
    "helper.end_seen",
    "helper.log_synced",
    "helper.end_recorded",
    "helper.end_told",
    "helper.leaf_removed",
    "agent.end_heard",
    "agent.end_reported",
    "agent.scratch_removed",
    "agent.folder_removed",
];

/// Says that the calling process is at the place `name`.
#[cfg(debug_assertions)]
pub fn reach(name: &str) {
    debug_assert!(ALL.contains(&name), "{name} is not a failpoint");
    if let Some(folder) = std::env::var_os("TW_FAILPOINT_FOLDER")
        && std::env::var_os("TW_FAILPOINT").is_some_and(|wanted| wanted == name)
    {
        hold(std::path::Path::new(&folder), name);
    }
}

/// Says that the calling process is at the place `name`.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_name: &str) {}

#[cfg(debug_assertions)]
fn hold(folder: &std::path::Path, name: &str) {
    const HELD_MAX: std::time::Duration = std::time::Duration::from_secs(30);
    let began = std::time::Instant::now();
    // A test that cannot see it fails by itself.
    let _told = std::fs::write(folder.join(name), std::process::id().to_string());
    let go = folder.join(format!("{name}.go"));
    while !go.exists() && began.elapsed() < HELD_MAX {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

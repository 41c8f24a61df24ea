//! What a task keeps beyond its own life.

use crate::*;

spec! {
    /// A folder that outlives the task: the next task of the same index on that machine finds it as it was left.
    pub struct Volume {
        /// Its name within the job.
        /// Example: `name="data"`
        name: Name => restart;
        /// Where the task sees it.
        /// Example: `path="/var/lib/app"`
        path: AbsolutePath => restart;
        /// The most that it may hold.
        /// Example: `size=10 * GiB`
        size as "size_bytes": Bytes = Bytes::gib(1) => in_place;
    }
    check check_volume;
}

impl Keyed for Volume {
    fn key(&self) -> String {
        self.name.to_string()
    }
}

/// Folders that belong to the sandbox itself.
const KEPT: [&str; 7] = [
    "/dev",
    "/proc",
    "/run/twill",
    "/packages",
    "/runtimes",
    "/secrets",
    "/sys",
];

fn check_volume(volume: &Volume, at: &FieldPath, decoder: &mut Decoder) -> Option<()> {
    if volume.size < Bytes::mib(1) {
        return decoder.bad_value(
            &at.field("size_bytes"),
            format!("{} is too little; 1 MiB is the least", volume.size),
            Some("sizes are in bytes: write 10 * GiB".to_owned()),
        );
    }
    let path = &volume.path.0;
    let kept = KEPT
        .iter()
        .find(|kept| path == *kept || path.starts_with(&format!("{kept}/")));
    match kept {
        _ if path == "/" => decoder.bad_value(
            &at.field("path"),
            "a volume cannot be the root".to_owned(),
            Some("for example \"/data\"".to_owned()),
        ),
        Some(kept) => decoder.bad_value(
            &at.field("path"),
            format!("{kept} belongs to the sandbox"),
            Some("for example \"/data\"".to_owned()),
        ),
        None => Some(()),
    }
}

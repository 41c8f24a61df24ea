//! Which fields of the schema the cluster does not act on yet.
//!
//! A job that sets one of them is refused where it would run, never run without it. Whoever makes a field work
//! takes it off this list.

use serde_json::Value;

use crate::{Digest, Image, JobSpec};

/// The JSON paths of these fields. A path stands for everything below it.
pub const FIELDS_WITHOUT_SUPPORT: &[&str] = &[];

/// The fields that this job sets and nothing acts on yet, in the schema's order.
pub fn without_support(job: &JobSpec) -> Vec<&'static str> {
    let plain = serde_json::json!({"name": job.name, "command": job.command});
    let (Ok(plain), Ok(set)) = (
        serde_json::from_value::<JobSpec>(plain).and_then(serde_json::to_value),
        serde_json::to_value(job),
    ) else {
        return Vec::new();
    };
    let mut found: Vec<&str> = FIELDS_WITHOUT_SUPPORT
        .iter()
        .copied()
        .filter(|path| at(&plain, path) != at(&set, path))
        .collect();
    let is_fetched = match &job.image {
        None | Some(Image::Folder(_)) => true,
        Some(Image::Archive(archive)) => archive.digest != Digest::default(),
        Some(Image::Oci(_)) => false,
    };
    if !is_fetched {
        found.push("image");
    }
    found
}

fn at<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.')
        .try_fold(value, |value, name| value.get(name))
}

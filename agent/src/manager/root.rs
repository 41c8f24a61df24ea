//! What a task sees as its root: the machine's programs or an image, and platform runtimes beside it.

use std::path::{Path, PathBuf};

use tw_model::{Code, Image, JobSpec, Runtime};

use super::launch::Refusal;
use super::{Agent, btrfs};
use crate::sandbox::{Bind, DEFAULT_PATH, base, image};

/// Where runtimes are in a task.
const RUNTIMES: &str = "/runtimes";

/// The root of a task.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) base: PathBuf,
    pub(super) binds: Vec<Bind>,
    pub(super) is_writable: bool,
    /// Whether each task has a snapshot of it in place of a layer over it.
    pub(super) is_copied: bool,
    /// The search path of its command.
    pub(super) path: String,
}

/// Finds what the spec asks for on this machine.
pub(super) fn of(agent: &Agent, spec: &JobSpec) -> Result<Root, Refusal> {
    let mut root = match &spec.image {
        None => Root {
            base: agent.base.clone(),
            binds: base::host_binds(),
            is_writable: false,
            is_copied: false,
            path: DEFAULT_PATH.to_owned(),
        },
        Some(Image::Folder(folder)) => {
            let base = PathBuf::from(&folder.path.0);
            image::check(&base).map_err(|cause| refuse(crate::error::chain(&cause)))?;
            of_image(base)
        }
        Some(Image::Archive(archive)) => {
            let base = agent.packages.path(&archive.digest);
            Root {
                is_copied: btrfs::is_subvolume(&base),
                ..of_image(base)
            }
        }
        Some(Image::Oci(image)) => {
            return Err(refuse(format!(
                "this agent does not fetch images such as {}",
                image.reference
            )));
        }
    };
    for runtime in &spec.runtimes {
        let target = format!("{RUNTIMES}/{}", runtime.name);
        root.path = format!("{target}/bin:{}", root.path);
        root.binds.push(Bind {
            source: find_runtime(&agent.config.runtimes, runtime)?,
            target: target.into(),
            is_writable: false,
            is_optional: false,
            is_of_host: false,
        });
    }
    Ok(root)
}

fn of_image(base: PathBuf) -> Root {
    Root {
        base,
        binds: image::live_binds(),
        is_writable: true,
        is_copied: false,
        path: DEFAULT_PATH.to_owned(),
    }
}

/// The folder of a runtime, `FOLDER/NAME/VERSION`.
fn find_runtime(folder: &Path, runtime: &Runtime) -> Result<PathBuf, Refusal> {
    let all = folder.join(runtime.name.as_str());
    let found = all.join(&runtime.version);
    match image::check(&found) {
        Ok(()) => Ok(found),
        Err(image::ImageError::Missing { .. }) => Err(refuse(format!(
            "this machine has no {} {} in {}; it has {}",
            runtime.name,
            runtime.version,
            folder.display(),
            versions(&all)
        ))),
        Err(cause) => Err(refuse(crate::error::chain(&cause))),
    }
}

fn versions(all: &Path) -> String {
    let entries = std::fs::read_dir(all).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    match names.is_empty() {
        true => "no version of it".to_owned(),
        false => names.join(", "),
    }
}

fn refuse(message: String) -> Refusal {
    Refusal::new(Code::TaskStartFailed, message)
}

//! What a service of a compose file keeps, and which files it is given.

use tw_model::{Bytes, Name, Package, RepoPath, Volume};

use super::{Project, build};
use crate::EntryKind;
use crate::check;
use crate::draft::{Draft, Moved, nearest_name};
use crate::fields::{Fate, Fates, Fields, Item};
use crate::note::Notes;
use crate::settle::secret_path;

const VOLUME: Fates = &[
    (
        "external",
        Fate::Lost("a volume of a job begins empty; copy what it should hold"),
    ),
    ("name", Fate::Ignored("a volume is named within its job")),
    (
        "driver",
        Fate::IgnoredIf(&["local"], "a volume is a folder on the task's machine"),
    ),
    (
        "driver_opts",
        Fate::Lost("a volume is a folder on the task's machine"),
    ),
    ("labels", Fate::Ignored("only tools of Docker read them")),
    ("x-*", Fate::Ignored("an extension")),
];

const SECRET: Fates = &[
    (
        "file",
        Fate::Ignored("the value stays out of the spec; the cluster keeps it"),
    ),
    (
        "environment",
        Fate::Ignored("the value stays out of the spec; the cluster keeps it"),
    ),
    (
        "external",
        Fate::Ignored("every secret is kept by the cluster"),
    ),
    ("name", Fate::Ignored("a secret is called as in this file")),
    ("labels", Fate::Ignored("only tools of Docker read them")),
    (
        "driver*",
        Fate::Lost("the cluster keeps the secrets itself"),
    ),
    ("template_driver", Fate::Lost("a secret is a file as it is")),
    ("x-*", Fate::Ignored("an extension")),
];

/// Notes what the top-level volumes and secrets say beyond their names.
pub(super) fn note_top_level(project: &Project<'_>, notes: &mut Notes) {
    for (_, item) in &project.volumes {
        Fields::open(item.clone(), notes).close(VOLUME, notes);
    }
    for (_, item) in &project.secrets {
        Fields::open(item.clone(), notes).close(SECRET, notes);
    }
    for (name, item) in &project.configs {
        notes.lost(item, "", format!("the file is not written: put '{name}' into a folder of the repository, and give that to the job: packages=[Package.folder(…)]"));
    }
}

/// Reads the volumes, secrets, configs and temporary folders of a service.
pub(super) fn read(
    draft: &mut Draft,
    fields: &mut Fields,
    project: &Project<'_>,
    notes: &mut Notes,
) {
    read_build(draft, fields, project, notes);
    for item in fields.list("volumes", notes) {
        match item.is_map() {
            true => long(draft, &item, project, notes),
            false => short(draft, &item, project, notes),
        }
    }
    if let Some(tmpfs) = fields.take("tmpfs") {
        let items = if tmpfs.is_list() {
            tmpfs.items()
        } else {
            vec![tmpfs]
        };
        for item in items {
            let path = item.text().split(':').next().unwrap_or_default().to_owned();
            temporary(draft, &path, &item, notes);
        }
    }
    for item in fields.list("secrets", notes) {
        secret(draft, &item, notes);
    }
    for item in fields.list("configs", notes) {
        let target = item.get("target").map(|item| item.text().to_owned());
        let place = target
            .map(|path| format!(" and tell the program where it is instead of {path}"))
            .unwrap_or_default();
        notes.lost(&item, "packages", format!("put the file into a folder of the repository, give it with packages=[Package.folder(…)]{place}"));
    }
}

/// The folder from which an image is built holds the program: it can be given to the task as it is.
fn read_build(draft: &mut Draft, fields: &mut Fields, project: &Project<'_>, notes: &mut Notes) {
    let Some(build) = fields.take("build") else {
        return;
    };
    let folder = build::context(&build);
    let message = format!(
        "built from {folder}: push what it gives and name it, image=OciImage(reference=…), or run the folder's program on the machine's own libraries"
    );
    notes.decide(&build, "image", message);
    add_folder(draft, &folder, project);
}

/// Gives the task a folder of the repository, if it is there; says under which path the task sees it.
fn add_folder(draft: &mut Draft, folder: &str, project: &Project<'_>) -> Option<String> {
    let path = repo_path(folder)?;
    if project.surroundings.kind(&path) != Some(EntryKind::Folder) {
        return None;
    }
    let package = Package {
        path: RepoPath(path),
        digest: Default::default(),
    };
    let name = package.name().to_owned();
    let known = draft
        .spec
        .packages
        .iter()
        .find(|known| known.name() == name);
    match known {
        Some(known) if known.path != package.path => return None,
        Some(_) => {}
        None => draft.spec.packages.push(package),
    }
    Some(format!("/packages/{name}"))
}

/// A path below the folder of the file, without `.`; none for what lies outside, or is the folder itself.
pub(super) fn repo_path(path: &str) -> Option<String> {
    if path.starts_with(['/', '~', '$']) {
        return None;
    }
    let parts: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    (!parts.is_empty() && !parts.contains(&"..")).then(|| parts.join("/"))
}

/// `[SOURCE:]TARGET[:OPTIONS]`
fn short(draft: &mut Draft, item: &Item, project: &Project<'_>, notes: &mut Notes) {
    let parts: Vec<&str> = item.text().split(':').collect();
    match parts[..] {
        [target] => temporary(draft, target, item, notes),
        [source, target] | [source, target, _] => {
            let is_read_only = parts
                .get(2)
                .is_some_and(|options| options.split(',').any(|option| option == "ro"));
            mount(draft, source, target, is_read_only, item, project, notes);
        }
        _ => notes.lost(item, "volumes", format!("'{}' is no volume", item.text())),
    }
}

fn long(draft: &mut Draft, item: &Item, project: &Project<'_>, notes: &mut Notes) {
    let mut volume = Fields::open(item.clone(), notes);
    let mut text = |key: &str| volume.scalar(key, notes).map(|item| item.text().to_owned());
    let (kind, source, target) = (
        text("type"),
        text("source"),
        text("target").unwrap_or_default(),
    );
    let is_read_only = volume
        .take("read_only")
        .is_some_and(|item| item.truth() == Some(true));
    let size = volume.item.at(&["tmpfs", "size"]);
    volume.take("tmpfs");
    match (kind.as_deref(), source) {
        (Some("tmpfs"), _) | (_, None) => {
            if let Some(size) = size {
                notes.lost(
                    &size,
                    "volumes",
                    "the size of /tmp is the same for every task",
                );
            }
            temporary(draft, &target, item, notes);
        }
        (Some("volume" | "bind") | None, Some(source)) => {
            mount(draft, &source, &target, is_read_only, item, project, notes)
        }
        (Some(kind), Some(_)) => notes.lost(
            item,
            "volumes",
            format!("a mount of type {kind} has no counterpart"),
        ),
    }
    volume.close(
        &[
            (
                "bind",
                Fate::Ignored("a folder of the repository is mounted as it is"),
            ),
            ("volume", Fate::Ignored("a volume begins empty")),
            (
                "consistency",
                Fate::Ignored("Docker itself ignores it on Linux"),
            ),
        ],
        notes,
    );
}

/// A folder that the program writes to and nobody keeps.
fn temporary(draft: &mut Draft, path: &str, item: &Item, notes: &mut Notes) {
    match path {
        "/tmp" => notes.ignored(item, "every task has a /tmp of its own"),
        _ => add_volume(draft, path, path, item, notes),
    }
}

fn mount(
    draft: &mut Draft,
    source: &str,
    target: &str,
    is_read_only: bool,
    item: &Item,
    project: &Project<'_>,
    notes: &mut Notes,
) {
    let is_path = source.starts_with(['.', '/', '~']) || source.contains('/');
    if !is_path {
        let is_declared = project.volumes.iter().any(|(name, _)| name == source);
        if !is_declared {
            notes.changed(
                item,
                "volumes",
                format!("the file declares no volume '{source}'"),
            );
        }
        if is_read_only {
            notes.changed(
                item,
                "volumes",
                "read-only there; a task may write to its volumes",
            );
        }
        return add_volume(draft, source, target, item, notes);
    }
    if target == "/var/run/docker.sock" || source == "/var/run/docker.sock" {
        notes.lost(
            item,
            "volumes",
            "there is no Docker to talk to; Twill's own state is at its API",
        );
        return;
    }
    let Some(path) = repo_path(source) else {
        let message = match source {
            "." | "./" => "the folder of this file: a package is a folder below it".to_owned(),
            _ => format!(
                "{source} is no folder of the repository: a task sees none of its machine's; put the files into a package, or into its image"
            ),
        };
        notes.lost(item, "packages", message);
        return;
    };
    match project.surroundings.kind(&path) {
        Some(EntryKind::Folder) => place(draft, &path, target, "", is_read_only, item, project, notes),
        Some(EntryKind::File) => match path.rsplit_once('/') {
            Some((folder, file)) => place(draft, folder, target, file, is_read_only, item, project, notes),
            None => notes.lost(item, "packages", format!("{path}: a package is a folder; put the file into one, and give it with packages=[Package.folder(…)]")),
        },
        None => {
            // What has an ending is taken for a file, and its folder for the package.
            let (folder, file) = match path.rsplit_once('/') {
                Some((folder, file)) if file.contains('.') => (folder, format!("/{file}")),
                _ => (path.as_str(), String::new()),
            };
            let name = folder.rsplit('/').next().unwrap_or(folder);
            let message = format!(
                "{source} is not at hand: once it is beside this spec, packages=[Package.folder(\"{folder}\")] gives it to the task, read-only, at /packages/{name}{file} instead of {target}"
            );
            notes.decide(item, "packages", message);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "a mount is all of that")]
fn place(
    draft: &mut Draft,
    folder: &str,
    target: &str,
    file: &str,
    is_read_only: bool,
    item: &Item,
    project: &Project<'_>,
    notes: &mut Notes,
) {
    let Some(seen) = add_folder(draft, folder, project) else {
        notes.lost(
            item,
            "packages",
            format!("another package is called like {folder}: rename one of the folders"),
        );
        return;
    };
    let to = if file.is_empty() {
        seen
    } else {
        format!("{seen}/{file}")
    };
    let writable = if is_read_only { "" } else { ", read-only" };
    notes.changed(
        item,
        "packages",
        format!("the task finds it at {to}{writable}"),
    );
    draft.moved.push(Moved {
        from: target.trim_end_matches('/').to_owned(),
        to,
        item: item.clone(),
    });
}

/// A folder that outlives the task.
fn add_volume(draft: &mut Draft, name: &str, target: &str, item: &Item, notes: &mut Notes) {
    let overlaps = |path: &str| {
        draft.spec.volumes.iter().any(|known| {
            let other = &known.path.0;
            path == other
                || path.starts_with(&format!("{other}/"))
                || other.starts_with(&format!("{path}/"))
        })
    };
    let Some(path) = check::volume_path(target) else {
        notes.lost(
            item,
            "volumes",
            format!("'{target}' cannot be a volume: it is no folder, or one that every task has of its own"),
        );
        return;
    };
    if overlaps(&path.0) {
        notes.lost(
            item,
            "volumes",
            format!("{target} lies within another volume of the job"),
        );
        return;
    }
    let mut near = nearest_name(name);
    if draft
        .spec
        .volumes
        .iter()
        .any(|known| known.name.as_str() == near)
    {
        near = format!("{near}-{}", draft.spec.volumes.len() + 1);
    }
    let Ok(name) = near.parse::<Name>() else {
        return;
    };
    let size = Bytes::gib(1);
    notes.changed(
        item,
        "volumes",
        format!("holds at most {size} unless it is given a size"),
    );
    draft.spec.volumes.push(Volume { name, path, size });
}

fn secret(draft: &mut Draft, item: &Item, notes: &mut Notes) {
    let mut fields = Fields::open(
        match item.is_map() {
            true => item.clone(),
            false => Item {
                node: crate::document::Node::new(item.place, crate::document::Value::Null).into(),
                ..item.clone()
            },
        },
        notes,
    );
    let source = match item.is_map() {
        true => fields
            .scalar("source", notes)
            .map(|item| item.text().to_owned())
            .unwrap_or_default(),
        false => item.text().to_owned(),
    };
    let Ok(name) = nearest_name(&source).parse::<Name>() else {
        return;
    };
    let target = match fields.scalar("target", notes) {
        Some(target) if target.text().starts_with('/') => target.text().to_owned(),
        Some(target) => format!("/run/secrets/{}", target.text()),
        None => format!("/run/secrets/{source}"),
    };
    fields.close(
        &[
            (
                "uid",
                Fate::Ignored("only the task's user reads its secrets"),
            ),
            (
                "gid",
                Fate::Ignored("only the task's user reads its secrets"),
            ),
            (
                "mode",
                Fate::Ignored("only the task's user reads its secrets"),
            ),
        ],
        notes,
    );
    draft.moved.push(Moved {
        from: target,
        to: secret_path(&name),
        item: item.clone(),
    });
    draft.add_secret(name);
}

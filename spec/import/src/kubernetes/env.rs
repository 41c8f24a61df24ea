//! Variables of a container, and the objects that their values come from.

use tw_model::Name;

use super::Cluster;
use super::object::{self, Object};
use crate::draft::{Draft, nearest_name};
use crate::fields::{Fate, Fields, Item};
use crate::note::Notes;
use crate::settle::{self, secret_path};

/// Reads `envFrom` and `env`.
pub(crate) fn read(
    draft: &mut Draft,
    job: &Draft,
    fields: &mut Fields,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    for item in fields.list("envFrom", notes) {
        read_all(draft, &item, cluster, notes);
    }
    for item in fields.list("env", notes) {
        let mut entry = Fields::open(item.clone(), notes);
        let key = entry
            .scalar("name", notes)
            .map(|item| item.text().to_owned())
            .unwrap_or_default();
        if let Some(value) = entry.scalar("value", notes) {
            let text = expanded(&value, &draft.env, notes);
            draft.set_env(&key, text, value);
        } else if let Some(source) = entry.fields("valueFrom", notes) {
            read_source(draft, job, &key, source, cluster, notes);
        } else {
            draft.set_env(&key, String::new(), item);
        }
        entry.close(&[], notes);
    }
}

/// All keys of a config map or a secret as variables.
fn read_all(draft: &mut Draft, item: &Item, cluster: &Cluster, notes: &mut Notes) {
    let mut source = Fields::open(item.clone(), notes);
    let prefix = source
        .scalar("prefix", notes)
        .map(|item| item.text().to_owned())
        .unwrap_or_default();
    for (key, kind) in [("configMapRef", "ConfigMap"), ("secretRef", "Secret")] {
        let Some(mut reference) = source.fields(key, notes) else {
            continue;
        };
        let name = reference.scalar("name", notes);
        reference.close(
            &[("optional", Fate::Ignored("the values are written out"))],
            notes,
        );
        let Some(name) = name else { continue };
        match (cluster.find(kind, name.text()), kind) {
            (Some(object), "ConfigMap") => {
                for (key, value) in object::texts(&object.item.get("data")) {
                    draft.set_env(&format!("{prefix}{key}"), value, name.clone());
                }
            }
            (Some(object), _) => {
                for key in secret_keys(object) {
                    secret_variable(
                        draft,
                        &format!("{prefix}{key}"),
                        name.text(),
                        &key,
                        &name,
                        notes,
                    );
                }
            }
            (None, _) => {
                let message = format!(
                    "the variables of the {kind} '{}', which is not part of this import",
                    name.text()
                );
                notes.decide(&name, "env", message);
            }
        }
    }
    source.close(&[], notes);
}

fn read_source(
    draft: &mut Draft,
    job: &Draft,
    key: &str,
    mut source: Fields,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    if let Some((name, of)) = reference(&mut source, "configMapKeyRef", notes) {
        let value = cluster
            .find("ConfigMap", name.text())
            .and_then(|object| object.item.at(&["data", of.text()]));
        match value {
            Some(value) => draft.set_env(key, value.text().to_owned(), of),
            None => notes.decide(&of, "env", format!("the value of {key}: '{}' of the ConfigMap '{}', which is not part of this import", of.text(), name.text())),
        }
    }
    if let Some((name, of)) = reference(&mut source, "secretKeyRef", notes) {
        secret_variable(draft, key, name.text(), of.text(), &of, notes);
    }
    if let Some(mut field) = source.fields("fieldRef", notes) {
        if let Some(path) = field.scalar("fieldPath", notes) {
            match own_field(path.text(), job) {
                Some(value) => {
                    notes.changed(&path, "env", format!("{} is '{value}'", path.text()));
                    draft.set_env(key, value, path);
                }
                None => notes.decide(
                    &path,
                    "env",
                    format!(
                        "the value of {key}: a task does not know its {}",
                        path.text()
                    ),
                ),
            }
        }
        field.close(
            &[("apiVersion", Fate::Ignored("it says what the path is of"))],
            notes,
        );
    }
    if let Some(field) = source.take("resourceFieldRef") {
        notes.decide(
            &field,
            "env",
            format!("the value of {key}: write the number, as in resources"),
        );
    }
    if let Some(file) = source.take("fileKeyRef") {
        notes.decide(
            &file,
            "env",
            format!("the value of {key}: a variable is not read from a file"),
        );
    }
    source.close(&[], notes);
}

/// The name and key of a reference.
fn reference(source: &mut Fields, kind: &str, notes: &mut Notes) -> Option<(Item, Item)> {
    let mut reference = source.fields(kind, notes)?;
    let item = reference.item.clone();
    let name = reference.scalar("name", notes);
    let key = reference.scalar("key", notes);
    reference.close(
        &[("optional", Fate::Ignored("the value is written out"))],
        notes,
    );
    let found = name.zip(key);
    if found.is_none() {
        notes.lost(&item, "env", "it names no object, or no key of it");
    }
    found
}

/// A variable whose value is a secret: the task reads it as a file.
fn secret_variable(
    draft: &mut Draft,
    key: &str,
    secret: &str,
    of: &str,
    item: &Item,
    notes: &mut Notes,
) {
    let Ok(name) = nearest_name(&format!("{secret}-{of}")).parse::<Name>() else {
        return;
    };
    let path = secret_path(&name);
    match settle::file_suffix(draft) {
        Some(suffix) => {
            notes.changed(
                item,
                "secrets",
                format!("the image reads the secret '{name}' by {key}{suffix}"),
            );
            draft.set_env(&format!("{key}{suffix}"), path, item.clone());
        }
        None => notes.decide(
            item,
            "secrets",
            format!("a secret is a file and no variable: have the program read {key} from {path}"),
        ),
    }
    draft.add_secret(name);
}

/// What a task knows of itself.
fn own_field(path: &str, job: &Draft) -> Option<String> {
    let name = job.spec.name.as_str();
    match path {
        "metadata.name" => Some(format!("{name}-{{task:index}}")),
        "metadata.namespace" => Some(job.spec.namespace.to_string()),
        "metadata.labels['apps.kubernetes.io/pod-index']"
        | "metadata.annotations['batch.kubernetes.io/job-completion-index']" => {
            Some("{task:index}".to_owned())
        }
        path => {
            let label = path.strip_prefix("metadata.labels['")?.strip_suffix("']")?;
            let own = [
                "app",
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
            ]
            .contains(&label)
            .then(|| name.to_owned());
            job.spec
                .labels
                .get(&tw_model::EnvName(label.to_owned()))
                .cloned()
                .or(own)
        }
    }
}

/// A text with `$(NAME)` replaced by the variables that stand before it.
pub(crate) fn expanded(item: &Item, env: &[(String, String, Item)], notes: &mut Notes) -> String {
    let mut out = String::new();
    let mut rest = item.text();
    while let Some((before, after)) = rest.split_once("$(") {
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("$(");
            rest = after;
            continue;
        }
        out.push_str(before);
        let name = after.split(')').next().filter(|name| {
            !name.is_empty()
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
                && after.len() > name.len()
        });
        let Some(name) = name else {
            out.push_str("$(");
            rest = after;
            continue;
        };
        match env.iter().find(|(known, _, _)| known == name) {
            Some((_, value, _)) => out.push_str(value),
            None => {
                if env.iter().any(|(known, _, _)| known.starts_with(name)) {
                    notes.decide(
                        item,
                        "command",
                        format!("$({name}) is a secret: have the program read it from its file"),
                    );
                }
                out.push_str(&format!("$({name})"));
            }
        }
        rest = &after[name.len() + 1..];
    }
    out.push_str(rest);
    out
}

/// The keys of a secret; never its values.
pub(crate) fn secret_keys(object: &Object) -> Vec<String> {
    ["data", "stringData"]
        .iter()
        .filter_map(|key| object.item.get(key))
        .flat_map(|item| item.entries())
        .map(|(key, _)| key)
        .collect()
}

/// A secret: its keys are named, its values stay where they are.
pub(crate) fn secret(object: &Object, mut fields: Fields, notes: &mut Notes) {
    object::metadata(fields.take("metadata"), notes);
    for part in ["data", "stringData"] {
        for (key, item) in fields
            .take(part)
            .map(|item| item.entries())
            .unwrap_or_default()
        {
            let name = nearest_name(&format!("{}-{key}", object.name));
            notes.changed(&item, "", format!("the value stays out of the spec: it is the secret '{name}', which the cluster keeps"));
        }
    }
    object::close(
        fields,
        &[
            ("type", Fate::Ignored("a secret is a file")),
            (
                "immutable",
                Fate::Ignored("a secret has the value that it is given"),
            ),
        ],
        notes,
    );
}

/// A config map: its values are where jobs use them.
pub(crate) fn config_map(
    object: &Object,
    mut fields: Fields,
    cluster: &Cluster,
    notes: &mut Notes,
) {
    object::metadata(fields.take("metadata"), notes);
    let used = used_keys(&object.name, cluster);
    for part in ["data", "binaryData"] {
        for (key, item) in fields
            .take(part)
            .map(|item| item.entries())
            .unwrap_or_default()
        {
            match &used {
                Used::All => notes.ignored(&item, "it is a variable of the jobs that use it"),
                Used::Some(keys) if keys.contains(&key) => notes.ignored(&item, "it is a variable of the jobs that use it"),
                Used::Some(_) => notes.lost(&item, "", format!("put the file '{key}' into a folder of the repository, and give that to the job: packages=[Package.folder(…)]")),
            }
        }
    }
    object::close(
        fields,
        &[(
            "immutable",
            Fate::Ignored("a spec changes when it is changed"),
        )],
        notes,
    );
}

enum Used {
    All,
    Some(Vec<String>),
}

/// Which keys of a config map are variables of some job.
fn used_keys(name: &str, cluster: &Cluster) -> Used {
    let mut keys = Vec::new();
    let mut all = false;
    for object in &cluster.objects {
        walk(&object.item, &mut |item| {
            let is_this = |item: &Item| item.get("name").is_some_and(|item| item.text() == name);
            if let Some(reference) = item.get("configMapKeyRef").filter(is_this) {
                keys.extend(reference.get("key").map(|key| key.text().to_owned()));
            }
            all |= item.get("configMapRef").is_some_and(|item| is_this(&item));
        });
    }
    match all {
        true => Used::All,
        false => Used::Some(keys),
    }
}

fn walk(item: &Item, see: &mut impl FnMut(&Item)) {
    see(item);
    item.entries().iter().for_each(|(_, item)| walk(item, see));
    item.items().iter().for_each(|item| walk(item, see));
}

//! Secrets: values that tasks read, in files of their own.
//!
//! They are kept apart from the store, so that no row, plan, event or backup of it has one, and leave this process only
//! towards a machine that has a task which reads them. Nothing tells a value to people.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use tw_api::ErrorBody;
use tw_model::{Code, JobSpec, Name, Secret, Timestamp};

use crate::error::RunError;

/// How the name of a value that is being written begins; no secret has such a name.
const DRAFT: &str = ".draft-";

/// The folder of values: a folder a namespace, a file a secret, for the controller's user alone.
pub(crate) struct Secrets {
    folder: PathBuf,
    /// One change at a time.
    changing: Mutex<()>,
}

/// One secret, but for its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) namespace: Name,
    pub(crate) name: Name,
    pub(crate) set_at: Timestamp,
}

impl Secrets {
    /// Opens the folder, making it if need be.
    pub(crate) fn open(folder: PathBuf) -> Result<Secrets, RunError> {
        make_private(&folder).map_err(RunError::io("creating", &folder))?;
        Ok(Secrets {
            folder,
            changing: Mutex::new(()),
        })
    }

    /// Sets a value, durably.
    pub(crate) fn set(&self, namespace: &Name, name: &Name, value: &[u8]) -> Result<(), ErrorBody> {
        if value.is_empty() || value.len() > Secret::BYTES_MAX {
            let most = tw_model::Bytes(Secret::BYTES_MAX as u64);
            let found = tw_model::Bytes(value.len() as u64);
            return Err(ErrorBody::new(
                Code::RequestInvalid,
                format!("the value of secret '{name}' has {found}; it may have 1 B to {most}"),
            ));
        }
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.write(namespace, name, value)
            .map_err(|cause| unavailable(&format!("secret '{name}' cannot be written"), &cause))
    }

    fn write(&self, namespace: &Name, name: &Name, value: &[u8]) -> io::Result<()> {
        let folder = self.folder.join(namespace.as_str());
        make_private(&folder)?;
        let draft = folder.join(format!("{DRAFT}{name}"));
        if let Err(cause) = fs::remove_file(&draft)
            && cause.kind() != ErrorKind::NotFound
        {
            return Err(cause);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&draft, folder.join(name.as_str()))?;
        File::open(&folder)?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    /// A value; refused with `secret.missing` where there is none.
    pub(crate) fn value(&self, namespace: &Name, name: &Name) -> Result<Vec<u8>, ErrorBody> {
        fs::read(self.path(namespace, name)).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => missing(namespace, name),
            _ => unavailable(&format!("secret '{name}' cannot be read"), &cause),
        })
    }

    /// Removes a value, durably.
    pub(crate) fn remove(&self, namespace: &Name, name: &Name) -> Result<(), ErrorBody> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.path(namespace, name);
        let removed = fs::remove_file(&path)
            .and_then(|()| File::open(self.folder.join(namespace.as_str()))?.sync_all());
        removed.map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => missing(namespace, name),
            _ => unavailable(&format!("secret '{name}' cannot be removed"), &cause),
        })
    }

    /// All secrets, by namespace and name.
    pub(crate) fn list(&self) -> Result<Vec<Kept>, ErrorBody> {
        let list = || -> io::Result<Vec<Kept>> {
            let mut found = Vec::new();
            for folder in fs::read_dir(&self.folder)?.flatten() {
                let Some(namespace) = name_of(&folder) else {
                    continue;
                };
                for file in fs::read_dir(folder.path())?.flatten() {
                    let Some(name) = name_of(&file) else { continue };
                    let since = file
                        .metadata()?
                        .modified()?
                        .duration_since(std::time::UNIX_EPOCH);
                    found.push(Kept {
                        namespace: namespace.clone(),
                        name,
                        set_at: Timestamp(since.map_or(0, |since| since.as_micros() as i64)),
                    });
                }
            }
            found.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
            Ok(found)
        };
        list().map_err(|cause| unavailable("the secrets cannot be listed", &cause))
    }

    /// Refuses specs that name secrets without a value.
    pub(crate) fn check<'a>(
        &self,
        specs: impl Iterator<Item = &'a JobSpec>,
    ) -> Result<(), ErrorBody> {
        let mut lacking: Vec<(String, &Name, &Name)> = Vec::new();
        for spec in specs {
            let without = spec.secrets.iter().filter(|secret| {
                let path = self.path(&spec.namespace, &secret.name);
                fs::symlink_metadata(path).is_err()
            });
            lacking.extend(
                without.map(|secret| (spec.id().to_string(), &spec.namespace, &secret.name)),
            );
        }
        let Some((_, namespace, name)) = lacking.first() else {
            return Ok(());
        };
        let said: Vec<String> = lacking
            .iter()
            .map(|(job, _, name)| format!("job {job} reads secret '{name}'"))
            .collect();
        Err(ErrorBody::new(
            Code::SecretMissing,
            format!(
                "{}, which has no value",
                said.join(", which has no value; ")
            ),
        )
        .with_hint(how_to_set(namespace, name)))
    }

    fn path(&self, namespace: &Name, name: &Name) -> PathBuf {
        self.folder.join(namespace.as_str()).join(name.as_str())
    }
}

fn name_of(entry: &fs::DirEntry) -> Option<Name> {
    entry.file_name().to_str()?.parse().ok()
}

fn make_private(folder: &std::path::Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

pub(crate) fn missing(namespace: &Name, name: &Name) -> ErrorBody {
    ErrorBody::new(
        Code::SecretMissing,
        format!("secret '{name}' of namespace {namespace} has no value"),
    )
    .with_hint(how_to_set(namespace, name))
}

fn how_to_set(namespace: &Name, name: &Name) -> String {
    format!("set it: tw secret set --namespace {namespace} {name} < FILE")
}

fn unavailable(what: &str, cause: &io::Error) -> ErrorBody {
    ErrorBody::new(Code::StoreUnavailable, format!("{what}: {cause}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn values_are_kept_whole_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secrets");
        let secrets = Secrets::open(path.clone()).unwrap();
        let (default, key) = (name("default"), name("card-key"));
        let refused = secrets.value(&default, &key).unwrap_err();
        assert_eq!(refused.code, Code::SecretMissing);
        assert!(
            refused
                .hint
                .unwrap()
                .contains("tw secret set --namespace default card-key")
        );
        // What a crash in the middle of a write leaves is no secret, and in nobody's way.
        fs::create_dir(path.join("default")).unwrap();
        fs::write(path.join("default/.draft-card-key"), "half").unwrap();
        assert_eq!(secrets.list().unwrap(), []);
        for value in [&b"one"[..], b"\0two\n"] {
            secrets.set(&default, &key, value).unwrap();
            assert_eq!(secrets.value(&default, &key).unwrap(), value);
        }
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(path.join("default/card-key")), 0o600);
        assert_eq!(mode(path.clone()), 0o700);
        let listed = Secrets::open(path).unwrap().list().unwrap();
        assert_eq!(
            (&listed[0].namespace, &listed[0].name, listed.len()),
            (&default, &key, 1)
        );
        secrets.remove(&default, &key).unwrap();
        let again = secrets.remove(&default, &key).unwrap_err();
        assert_eq!(
            (again.code, secrets.list().unwrap()),
            (Code::SecretMissing, vec![])
        );
    }

    #[test]
    fn values_have_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path().into()).unwrap();
        let set = |value: &[u8]| secrets.set(&name("default"), &name("key"), value);
        assert!(set(&vec![7; Secret::BYTES_MAX]).is_ok());
        for value in [vec![], vec![7; Secret::BYTES_MAX + 1]] {
            assert_eq!(set(&value).unwrap_err().code, Code::RequestInvalid);
        }
    }

    #[test]
    fn jobs_with_secrets_that_have_no_value_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path().into()).unwrap();
        let spec: JobSpec = serde_json::from_value(serde_json::json!({
            "name": "web", "command": ["true"], "secrets": [{"name": "a"}, {"name": "b"}],
        }))
        .unwrap();
        secrets.set(&name("other"), &name("a"), b"1").unwrap();
        let refused = secrets.check([&spec].into_iter()).unwrap_err();
        assert_eq!(
            refused.message,
            "job web reads secret 'a', which has no value; job web reads secret 'b', which has no value"
        );
        for secret in ["a", "b"] {
            secrets.set(&name("default"), &name(secret), b"1").unwrap();
        }
        assert!(secrets.check([&spec].into_iter()).is_ok());
    }
}

//! Packages by the hash of their bytes.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tw_model::{Code, Digest, JobSpec};

use tw_api::ErrorBody;

use crate::error::RunError;

/// How many bytes of a package are read at once.
const CHUNK_BYTES: usize = 256 << 10;

/// The folder of packages. A file appears under its digest only when it is complete and durable.
pub(crate) struct Registry {
    folder: PathBuf,
    bytes_max: u64,
    uploads: AtomicU64,
}

/// A package under way.
pub(crate) struct Upload {
    registry: Arc<Registry>,
    digest: PackageDigest,
    draft: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    size_bytes: u64,
}

/// A digest that is fit for a file name: 64 lower-case hex digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PackageDigest(blake3::Hash);

impl PackageDigest {
    pub(crate) fn parse(text: &str) -> Result<PackageDigest, ErrorBody> {
        let lower = text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match blake3::Hash::from_hex(text) {
            Ok(hash) if lower => Ok(PackageDigest(hash)),
            _ => Err(ErrorBody::new(
                Code::PackageInvalid,
                format!("'{text}' is not a digest: 64 lower-case hex digits of a BLAKE3 hash"),
            )),
        }
    }
}

impl std::fmt::Display for PackageDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0.to_hex())
    }
}

impl Registry {
    /// Opens the folder, making it if need be, and clears away uploads that never ended.
    pub(crate) fn open(folder: PathBuf, bytes_max: u64) -> Result<Registry, RunError> {
        fs::create_dir_all(&folder).map_err(RunError::io("creating", &folder))?;
        let entries = fs::read_dir(&folder).map_err(RunError::io("reading", &folder))?;
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with("upload-") {
                fs::remove_file(entry.path()).map_err(RunError::io("removing", entry.path()))?;
            }
        }
        Ok(Registry {
            folder,
            bytes_max,
            uploads: AtomicU64::new(0),
        })
    }

    /// The size of a package in bytes; none when it is not there.
    pub(crate) fn size_bytes(&self, digest: &PackageDigest) -> Option<u64> {
        fs::metadata(self.path(digest))
            .ok()
            .map(|found| found.len())
    }

    /// Opens a package and tells its size in bytes.
    pub(crate) fn read(&self, digest: &PackageDigest) -> Result<(File, u64), ErrorBody> {
        let opened = File::open(self.path(digest)).and_then(|file| {
            let size_bytes = file.metadata()?.len();
            Ok((file, size_bytes))
        });
        opened.map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => ErrorBody {
                code: Code::RequestNotFound,
                ..missing(&digest.to_string())
            },
            _ => unavailable(&cause),
        })
    }

    /// Notes that someone counts on a package, so that it is not swept away before they apply.
    pub(crate) fn touch(&self, digest: &PackageDigest) {
        let touched = File::options()
            .append(true)
            .open(self.path(digest))
            .and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(cause) = touched {
            tracing::debug!(%cause, %digest, "a package cannot be touched");
        }
    }

    /// Removes packages that no version names and that nobody asked about for a while. Returns how many.
    pub(crate) fn sweep(&self, named: &HashSet<String>, unused_for: Duration) -> io::Result<usize> {
        let mut removed = 0;
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let age = entry.metadata()?.modified()?.elapsed().unwrap_or_default();
            if PackageDigest::parse(&name).is_ok() && !named.contains(&name) && age >= unused_for {
                fs::remove_file(entry.path())?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Begins to take a package.
    pub(crate) fn upload(self: &Arc<Registry>, digest: PackageDigest) -> Result<Upload, ErrorBody> {
        let number = self.uploads.fetch_add(1, Ordering::Relaxed);
        let draft = self.folder.join(format!("upload-{number}"));
        let file = File::create(&draft).map_err(|cause| unavailable(&cause))?;
        Ok(Upload {
            registry: Arc::clone(self),
            digest,
            draft,
            file,
            hasher: blake3::Hasher::new(),
            size_bytes: 0,
        })
    }

    /// Refuses specs that name packages which are not here.
    pub(crate) fn check<'a>(
        &self,
        specs: impl Iterator<Item = &'a JobSpec>,
    ) -> Result<(), ErrorBody> {
        for spec in specs {
            for package in &spec.packages {
                self.check_package(spec, &package.path.0, &package.digest)?;
            }
        }
        Ok(())
    }

    fn check_package(&self, spec: &JobSpec, path: &str, digest: &Digest) -> Result<(), ErrorBody> {
        let known = PackageDigest::parse(&digest.0).map(|digest| self.size_bytes(&digest));
        match known {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                let body = missing(&digest.0);
                let message = format!("job {}, package '{path}': {}", spec.id(), body.message);
                Err(ErrorBody { message, ..body })
            }
            Err(body) => {
                let message = format!("job {}, package '{path}': {}", spec.id(), body.message);
                Err(ErrorBody { message, ..body })
            }
        }
    }

    fn path(&self, digest: &PackageDigest) -> PathBuf {
        self.folder.join(digest.to_string())
    }
}

impl Upload {
    pub(crate) fn write(&mut self, bytes: &Bytes) -> Result<(), ErrorBody> {
        self.size_bytes += bytes.len() as u64;
        if self.size_bytes > self.registry.bytes_max {
            let most = tw_model::Bytes(self.registry.bytes_max);
            return Err(ErrorBody::new(
                Code::PackageInvalid,
                format!("the package is larger than {most}, the most that is taken"),
            )
            .with_hint("leave out of the folder what the task does not need"));
        }
        self.hasher.update(bytes);
        self.file
            .write_all(bytes)
            .map_err(|cause| unavailable(&cause))
    }

    /// Keeps the package, durably, if it is what its digest says. Returns its size in bytes.
    pub(crate) fn finish(self) -> Result<u64, ErrorBody> {
        let found = PackageDigest(self.hasher.finalize());
        if found != self.digest {
            return Err(ErrorBody::new(
                Code::PackageInvalid,
                format!("the bytes have digest {found}, not {}", self.digest),
            )
            .with_hint("the upload may have been cut short; send it again"));
        }
        self.file
            .sync_all()
            .and_then(|()| fs::rename(&self.draft, self.registry.path(&self.digest)))
            .and_then(|()| File::open(&self.registry.folder)?.sync_all())
            .map_err(|cause| unavailable(&cause))?;
        Ok(self.size_bytes)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // A finished upload has another name by now.
        let _ = fs::remove_file(&self.draft);
    }
}

/// Reads the rest of a file in pieces, each of which blocks for a moment only.
pub(crate) fn chunks(
    file: File,
) -> impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures_util::stream::try_unfold(tokio::fs::File::from_std(file), |mut file| async move {
        use tokio::io::AsyncReadExt;
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        (&mut file)
            .take(CHUNK_BYTES as u64)
            .read_to_end(&mut chunk)
            .await?;
        Ok((!chunk.is_empty()).then_some((Bytes::from(chunk), file)))
    })
}

fn missing(digest: &str) -> ErrorBody {
    ErrorBody::new(
        Code::PackageInvalid,
        format!("no package {digest} is in the registry"),
    )
    .with_hint("upload it first: PUT /v1/packages/DIGEST")
}

fn unavailable(cause: &io::Error) -> ErrorBody {
    ErrorBody::new(
        Code::StoreUnavailable,
        format!("the package registry cannot be used: {cause}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &std::path::Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn only_whole_packages_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::open(folder.path().into(), 16).unwrap());
        let digest = PackageDigest(blake3::hash(b"a package"));

        let mut wrong = registry.upload(digest.clone()).unwrap();
        wrong.write(&Bytes::from_static(b"a pack")).unwrap();
        assert_eq!(wrong.finish().unwrap_err().code, Code::PackageInvalid);
        let mut large = registry.upload(digest.clone()).unwrap();
        let refused = large
            .write(&Bytes::from_static(b"seventeen letters"))
            .unwrap_err();
        assert!(refused.message.contains("16 B"), "{refused}");
        drop(large);
        assert!(names(folder.path()).is_empty());

        for _ in 0..2 {
            let mut right = registry.upload(digest.clone()).unwrap();
            right.write(&Bytes::from_static(b"a package")).unwrap();
            assert_eq!(right.finish().unwrap(), 9);
        }
        assert_eq!(names(folder.path()), [digest.to_string()]);
        assert_eq!(registry.size_bytes(&digest), Some(9));
    }

    #[test]
    fn packages_that_nobody_needs_go_after_a_while() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Arc::new(Registry::open(folder.path().into(), 16).unwrap());
        let keep = |bytes: &'static [u8]| {
            let digest = PackageDigest(blake3::hash(bytes));
            let mut upload = registry.upload(digest.clone()).unwrap();
            upload.write(&Bytes::from_static(bytes)).unwrap();
            upload.finish().unwrap();
            let file = File::options().append(true).open(registry.path(&digest));
            let long_ago = SystemTime::now() - Duration::from_secs(7200);
            file.unwrap().set_modified(long_ago).unwrap();
            digest
        };
        let (named, asked, unused) = (keep(b"named"), keep(b"asked"), keep(b"unused"));
        registry.touch(&asked);
        let all_named = HashSet::from([named.to_string()]);
        let removed = registry
            .sweep(&all_named, Duration::from_secs(3600))
            .unwrap();
        assert_eq!(removed, 1);
        assert!(registry.size_bytes(&named).is_some() && registry.size_bytes(&asked).is_some());
        assert!(registry.size_bytes(&unused).is_none());
    }

    #[test]
    fn digests_are_not_paths() {
        for bad in ["", "../../etc/passwd", &"A".repeat(64), &"a".repeat(63)] {
            assert!(PackageDigest::parse(bad).is_err(), "{bad}");
        }
        assert!(PackageDigest::parse(&"a".repeat(64)).is_ok());
    }
}

//! Packages: fetched by digest, checked, unpacked once, removed when no task needs them.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::sync::Mutex;
use tw_api::Client;
use tw_model::Digest;

/// Unpacked packages, each in a folder named by its digest.
#[derive(Debug)]
pub(super) struct Packages {
    folder: PathBuf,
    client: Client,
    /// One fetch at a time: two tasks that need one package fetch it once.
    fetching: Mutex<()>,
}

impl Packages {
    pub(super) fn open(folder: &Path, client: Client) -> anyhow::Result<Packages> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Packages {
            folder: folder.to_owned(),
            client,
            fetching: Mutex::new(()),
        })
    }

    /// The folder of a package; it is fetched if it is not there.
    pub(super) async fn get(&self, digest: &Digest) -> anyhow::Result<PathBuf> {
        let _one = self.fetching.lock().await;
        let folder = self.folder.join(&digest.0);
        if folder.is_dir() {
            return Ok(folder);
        }
        let archive = self
            .client
            .get_bytes(&format!("/v1/packages/{}", digest.0))
            .await?;
        let (draft, digest) = (
            self.folder.join(format!("{}.draft", digest.0)),
            digest.0.clone(),
        );
        let target = folder.clone();
        tokio::task::spawn_blocking(move || unpack(&archive, &digest, &draft, &target)).await??;
        Ok(folder)
    }

    /// Removes the packages that are not among `needed`.
    pub(super) fn collect(&self, needed: &BTreeSet<Digest>) -> anyhow::Result<()> {
        let Ok(_none_is_fetched) = self.fetching.try_lock() else {
            return Ok(());
        };
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let name = Digest(entry.file_name().to_string_lossy().into_owned());
            if !needed.contains(&name) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }
}

/// Unpacks an archive whose bytes have the digest, so that `target` is there whole or not at all.
fn unpack(archive: &[u8], digest: &str, draft: &Path, target: &Path) -> anyhow::Result<()> {
    let found = blake3::hash(archive).to_hex();
    anyhow::ensure!(
        found.as_str() == digest,
        "the package {digest} arrived with the digest {found}; it is not used"
    );
    if draft.exists() {
        std::fs::remove_dir_all(draft)?;
    }
    std::fs::create_dir_all(draft)?;
    let mut archive = tar::Archive::new(archive);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive
        .unpack(draft)
        .with_context(|| format!("cannot unpack the package {digest}"))?;
    std::fs::set_permissions(draft, std::fs::Permissions::from_mode(0o755))?;
    std::fs::rename(draft, target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, text) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            builder.append(&header, text.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_package_is_unpacked_only_with_the_right_digest_and_inside_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let good = archive(&[("main.py", "print(1)")]);
        let digest = blake3::hash(&good).to_hex().to_string();
        unpack(&good, &digest, &place("draft"), &place("good")).unwrap();
        assert_eq!(
            std::fs::read_to_string(place("good/main.py")).unwrap(),
            "print(1)"
        );
        let refusal = unpack(&good, &"0".repeat(64), &place("draft"), &place("bad")).unwrap_err();
        assert!(
            refusal.to_string().contains("arrived with the digest"),
            "{refusal}"
        );
        let escaping = archive(&[("../outside", "x")]);
        let digest = blake3::hash(&escaping).to_hex().to_string();
        let _refused_or_skipped = unpack(&escaping, &digest, &place("draft"), &place("escaping"));
        assert!(!place("outside").exists());
    }
}

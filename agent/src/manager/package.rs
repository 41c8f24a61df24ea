//! Packages: fetched by digest, checked, unpacked once, removed when no task needs them. On btrfs each is a subvolume
//! that nobody can write, of which a task that has it as its root is given a snapshot.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tw_api::Client;
use tw_model::Digest;

use super::btrfs;
use crate::helper;
use crate::removal::remove_tree;
use crate::sandbox::UserMode;

/// The most that one package or image may hold.
const UNPACKED_BYTES_MAX: u64 = 32 << 30;

/// Unpacked packages, each in a folder named by its digest.
#[derive(Debug)]
pub(super) struct Packages {
    folder: PathBuf,
    client: Client,
    unpacking: Unpacking,
    /// One fetch at a time: two tasks that need one package fetch it once.
    fetching: Mutex<()>,
}

impl Packages {
    pub(super) fn open(
        folder: &Path,
        client: Client,
        unpacking: Unpacking,
    ) -> anyhow::Result<Packages> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Packages {
            folder: folder.to_owned(),
            client,
            unpacking,
            fetching: Mutex::new(()),
        })
    }

    /// The folder of a package; it is fetched if it is not there.
    pub(super) async fn get(&self, digest: &Digest) -> anyhow::Result<PathBuf> {
        let folder = self.path(digest);
        // Without the lock, too: what is here does not wait for what is being fetched for others.
        if folder.is_dir() {
            return Ok(folder);
        }
        let _one = self.fetching.lock().await;
        if folder.is_dir() {
            return Ok(folder);
        }
        let archive = self
            .client
            .get_bytes(&format!("/v1/packages/{}", digest.0))
            .await?;
        self.unpacking.unpack(&archive, &digest.0, &folder).await?;
        Ok(folder)
    }

    /// Where a package is, or will be.
    pub(super) fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(&digest.0)
    }

    /// Removes the packages that are not among `needed`.
    pub(super) fn collect(&self, needed: &BTreeSet<Digest>) -> anyhow::Result<()> {
        let Ok(_none_is_fetched) = self.fetching.try_lock() else {
            return Ok(());
        };
        for entry in std::fs::read_dir(&self.folder)?.flatten() {
            let name = Digest(entry.file_name().to_string_lossy().into_owned());
            if !needed.contains(&name) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }
}

/// How an archive becomes a folder: by a helper without privileges.
#[derive(Clone, Debug)]
pub(super) struct Unpacking {
    /// The program `tw-helper`.
    pub(super) helper: PathBuf,
    pub(super) users: UserMode,
}

impl Unpacking {
    /// Unpacks an archive whose bytes have the digest, so that `target` is there whole or not at all.
    async fn unpack(&self, archive: &[u8], digest: &str, target: &Path) -> anyhow::Result<()> {
        let found = blake3::hash(archive).to_hex();
        anyhow::ensure!(
            found.as_str() == digest,
            "the package {digest} arrived with the digest {found}; it is not used"
        );
        let draft = target.with_extension("draft");
        remove(&draft)?;
        make(&draft)?;
        let mut helper = Command::new(&self.helper)
            .args(helper::alone_word(self.users))
            .arg("unpack")
            .arg(&draft)
            .arg(match self.users {
                UserMode::Mapped => "mapped",
                UserMode::Shared | UserMode::Single => "shared",
            })
            .arg(UNPACKED_BYTES_MAX.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = helper.stdin.take() {
            // One that has refused the archive does not read the rest.
            let _refused = input.write_all(archive).await;
        }
        let ended = helper.wait_with_output().await?;
        if !ended.status.success() {
            let said = String::from_utf8_lossy(&ended.stderr);
            remove(&draft)?;
            anyhow::bail!("cannot unpack the package {digest}: {}", said.trim());
        }
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(0o755))?;
        std::fs::rename(&draft, target)?;
        if btrfs::is_subvolume(target) {
            btrfs::protect(target)?;
        }
        Ok(())
    }
}

/// Makes the folder of a package.
fn make(path: &Path) -> std::io::Result<()> {
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) if btrfs::is_btrfs(folder) => {
            btrfs::create(folder, &name.to_string_lossy())
        }
        _ => std::fs::create_dir_all(path),
    }
}

/// Removes a package; none is fine.
fn remove(path: &Path) -> std::io::Result<()> {
    match btrfs::is_subvolume(path) {
        true => btrfs::remove(path),
        false => remove_tree(path),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;
    use tw_api::ApiEndpoint;

    use super::*;

    #[tokio::test]
    async fn a_package_that_is_here_does_not_wait_for_one_that_is_fetched() {
        let state = tempfile::tempdir().unwrap();
        let unpacking = Unpacking {
            helper: "tw-helper".into(),
            users: UserMode::Mapped,
        };
        let nobody = Client::new(ApiEndpoint::Unix(state.path().join("nobody.sock")));
        let packages = Packages::open(state.path(), nobody, unpacking).unwrap();
        let here = Digest("here".to_owned());
        std::fs::create_dir(packages.path(&here)).unwrap();
        let _another_is_fetched = packages.fetching.lock().await;
        let within = Duration::from_secs(5);
        let found = timeout(within, packages.get(&here)).await.unwrap();
        assert_eq!(found.unwrap(), packages.path(&here));
    }
}

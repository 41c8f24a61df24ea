//! Volumes: folders that outlive their tasks, the agent and the machine's restarts.
//!
//! `STATE/volumes/NAMESPACE.JOB.INDEX.NAME/` holds `volume.json`, which says whose it is, and `data`, which the
//! task sees. On btrfs `data` is a subvolume: its size is bounded, and before a new version of the job starts on
//! it a snapshot is taken, to which it can be rolled back. Elsewhere the size is not bounded, and the machine
//! says so among its facts.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};
use tw_model::{Bytes, JobId, TaskId, Timestamp, Volume};

use super::btrfs;
use crate::helper::record::{self, RecordError};
use crate::process::now_us;
use crate::removal::remove_tree;
use crate::sandbox::user::Account;

/// The format of `volume.json`.
const FORMAT: u32 = 1;

const RECORD_FILE: &str = "volume.json";
const DATA: &str = "data";
const SNAPSHOTS: &str = "snapshots";
/// Holds the data while an earlier state of it is put in its place.
const REPLACED: &str = "replaced";

/// How many snapshots a volume keeps.
const SNAPSHOTS_KEPT: usize = 3;

/// Why a volume cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("cannot {action} {}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("volume {} belongs to {found}, not to {wanted}; move it away, or give the volume another name", folder.display())]
    OtherJob {
        folder: PathBuf,
        found: String,
        wanted: String,
    },
    #[error("volume {} belongs to user {found}, and the task runs as user {wanted}; change the owner of its data, or the job's user", folder.display())]
    OtherUser {
        folder: PathBuf,
        found: u32,
        wanted: u32,
    },
    #[error("volume {} has format {found}; this version of Twill reads up to {FORMAT}", folder.display())]
    Newer { folder: PathBuf, found: u32 },
    #[error("volume {} has no {RECORD_FILE}, so that nobody knows whose it is; restore it, or move the folder away", folder.display())]
    NoRecord { folder: PathBuf },
    #[error("volume {} is in use by a running task; stop it first", folder.display())]
    InUse { folder: PathBuf },
    #[error("volume {} has no snapshot of version {version}; it has {kept:?}", folder.display())]
    NoSnapshot {
        folder: PathBuf,
        version: u64,
        kept: Vec<u64>,
    },
    #[error("volume {} is on a file system without snapshots; put the agent's state folder on btrfs", folder.display())]
    NoSnapshots { folder: PathBuf },
}

/// Whose a volume is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    pub format: u32,
    pub job: JobId,
    pub index: u32,
    pub name: String,
    pub size: Bytes,
    pub is_subvolume: bool,
    pub created_at: Timestamp,
    /// The version of the job that used it last.
    pub version: u64,
}

/// All volumes of an agent.
#[derive(Debug)]
pub struct Volumes {
    folder: PathBuf,
    has_snapshots: bool,
}

/// One volume and its folder.
#[derive(Debug)]
pub struct OwnedVolume {
    folder: PathBuf,
    pub record: VolumeRecord,
}

impl Volumes {
    /// Opens the folder that holds the volumes, making it, and repairs what a crash left half made. For the agent alone:
    /// it may be making a volume in this moment.
    pub fn open(folder: &Path) -> Result<Volumes, VolumeError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(folder).map_err(file("make", folder))?;
        for entry in fs::read_dir(folder)
            .map_err(file("list", folder))?
            .flatten()
        {
            let path = entry.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "draft")
            {
                remove(&path)?;
            }
        }
        let volumes = Volumes::beside_agent(folder);
        for volume in volumes.list()? {
            // The task that needs it says why it cannot be used.
            if let Err(cause) = volume.repair() {
                tracing::warn!(cause = %crate::error::chain(&cause), "cannot repair a volume");
            }
        }
        Ok(volumes)
    }

    /// The volumes in a folder that an agent may be using.
    pub fn beside_agent(folder: &Path) -> Volumes {
        Volumes {
            folder: folder.to_owned(),
            has_snapshots: btrfs::is_btrfs(folder),
        }
    }

    /// Whether sizes are bounded and snapshots taken here.
    pub fn has_snapshots(&self) -> bool {
        self.has_snapshots
    }

    /// The folder that a task sees as its volume. It is made when it is not there, for `owner`; one that is
    /// there must be the same job's and the same user's. Before a new version uses it, a snapshot is taken.
    pub fn prepare(
        &self,
        task: &TaskId,
        volume: &Volume,
        owner: Account,
        version: u64,
    ) -> Result<PathBuf, VolumeError> {
        let folder = self.folder_of(task, volume.name.as_str());
        if !folder.exists() {
            self.create(&folder, task, volume, owner, version)?;
        }
        let mut found = OwnedVolume::read(&folder)?;
        found.repair()?;
        found.check(task, owner)?;
        if found.record.is_subvolume && found.record.version != version {
            found.snapshot()?;
        }
        if found.record.version != version || found.record.size != volume.size {
            (found.record.version, found.record.size) = (version, volume.size);
            found.limit()?;
            record::write_durably(&folder, RECORD_FILE, &found.record)?;
        }
        Ok(folder.join(DATA))
    }

    /// Every volume that can be read.
    pub fn list(&self) -> Result<Vec<OwnedVolume>, VolumeError> {
        let entries = fs::read_dir(&self.folder).map_err(file("list", &self.folder))?;
        let mut found: Vec<OwnedVolume> = entries
            .flatten()
            .filter_map(|entry| OwnedVolume::read(&entry.path()).ok())
            .collect();
        found.sort_by(|a, b| a.folder.cmp(&b.folder));
        Ok(found)
    }

    /// One volume of one index of a job.
    pub fn get(&self, job: &JobId, index: u32, name: &str) -> Result<OwnedVolume, VolumeError> {
        OwnedVolume::read(&self.folder_of(&TaskId::new(job.clone(), index, 0), name))
    }

    fn folder_of(&self, task: &TaskId, name: &str) -> PathBuf {
        let (job, index) = (&task.job, task.index);
        self.folder
            .join(format!("{}.{}.{index}.{name}", job.namespace, job.name))
    }

    /// Makes a volume so that it is there whole or not at all.
    fn create(
        &self,
        folder: &Path,
        task: &TaskId,
        volume: &Volume,
        owner: Account,
        version: u64,
    ) -> Result<(), VolumeError> {
        let draft = PathBuf::from(format!("{}.draft", folder.display()));
        remove(&draft)?;
        let made = VolumeRecord {
            format: FORMAT,
            job: task.job.clone(),
            index: task.index,
            name: volume.name.to_string(),
            size: volume.size,
            is_subvolume: self.has_snapshots,
            created_at: Timestamp(now_us()),
            version,
        };
        let mut builder = DirBuilder::new();
        builder
            .mode(0o700)
            .create(&draft)
            .map_err(file("make", &draft))?;
        let data = draft.join(DATA);
        match self.has_snapshots {
            true => btrfs::create(&draft, DATA).map_err(file("make", &data))?,
            false => fs::create_dir(&data).map_err(file("make", &data))?,
        }
        chown(&data, Some(owner.uid), Some(owner.gid)).map_err(file("give away", &data))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o750);
        fs::set_permissions(&data, mode).map_err(file("protect", &data))?;
        let made = OwnedVolume {
            folder: draft.clone(),
            record: made,
        };
        made.limit()?;
        record::write_durably(&draft, RECORD_FILE, &made.record)?;
        fs::rename(&draft, folder).map_err(file("make", folder))
    }
}

impl OwnedVolume {
    fn read(folder: &Path) -> Result<OwnedVolume, VolumeError> {
        /// What every format has.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let folder = folder.to_owned();
        let Some(Format { format }) = record::read(&folder, RECORD_FILE)? else {
            return Err(VolumeError::NoRecord { folder });
        };
        if format > FORMAT {
            return Err(VolumeError::Newer {
                folder,
                found: format,
            });
        }
        match record::read(&folder, RECORD_FILE)? {
            Some(record) => Ok(OwnedVolume { folder, record }),
            None => Err(VolumeError::NoRecord { folder }),
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join(DATA)
    }

    fn check(&self, task: &TaskId, owner: Account) -> Result<(), VolumeError> {
        let whose = |job: &JobId, index: u32| format!("{job}.{index}");
        if (&self.record.job, self.record.index) != (&task.job, task.index) {
            return Err(VolumeError::OtherJob {
                folder: self.folder.clone(),
                found: whose(&self.record.job, self.record.index),
                wanted: whose(&task.job, task.index),
            });
        }
        let data = self.data();
        let found = fs::symlink_metadata(&data).map_err(file("look at", &data))?;
        match found.is_dir() && found.uid() == owner.uid {
            true => Ok(()),
            false => Err(VolumeError::OtherUser {
                folder: self.folder.clone(),
                found: found.uid(),
                wanted: owner.uid,
            }),
        }
    }

    fn limit(&self) -> Result<(), VolumeError> {
        let data = self.data();
        match self.record.is_subvolume {
            true => btrfs::limit(&data, self.record.size.0).map_err(file("bound", &data)),
            false => Ok(()),
        }
    }

    /// The versions of the job before which there are snapshots: each is the data as that version left it.
    pub fn snapshots(&self) -> Vec<u64> {
        let entries = fs::read_dir(self.folder.join(SNAPSHOTS))
            .into_iter()
            .flatten();
        let mut versions: Vec<u64> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        versions.sort_unstable();
        versions
    }

    /// Keeps the data as the version that used it last left it.
    fn snapshot(&self) -> Result<(), VolumeError> {
        let snapshots = self.folder.join(SNAPSHOTS);
        fs::create_dir_all(&snapshots).map_err(file("make", &snapshots))?;
        let name = self.record.version.to_string();
        let path = snapshots.join(&name);
        if path.exists() {
            remove(&path)?;
        }
        btrfs::snapshot(&self.data(), &snapshots, &name, true).map_err(file("make", &path))?;
        let kept = self.snapshots();
        for version in kept.iter().rev().skip(SNAPSHOTS_KEPT) {
            remove(&snapshots.join(version.to_string()))?;
        }
        Ok(())
    }

    /// Puts the data back to what version `version` of the job left. `tasks` is the agent's folder of tasks: none
    /// of this job and index may run.
    pub fn roll_back(&self, version: u64, tasks: &Path) -> Result<(), VolumeError> {
        if !self.record.is_subvolume {
            let folder = self.folder.clone();
            return Err(VolumeError::NoSnapshots { folder });
        }
        let kept = self.snapshots();
        if !kept.contains(&version) {
            return Err(VolumeError::NoSnapshot {
                folder: self.folder.clone(),
                version,
                kept,
            });
        }
        self.check_unused(tasks)?;
        let _alone = self.lock()?;
        self.finish_replacing()?;
        let (data, old) = (self.data(), self.folder.join(REPLACED));
        let source = self.folder.join(SNAPSHOTS).join(version.to_string());
        fs::rename(&data, &old).map_err(file("set aside", &data))?;
        if let Err(error) = btrfs::snapshot(&source, &self.folder, DATA, false) {
            fs::rename(&old, &data).map_err(file("put back", &data))?;
            return Err(file("roll back", &data)(error));
        }
        self.limit()?;
        remove(&old)
    }

    /// Ends what a roll back has begun that was cut off: the data is what it was where nothing had taken its place yet.
    fn repair(&self) -> Result<(), VolumeError> {
        if !self.folder.join(REPLACED).exists() {
            return Ok(());
        }
        let _alone = self.lock()?;
        self.finish_replacing()
    }

    /// As [`OwnedVolume::repair`], for whoever holds the lock.
    fn finish_replacing(&self) -> Result<(), VolumeError> {
        let (data, old) = (self.data(), self.folder.join(REPLACED));
        match (old.exists(), data.exists()) {
            (false, _) => Ok(()),
            (true, false) => fs::rename(&old, &data).map_err(file("put back", &data)),
            (true, true) => {
                self.limit()?;
                remove(&old)
            }
        }
    }

    /// Held by whoever replaces the data.
    fn lock(&self) -> Result<Flock<File>, VolumeError> {
        let opened = File::open(&self.folder).map_err(file("open", &self.folder))?;
        Flock::lock(opened, FlockArg::LockExclusive)
            .map_err(|(_, error)| file("lock", &self.folder)(error.into()))
    }

    fn check_unused(&self, tasks: &Path) -> Result<(), VolumeError> {
        let prefix = format!(
            "{}.{}.{}.",
            self.record.job.namespace, self.record.job.name, self.record.index
        );
        let entries = fs::read_dir(tasks).into_iter().flatten().flatten();
        let lives = |path: &Path| {
            File::open(path)
                .is_ok_and(|folder| Flock::lock(folder, FlockArg::LockSharedNonblock).is_err())
        };
        let mut folders = entries.filter(|entry| {
            entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(&prefix))
        });
        match folders.any(|entry| lives(&entry.path())) {
            true => Err(VolumeError::InUse {
                folder: self.folder.clone(),
            }),
            false => Ok(()),
        }
    }
}

/// Removes a folder with the subvolumes in it; none is fine.
fn remove(path: &Path) -> Result<(), VolumeError> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    if btrfs::is_subvolume(path) {
        return btrfs::remove(path).map_err(file("remove", path));
    }
    for entry in fs::read_dir(path).map_err(file("list", path))?.flatten() {
        if btrfs::is_subvolume(&entry.path()) {
            btrfs::remove(&entry.path()).map_err(file("remove", path))?;
        }
    }
    remove_tree(path).map_err(file("remove", path))
}

fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    move |source| VolumeError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume() -> Volume {
        serde_json::from_value(serde_json::json!({"name": "data", "path": "/data"})).unwrap()
    }

    fn task(text: &str) -> TaskId {
        text.parse().unwrap()
    }

    #[test]
    fn a_volume_is_kept_for_its_job_and_index_and_refused_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(folder.path()).unwrap();
        let me = Account::of_this_process();
        let data = volumes.prepare(&task("db.0#1"), &volume(), me, 1).unwrap();
        fs::write(data.join("kept"), "x").unwrap();
        let again = Volumes::open(folder.path()).unwrap();
        assert_eq!(
            again.prepare(&task("db.0#9"), &volume(), me, 2).unwrap(),
            data
        );
        assert!(data.join("kept").exists());
        assert_ne!(
            again.prepare(&task("db.1#2"), &volume(), me, 1).unwrap(),
            data
        );
        let other = Account {
            uid: me.uid + 1,
            gid: 0,
        };
        let refusal = again
            .prepare(&task("db.0#9"), &volume(), other, 2)
            .unwrap_err();
        assert!(
            matches!(refusal, VolumeError::OtherUser { .. }),
            "{refusal}"
        );
        fs::rename(
            folder.path().join("default.db.0.data"),
            folder.path().join("default.web.0.data"),
        )
        .unwrap();
        let refusal = again
            .prepare(&task("web.0#1"), &volume(), me, 1)
            .unwrap_err();
        assert!(
            refusal
                .to_string()
                .contains("belongs to db.0, not to web.0"),
            "{refusal}"
        );
    }

    #[test]
    fn a_volume_of_a_newer_format_or_without_a_record_is_refused_and_a_draft_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        fs::create_dir_all(place("default.db.0.data.draft/data")).unwrap();
        let volumes = Volumes::open(folder.path()).unwrap();
        assert!(!place("default.db.0.data.draft").exists());
        let me = Account { uid: 0, gid: 0 };
        fs::create_dir_all(place("default.db.0.data/data")).unwrap();
        let refusal = volumes
            .prepare(&task("db.0#1"), &volume(), me, 1)
            .unwrap_err();
        assert!(matches!(refusal, VolumeError::NoRecord { .. }), "{refusal}");
        fs::write(
            place("default.db.0.data/volume.json"),
            "{\"format\": 7, \"x\": 1}",
        )
        .unwrap();
        let refusal = volumes
            .prepare(&task("db.0#1"), &volume(), me, 1)
            .unwrap_err();
        assert!(refusal.to_string().contains("has format 7"), "{refusal}");
        assert!(volumes.list().unwrap().is_empty());
    }
}

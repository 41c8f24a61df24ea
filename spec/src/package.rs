//! Packs a folder of the repository into an archive whose bytes depend on the files alone.

use std::fmt;

use tar::{Builder, EntryType, Header};
use tw_model::Digest;

use crate::source::{EntryKind, Source, SourceError, path};

const MODE_FOLDER: u32 = 0o755;
const MODE_EXECUTABLE: u32 = 0o755;
const MODE_FILE: u32 = 0o644;
const MODE_SYMLINK: u32 = 0o777;

/// Why a folder cannot be a package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error("there is no folder '{folder}' in {tree}")]
    NoFolder { folder: String, tree: String },
    #[error("the folder '{folder}' holds no file in {tree}")]
    Empty { folder: String, tree: String },
    #[error("'{path}' is a symbolic link to '{target}', which is outside the package '{folder}'")]
    LinkOutside {
        folder: String,
        path: String,
        target: String,
    },
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("cannot write the archive")]
    Archive(#[from] std::io::Error),
}

/// A packed folder.
#[derive(Clone)]
pub struct Package {
    /// BLAKE3 of `archive`.
    pub digest: Digest,
    /// A tar archive: folders before what is in them, names sorted, owner 0, times 0, and only the modes
    /// 0755 and 0644. Names are relative to the folder.
    pub archive: Vec<u8>,
    /// How many files and links it holds.
    pub files: usize,
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("digest", &self.digest.0)
            .field("archive_bytes", &self.archive.len())
            .field("files", &self.files)
            .finish()
    }
}

/// Packs `folder` of `source`. Files that git ignores are left out; links that stay inside are kept as links.
pub fn pack(source: &Source, folder: &str) -> Result<Package, PackageError> {
    let missing = || PackageError::NoFolder {
        folder: folder.to_owned(),
        tree: source.describe(),
    };
    source.list(folder)?.ok_or_else(missing)?;
    let mut packer = Packer {
        source,
        folder,
        archive: Builder::new(Vec::new()),
        files: 0,
    };
    packer.folder("")?;
    if packer.files == 0 {
        return Err(PackageError::Empty {
            folder: folder.to_owned(),
            tree: source.describe(),
        });
    }
    let files = packer.files;
    let archive = packer.archive.into_inner()?;
    let digest = Digest(blake3::hash(&archive).to_hex().to_string());
    Ok(Package {
        digest,
        archive,
        files,
    })
}

struct Packer<'a> {
    source: &'a Source,
    folder: &'a str,
    archive: Builder<Vec<u8>>,
    files: usize,
}

impl Packer<'_> {
    /// Adds what is in a folder of the package; `inside` is relative to the package. Empty folders are left out.
    fn folder(&mut self, inside: &str) -> Result<(), PackageError> {
        let entries = self
            .source
            .list(&path::join(self.folder, inside))?
            .unwrap_or_default();
        for entry in entries {
            let inside = path::join(inside, &entry.name);
            match entry.kind {
                EntryKind::Folder if self.holds_files(&inside)? => {
                    self.add(&inside, EntryType::Directory, MODE_FOLDER, &[])?;
                    self.folder(&inside)?;
                }
                EntryKind::Folder => {}
                EntryKind::File { executable } => {
                    let mode = if executable {
                        MODE_EXECUTABLE
                    } else {
                        MODE_FILE
                    };
                    let content = self
                        .source
                        .read(&path::join(self.folder, &inside))?
                        .unwrap_or_default();
                    self.files += 1;
                    self.add(&inside, EntryType::Regular, mode, &content)?;
                }
                EntryKind::Symlink => self.link(&inside)?,
            }
        }
        Ok(())
    }

    fn holds_files(&self, inside: &str) -> Result<bool, PackageError> {
        for entry in self
            .source
            .list(&path::join(self.folder, inside))?
            .unwrap_or_default()
        {
            if entry.kind != EntryKind::Folder
                || self.holds_files(&path::join(inside, &entry.name))?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn link(&mut self, inside: &str) -> Result<(), PackageError> {
        let from_root = path::join(self.folder, inside);
        let target = self.source.link_target(&from_root)?.unwrap_or_default();
        if path::resolve(path::parent(inside), &target).is_none() {
            return Err(PackageError::LinkOutside {
                folder: self.folder.to_owned(),
                path: from_root,
                target,
            });
        }
        self.files += 1;
        let mut header = header(EntryType::Symlink, MODE_SYMLINK, 0);
        Ok(self.archive.append_link(&mut header, inside, target)?)
    }

    fn add(
        &mut self,
        inside: &str,
        kind: EntryType,
        mode: u32,
        content: &[u8],
    ) -> Result<(), PackageError> {
        let mut header = header(kind, mode, content.len() as u64);
        Ok(self.archive.append_data(&mut header, inside, content)?)
    }
}

fn header(kind: EntryType, mode: u32, bytes: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

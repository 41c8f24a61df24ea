//! What `tw dev` keeps in its state folder, and who holds it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::{AccessFlags, Pid};

use crate::failure::advice;

#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Layout {
        Layout { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the folder where it is missing, and sees that it can be written to.
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        let made = std::fs::create_dir_all(&self.root).and_then(|()| {
            let writes = AccessFlags::W_OK | AccessFlags::X_OK;
            Ok(nix::unistd::access(&self.root, writes)?)
        });
        made.map_err(|cause| {
            advice(
                format!(
                    "the state folder {} cannot be written to: {cause}",
                    self.root.display()
                ),
                "`--state DIR`, or TW_STATE, names another",
            )
        })
    }

    pub(super) fn log(&self, name: &str) -> PathBuf {
        self.root.join("log").join(format!("{name}.log"))
    }

    pub(super) fn agent(&self, machine: &str) -> PathBuf {
        self.root.join("agents").join(machine)
    }

    /// The name of the cgroup subtree of everything here; unlike any other state folder's.
    pub(super) fn cgroup(&self) -> String {
        format!("twill-{:016x}", fingerprint(&self.root))
    }

    /// Where the ports of the first agent begin. Two state folders seldom share a range, and a port that is
    /// taken is noticed when a task starts.
    pub(super) fn port_base(&self) -> u16 {
        20_000 + (fingerprint(&self.root) % 12) as u16 * 1000
    }

    pub(super) fn mark_taken(&self, machine: &str) -> anyhow::Result<()> {
        let agent = self.agent(machine);
        if !agent.is_dir() {
            return Err(advice(
                format!("no machine '{machine}' runs here"),
                "`tw machines` lists them",
            ));
        }
        Ok(File::create(agent.join("taken")).map(drop)?)
    }

    pub(super) fn mark_given_back(&self, machine: &str) -> anyhow::Result<()> {
        match std::fs::remove_file(self.agent(machine).join("taken")) {
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Err(advice(
                format!("'{machine}' was not taken away"),
                "`tw machines` lists the machines",
            )),
            other => Ok(other?),
        }
    }

    pub(super) fn is_taken(&self, machine: &str) -> bool {
        self.agent(machine).join("taken").exists()
    }

    /// Becomes the supervisor of this folder until the lock is dropped.
    pub(super) fn lock(&self) -> anyhow::Result<Flock<File>> {
        std::fs::create_dir_all(self.root.join("log"))
            .with_context(|| format!("cannot make {}", self.root.display()))?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(self.lock_path())?;
        let mut lock = Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| {
            advice(
                format!("Twill already runs in {}", self.root.display()),
                "end it with `tw dev --stop`",
            )
        })?;
        lock.set_len(0)?;
        lock.rewind()?;
        write!(lock, "{}", std::process::id())?;
        Ok(lock)
    }

    /// The process that supervises this folder now.
    pub(super) fn supervisor(&self) -> anyhow::Result<Option<Pid>> {
        let mut file = match File::open(self.lock_path()) {
            Ok(file) => file,
            Err(_) => return Ok(None),
        };
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        match Flock::lock(file, FlockArg::LockSharedNonblock) {
            Ok(_free) => Ok(None),
            Err(_held) => Ok(text.trim().parse().ok().map(Pid::from_raw)),
        }
    }

    fn lock_path(&self) -> PathBuf {
        self.root.join("dev.lock")
    }
}

/// FNV-1a of the path: stable between releases and runs.
fn fingerprint(path: &Path) -> u64 {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

//! Compile jobs: sealed children that turn modules into marshalled code, and what is kept of that.
//!
//! A compile job runs nothing of what it compiles, so one child does many files, up to a number; its
//! output is only ever unmarshalled inside other sealed children.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::EvalConfig;
use super::zygote::{self, Running, Zygote};
use crate::cache::{Identity, Key};
use crate::source::Hash;

/// Files that one child compiles.
const FILES_PER_CHILD_MAX: usize = 256;
/// What they may have together, so that the processor time of a spec is enough.
const BYTES_PER_CHILD_MAX: usize = 2 * 1024 * 1024;
/// Time that a child has for all of its files.
const CHILD_TIME: Duration = Duration::from_secs(30);
/// Time that one file may take.
const FILE_TIME: Duration = Duration::from_secs(5);
/// Code that is kept in memory.
const KEPT_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A file's marshalled code and its calls; none where it is left to the evaluation to compile it.
pub(super) type Code = Option<Arc<[u8]>>;

/// Compiles modules, which many specs import, and keeps their code.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    idle: Mutex<Vec<Job>>,
    kept: Mutex<Kept>,
    /// What the code is kept under in the cache.
    pub(super) identity: OnceLock<Identity>,
}

#[derive(Debug, Default)]
struct Kept {
    codes: HashMap<Hash, Code>,
    bytes: usize,
}

impl Compiler {
    /// Returns the code of a module with the hash `hash`.
    pub(super) fn code(
        &self,
        zygote: &Zygote,
        config: &EvalConfig,
        content: &[u8],
        hash: Hash,
    ) -> Code {
        if let Some(code) = lock(&self.kept).codes.get(&hash) {
            return code.clone();
        }
        let code = self.found_or_made(zygote, config, content, &hash);
        self.keep(hash, &code);
        code
    }

    fn found_or_made(
        &self,
        zygote: &Zygote,
        config: &EvalConfig,
        content: &[u8],
        hash: &Hash,
    ) -> Code {
        let Some((cache, identity)) = config.cache.as_ref().zip(self.identity.get()) else {
            return self.compile(zygote, content);
        };
        let key = Key::new("code", &[identity.as_bytes(), hash]);
        if let Some(code) = cache.get(&key) {
            return Some(code.into());
        }
        let code = self.compile(zygote, content);
        if let Some(code) = &code {
            cache.put(key, code.to_vec());
        }
        code
    }

    fn keep(&self, hash: Hash, code: &Code) {
        let mut kept = lock(&self.kept);
        let bytes = code.as_ref().map_or(0, |code| code.len());
        if kept.bytes + bytes <= KEPT_BYTES_MAX && kept.codes.insert(hash, code.clone()).is_none() {
            kept.bytes += bytes;
        }
    }

    /// Has a child compile the file. A child that fails is gone, and the file is left to the evaluation, which
    /// says what is wrong with it.
    fn compile(&self, zygote: &Zygote, content: &[u8]) -> Code {
        let idle = lock(&self.idle).pop();
        let mut job = match idle.filter(|job| job.is_of(zygote)) {
            Some(job) => job,
            None => Job::start(zygote).ok()?,
        };
        let code = job.compile(content).ok()?;
        if job.can_go_on() {
            lock(&self.idle).push(job);
        }
        (!code.is_empty()).then(|| code.into())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A child that waits for files.
#[derive(Debug)]
struct Job {
    child: Running,
    zygote: u32,
    files: usize,
    bytes: usize,
    started: Instant,
}

impl Job {
    fn start(zygote: &Zygote) -> io::Result<Job> {
        let job = zygote::Job {
            role: "compile",
            path: "",
            references: false,
        };
        let child = zygote.begin(&job)?;
        zygote.begun(&child, CHILD_TIME)?;
        child.frames.wait_at_most(FILE_TIME)?;
        Ok(Job {
            child,
            zygote: zygote.process_id(),
            files: 0,
            bytes: 0,
            started: Instant::now(),
        })
    }

    fn compile(&mut self, content: &[u8]) -> io::Result<Vec<u8>> {
        self.files += 1;
        self.bytes += content.len();
        self.next(b'Q')?;
        let head = json!({ "found": "blob", "content_bytes": content.len() }).to_string();
        self.child.frames.answer(&head, content, &[])?;
        self.next(b'C')
    }

    /// Reads what the child says next: that it waits for a file (`Q`), or what it made of one (`C`).
    fn next(&mut self, kind: u8) -> io::Result<Vec<u8>> {
        match self.child.frames.read()? {
            Some(received) if received.kind == kind => Ok(received.content),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn is_of(&self, zygote: &Zygote) -> bool {
        self.zygote == zygote.process_id() && self.started.elapsed() < CHILD_TIME / 2
    }

    fn can_go_on(&self) -> bool {
        self.files < FILES_PER_CHILD_MAX && self.bytes < BYTES_PER_CHILD_MAX
    }
}

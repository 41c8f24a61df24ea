//! Which builds made an entry: the evaluator with its interpreter, and the program that decodes.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Cache, Key};

/// A hash over `tw-eval`, the interpreter it was loaded with, and the running program. Entries of one identity
/// were made by the same code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity([u8; 32]);

/// What is known of an evaluator that was started once.
#[derive(Serialize, Deserialize)]
struct Known {
    /// The file its interpreter is loaded from.
    library: PathBuf,
    library_stamp: Stamp,
    digest: [u8; 32],
}

/// Tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp([i64; 6]);

impl Identity {
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Looks up the identity of `program`; none if it was never started on this machine in its present state.
    pub(crate) fn recall(cache: &Cache, program: &Path) -> Option<Identity> {
        let known: Known = postcard::from_bytes(&cache.get(&evaluator_key(program)?)?).ok()?;
        let is_same = Stamp::of(&known.library).ok()? == known.library_stamp;
        is_same.then(|| Identity::of(cache, &known.digest))?
    }

    /// Works out the identity of `program`, which has said that it loads `library`, and remembers it.
    pub(crate) fn learn(cache: &Cache, program: &Path, library: &Path) -> Option<Identity> {
        let mut hasher = blake3::Hasher::new();
        let library_stamp = Stamp::of(library).ok()?;
        for file in [program, library] {
            hasher.update_reader(std::fs::File::open(file).ok()?).ok()?;
        }
        let digest = *hasher.finalize().as_bytes();
        let known = Known {
            library: library.to_owned(),
            library_stamp,
            digest,
        };
        cache.put(evaluator_key(program)?, postcard::to_stdvec(&known).ok()?);
        Identity::of(cache, &digest)
    }

    fn of(cache: &Cache, evaluator: &[u8; 32]) -> Option<Identity> {
        let own = own_digest(cache)?;
        let both = [evaluator.as_slice(), own.as_slice()].concat();
        Some(Identity(*blake3::hash(&both).as_bytes()))
    }
}

fn evaluator_key(program: &Path) -> Option<Key> {
    let program = program.canonicalize().ok()?;
    let stamp = postcard::to_stdvec(&Stamp::of(&program).ok()?).ok()?;
    Some(Key::new(
        "evaluator",
        &[program.as_os_str().as_encoded_bytes(), &stamp],
    ))
}

/// The hash of the running program, which decodes and compares what comes of specs.
fn own_digest(cache: &Cache) -> Option<Vec<u8>> {
    let program = std::env::current_exe().ok()?;
    let stamp = postcard::to_stdvec(&Stamp::of(&program).ok()?).ok()?;
    let key = Key::new("program", &[program.as_os_str().as_encoded_bytes(), &stamp]);
    if let Some(digest) = cache.get(&key) {
        return Some(digest);
    }
    let mut hasher = blake3::Hasher::new();
    hasher
        .update_reader(std::fs::File::open(&program).ok()?)
        .ok()?;
    let digest = hasher.finalize().as_bytes().to_vec();
    cache.put(key, digest.clone());
    Some(digest)
}

impl Stamp {
    fn of(file: &Path) -> io::Result<Stamp> {
        let found: Metadata = std::fs::metadata(file)?;
        Ok(Stamp([
            found.dev() as i64,
            found.ino() as i64,
            found.size() as i64,
            found.mtime() * 1_000_000_000 + found.mtime_nsec(),
            found.ctime() * 1_000_000_000 + found.ctime_nsec(),
            i64::from(found.mode()),
        ]))
    }
}

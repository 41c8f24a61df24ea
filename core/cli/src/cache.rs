//! The cache of evaluations that the commands share: where it is, and what is said if it cannot be used.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use tw_spec::{Cache, EvalConfig};

static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
static CACHE: OnceLock<Option<Arc<Cache>>> = OnceLock::new();

/// Where evaluations are kept.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep evaluations in DIR [default: the user's cache folder]
    #[arg(long, global = true, env = "TW_CACHE", value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Evaluate everything anew and keep nothing
    #[arg(long, global = true, conflicts_with = "cache")]
    no_cache: bool,
}

impl Args {
    /// Settles it for the whole program. Nothing is opened before a command evaluates.
    pub(crate) fn settle(self, configured: Option<PathBuf>) {
        let folder = match self.no_cache {
            true => None,
            false => self.cache.or(configured).or_else(Cache::user_folder),
        };
        let _ = FOLDER.set(folder.filter(|folder| !folder.as_os_str().is_empty()));
    }
}

/// The cache, opened when it is first asked for; none if nothing is to be kept.
pub(crate) fn cache() -> Option<&'static Arc<Cache>> {
    let opened = CACHE.get_or_init(|| {
        let folder = FOLDER.get()?.as_ref()?;
        Some(Arc::new(Cache::open(folder)))
    });
    opened.as_ref()
}

/// How commands evaluate.
pub(crate) fn eval_config() -> EvalConfig {
    EvalConfig {
        cache: cache().cloned(),
        ..EvalConfig::default()
    }
}

/// Writes what waits to be written, and says once what was in the way.
pub(crate) fn close() {
    if let Some(Some(cache)) = CACHE.get() {
        cache.flush();
        if let Some(trouble) = cache.trouble() {
            anstream::eprintln!("note: {trouble}");
        }
    }
}

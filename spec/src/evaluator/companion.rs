//! Finds the programs that come with this one.

use std::env;
use std::path::{Path, PathBuf};

use tw_model::{LIBEXEC, companion_places};

use super::EvaluatorError;

/// Looks in the places of [`companion_places`].
pub(super) fn find(name: &str) -> Result<PathBuf, EvaluatorError> {
    let running = env::current_exe().unwrap_or_default();
    let libexec = env::var_os(LIBEXEC).map(PathBuf::from);
    let places = companion_places(&running, libexec.as_deref(), name);
    match places.iter().find(|program| program.is_file()) {
        Some(program) => Ok(program.clone()),
        None => Err(EvaluatorError::NoProgram {
            searched: places
                .iter()
                .filter_map(|place| place.parent())
                .map(Path::to_owned)
                .collect(),
        }),
    }
}

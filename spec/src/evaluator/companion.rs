//! Finds the programs that come with this one.

use std::env;
use std::path::{Path, PathBuf};

use super::EvaluatorError;

/// Looks beside the running program, in the folder above it (where cargo puts programs, tests being one
/// below), in `TW_LIBEXEC`, then in `../lib/twill`.
pub(super) fn find(name: &str) -> Result<PathBuf, EvaluatorError> {
    let running = env::current_exe().ok();
    let beside = running.as_deref().and_then(Path::parent);
    let searched = folders(beside, env::var_os("TW_LIBEXEC").map(PathBuf::from));
    let found = searched
        .iter()
        .map(|folder| folder.join(name))
        .find(|program| program.is_file());
    found.ok_or(EvaluatorError::NoProgram { searched })
}

fn folders(beside: Option<&Path>, libexec: Option<PathBuf>) -> Vec<PathBuf> {
    let above = beside.and_then(Path::parent);
    let folders = [
        beside.map(Path::to_owned),
        beside
            .filter(|folder| folder.ends_with("deps"))
            .and(above)
            .map(Path::to_owned),
        libexec,
        above.map(|folder| folder.join("lib/twill")),
    ];
    folders.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_looks_where_cargo_puts_programs() {
        let folders = folders(Some(Path::new("/t/debug/deps")), None);
        assert_eq!(
            folders[..2],
            [PathBuf::from("/t/debug/deps"), PathBuf::from("/t/debug")]
        );
    }

    #[test]
    fn an_installed_program_looks_in_libexec_then_in_lib() {
        let folders = folders(Some(Path::new("/usr/bin")), Some("/opt/libexec".into()));
        let expected = ["/usr/bin", "/opt/libexec", "/usr/lib/twill"].map(PathBuf::from);
        assert_eq!(folders, expected);
    }
}

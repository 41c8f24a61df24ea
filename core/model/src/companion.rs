//! Where the programs of one installation look for each other: `tw`, `tw-agent`, `tw-helper`, `tw-eval`.

use std::path::{Path, PathBuf};

/// The environment variable that names a folder of companion programs.
pub const LIBEXEC: &str = "TW_LIBEXEC";

/// The files that the program `name` may be, the first choice first: beside the program that is running, for tests in
/// the folder above (cargo puts programs there), in the folder that [`LIBEXEC`] names, then in `../lib/twill`.
pub fn companion_places(running: &Path, libexec: Option<&Path>, name: &str) -> Vec<PathBuf> {
    let beside = running.parent();
    let above = beside.and_then(Path::parent);
    let is_test = beside.is_some_and(|folder| folder.ends_with("deps"));
    let folders = [
        beside.map(Path::to_owned),
        above.filter(|_| is_test).map(Path::to_owned),
        libexec.map(Path::to_owned),
        above.map(|folder| folder.join("lib/twill")),
    ];
    let folders = folders.into_iter().flatten();
    folders.map(|folder| folder.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_looks_where_cargo_puts_programs() {
        let places = companion_places(Path::new("/t/debug/deps/e2e-1f"), None, "tw-eval");
        assert_eq!(
            places[..2],
            ["/t/debug/deps/tw-eval", "/t/debug/tw-eval"].map(PathBuf::from)
        );
    }

    #[test]
    fn an_installed_program_looks_in_libexec_then_in_lib() {
        let libexec = Path::new("/opt/libexec");
        let places = companion_places(Path::new("/usr/bin/tw"), Some(libexec), "tw-agent");
        let expected = [
            "/usr/bin/tw-agent",
            "/opt/libexec/tw-agent",
            "/usr/lib/twill/tw-agent",
        ];
        assert_eq!(places, expected.map(PathBuf::from));
    }
}

//! The Python package `tw` as files in a repository, for its editors, type checkers and pytest.
//!
//! The evaluator has a copy of its own; what stands here changes no evaluation.

use std::fs;
use std::io;
use std::path::Path;

/// (name, text) of every file of the package.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/library.rs"));

/// The folder that holds the package, from the repository's root. Git ignores it.
pub const FOLDER: &str = ".twill/python";

/// The file that says which build wrote the folder.
const MARK: &str = "BUILD";

/// Whether the repository at `root` has the package of another build than this one, or an incomplete one.
pub fn is_stale(root: &Path) -> bool {
    fs::read_to_string(root.join(FOLDER).join(MARK)).ok() != Some(build())
}

/// Writes the package to the repository at `root`, in place of one that is there.
pub fn write(root: &Path) -> io::Result<()> {
    let folder = root.join(FOLDER);
    let package = folder.join("tw");
    if package.exists() {
        fs::remove_dir_all(&package)?;
    }
    fs::create_dir_all(&package)?;
    for (name, text) in FILES {
        fs::write(package.join(name), text)?;
    }
    if let Some(hidden) = folder.parent() {
        fs::write(hidden.join(".gitignore"), "*\n")?;
    }
    // Last: a folder without it is written again.
    fs::write(folder.join(MARK), build())
}

/// The version and the digest of the package.
fn build() -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, text) in FILES {
        hasher.update(name.as_bytes()).update(text.as_bytes());
    }
    format!(
        "{} {}\n",
        env!("CARGO_PKG_VERSION"),
        hasher.finalize().to_hex()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_typed_and_whole() {
        let names: Vec<&str> = FILES.iter().map(|(name, _)| *name).collect();
        for name in [
            "__init__.py",
            "_schema.py",
            "policy.py",
            "py.typed",
            "testing.py",
        ] {
            assert!(names.contains(&name), "{name} is not among {names:?}");
        }
    }

    #[test]
    fn a_damaged_copy_is_written_again() {
        let root = tempfile::tempdir().unwrap();
        assert!(is_stale(root.path()));
        write(root.path()).unwrap();
        assert!(!is_stale(root.path()));
        fs::write(root.path().join(FOLDER).join(MARK), "0.0.1 old\n").unwrap();
        fs::write(root.path().join(FOLDER).join("tw/stray.py"), "").unwrap();
        assert!(is_stale(root.path()));
        write(root.path()).unwrap();
        assert!(!is_stale(root.path()));
        assert!(!root.path().join(FOLDER).join("tw/stray.py").exists());
    }
}

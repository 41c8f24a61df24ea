//! The secret that callers over TCP show.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::RunError;
use crate::random;

/// The least a token may have, in characters.
const LENGTH_MIN: usize = 32;

/// A secret. It is never shown, not even for debugging.
pub(crate) struct Token(blake3::Hash);

impl Token {
    /// Reads the token, making one where there is none. Only the file's owner may read it.
    pub(crate) fn load(path: &Path) -> Result<Token, RunError> {
        match fs::read_to_string(path) {
            Ok(text) => Token::keep(path, text.trim()),
            Err(missing) if missing.kind() == ErrorKind::NotFound => Token::create(path),
            Err(source) => Err(RunError::io("reading", path)(source)),
        }
    }

    fn keep(path: &Path, text: &str) -> Result<Token, RunError> {
        if text.len() < LENGTH_MIN {
            return Err(RunError::Token { path: path.into() });
        }
        fs::set_permissions(path, Permissions::from_mode(0o600))
            .map_err(RunError::io("protecting", path))?;
        Ok(Token::of(text))
    }

    fn create(path: &Path) -> Result<Token, RunError> {
        let text = random::hex::<32>().map_err(RunError::io("reading", "/dev/urandom"))?;
        let draft = path.with_extension("token.new");
        let _ = fs::remove_file(&draft);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| {
                writeln!(file, "{text}")?;
                file.sync_all()
            })
            .and_then(|()| fs::rename(&draft, path))
            .map_err(RunError::io("creating", path))?;
        Ok(Token::of(&text))
    }

    /// Compares in a time that says nothing of where two tokens differ.
    pub(crate) fn matches(&self, shown: &str) -> bool {
        // Hashes are compared in constant time.
        self.0 == blake3::hash(shown.as_bytes())
    }

    fn of(text: &str) -> Token {
        Token(blake3::hash(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("controller.token");
        Token::load(&path).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text.trim().len(), 64);
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );

        let again = Token::load(&path).unwrap();
        assert!(again.matches(text.trim()));
        assert!(!again.matches("") && !again.matches(&text.trim()[1..]));
    }

    #[test]
    fn a_file_without_a_token_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("controller.token");
        fs::write(&path, "\n").unwrap();
        assert!(matches!(Token::load(&path), Err(RunError::Token { .. })));
    }
}

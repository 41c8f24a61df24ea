//! What a helper says that no record has a place for: into its task's `helper.log`, which is made with the first word, as
//! most have nothing to say.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

const LOG_FILE: &str = "helper.log";

/// Set where standard error is not the place.
static LOG: OnceLock<PathBuf> = OnceLock::new();

/// Has everything said from here on go to the task in `folder`, the words of a panic included.
pub(super) fn go_to(folder: &Path) {
    if LOG.set(folder.join(LOG_FILE)).is_ok() {
        std::panic::set_hook(Box::new(|panic| say(&panic.to_string())));
    }
}

/// Says something, to standard error where no task's folder was named.
pub fn say(words: &str) {
    let text = format!("tw-helper: {words}\n");
    // Nobody is left to say it to if that fails.
    let _written = match LOG.get() {
        Some(path) => append(path, &text),
        None => io::stderr().write_all(text.as_bytes()),
    };
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    let mut log = File::options().create(true).append(true).open(path)?;
    log.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{LOG_FILE, go_to, say};

    #[test]
    fn the_log_is_made_with_the_first_word_and_has_panics_in_it() {
        let folder = tempfile::tempdir().unwrap();
        go_to(folder.path());
        let log = folder.path().join(LOG_FILE);
        assert!(!log.exists());
        say("one");
        let panicked = std::thread::spawn(|| panic!("two")).join();
        assert!(panicked.is_err());
        let said = std::fs::read_to_string(log).unwrap();
        assert!(said.starts_with("tw-helper: one\n"), "{said}");
        assert!(said.contains("two"), "{said}");
    }
}

//! Where in a job a value stands.

use std::fmt;

/// The place of a value in a job, as in the JSON of `tw eval`: `resources.memory_bytes`, `env.KEY`, `health[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FieldPath(String);

impl FieldPath {
    pub fn root() -> FieldPath {
        FieldPath::default()
    }

    pub fn field(&self, name: &str) -> FieldPath {
        match self.0.is_empty() {
            true => FieldPath(name.to_owned()),
            false => FieldPath(format!("{}.{name}", self.0)),
        }
    }

    pub fn item(&self, key: impl fmt::Display) -> FieldPath {
        FieldPath(format!("{}[{key}]", self.0))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of what holds this value; none for the job itself.
    pub fn parent(path: &str) -> Option<&str> {
        let cut = path.rfind(['.', '[']);
        match cut {
            Some(at) => Some(&path[..at]),
            None if path.is_empty() => None,
            None => Some(""),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

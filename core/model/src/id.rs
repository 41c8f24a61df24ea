//! Names of jobs, tasks and machines.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest a name may be, in bytes; short enough for a DNS label.
const NAME_LENGTH_MAX: usize = 63;

/// Why a text is not the id it was taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error(
        "'{found}' is not a name: use 1 to 63 lower-case letters, digits and '-', beginning with a letter and not ending in '-'"
    )]
    Name { found: String },
    #[error(
        "'{found}' is not a task: write JOB.INDEX, JOB.INDEX#INCARNATION or NAMESPACE/JOB.INDEX"
    )]
    Task { found: String },
}

/// A name of a job, namespace, machine or port: a DNS label in lower case.
///
/// Shared, because the same few names are in millions of rows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(Arc<str>);

impl Name {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_valid(text: &str) -> bool {
        (1..=NAME_LENGTH_MAX).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && !text.ends_with('-')
            && text
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    }
}

impl FromStr for Name {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Name, IdError> {
        match Name::is_valid(text) {
            true => Ok(Name(text.into())),
            false => Err(IdError::Name {
                found: text.to_owned(),
            }),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The name of a machine.
pub type MachineId = Name;

/// Counts the placements of a job; never used twice within a job.
pub type Incarnation = u64;

/// Counts the specs a job has had, from 1.
pub type Version = u64;

/// A job: a name within a namespace. Shown `web`, or `team/web` outside the default namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    pub namespace: Name,
    pub name: Name,
}

/// The namespace of jobs that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

impl JobId {
    pub fn new(namespace: Name, name: Name) -> JobId {
        JobId { namespace, name }
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        self.write_to(&mut text);
        text
    }

    fn write_to(&self, text: &mut String) {
        if self.namespace.as_str() != DEFAULT_NAMESPACE {
            text.push_str(self.namespace.as_str());
            text.push('/');
        }
        text.push_str(self.name.as_str());
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl FromStr for JobId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<JobId, IdError> {
        let (namespace, name) = text.split_once('/').unwrap_or((DEFAULT_NAMESPACE, text));
        Ok(JobId::new(namespace.parse()?, name.parse()?))
    }
}

/// One placement of one index of a job. Shown `web.3#7`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub job: JobId,
    pub index: u32,
    pub incarnation: Incarnation,
}

impl TaskId {
    pub fn new(job: JobId, index: u32, incarnation: Incarnation) -> TaskId {
        TaskId {
            job,
            index,
            incarnation,
        }
    }

    /// A name fit for a folder, a cgroup and a host name: `default.web.3.7`.
    pub fn folder_name(&self) -> String {
        format!(
            "{}.{}.{}.{}",
            self.job.namespace, self.job.name, self.index, self.incarnation
        )
    }

    fn text(&self) -> String {
        let mut text = String::with_capacity(64);
        self.job.write_to(&mut text);
        text.push('.');
        write_number(&mut text, u64::from(self.index), 1);
        text.push('#');
        write_number(&mut text, self.incarnation, 1);
        text
    }

    /// Reads what [`TaskId::folder_name`] wrote.
    pub fn from_folder_name(text: &str) -> Option<TaskId> {
        let mut parts = text.split('.');
        let id = TaskId {
            job: JobId::new(parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
            index: parts.next()?.parse().ok()?,
            incarnation: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(id)
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text())
    }
}

impl FromStr for TaskId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<TaskId, IdError> {
        let refuse = || IdError::Task {
            found: text.to_owned(),
        };
        let (place, incarnation) = text.split_once('#').ok_or_else(refuse)?;
        let (job, index) = place.rsplit_once('.').ok_or_else(refuse)?;
        Ok(TaskId {
            job: job.parse()?,
            index: index.parse().map_err(|_| refuse())?,
            incarnation: incarnation.parse().map_err(|_| refuse())?,
        })
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.text())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$name, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(JobId);
as_text!(TaskId);

/// Writes a number with at least so many digits. Keys and ids are written for every row that is stored, for which the
/// formatting of the standard library takes several times as long.
pub(crate) fn write_number(text: &mut String, number: u64, digits: usize) {
    let mut buffer = [b'0'; 20];
    let mut first = buffer.len();
    let mut left = number;
    while left > 0 || first + digits > buffer.len() {
        first -= 1;
        buffer[first] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    buffer[first..]
        .iter()
        .for_each(|digit| text.push(char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_show() {
        for text in ["web.3#7", "team/web.0#1"] {
            let id: TaskId = text.parse().unwrap();
            assert_eq!(id.to_string(), text);
            assert_eq!(TaskId::from_folder_name(&id.folder_name()), Some(id));
        }
    }

    #[test]
    fn numbers_are_written_as_the_standard_library_writes_them() {
        for number in [0, 7, 10, 99, 1_234_567_890, 12_345_678_901, u64::MAX] {
            for digits in [1, 10, 20] {
                let mut text = String::new();
                write_number(&mut text, number, digits);
                assert_eq!(text, format!("{number:0digits$}"));
            }
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web-1", "x9"] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "9a", "-a", "a-", "A", "a_b", "a.b", &"a".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }
}

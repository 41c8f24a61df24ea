//! How far a rollout goes before it waits and looks.

use std::fmt;

use serde_json::Value;

use crate::{Decoder, FieldPath, SpecType};

/// A number of tasks, or a share of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Tasks(u32),
    Percent(u8),
}

impl Stage {
    /// How many of `replicas` tasks this stage covers: at least one, at most all.
    pub fn tasks(self, replicas: u32) -> u32 {
        let wanted = match self {
            Stage::Tasks(count) => count,
            Stage::Percent(percent) => {
                (u64::from(replicas) * u64::from(percent)).div_ceil(100) as u32
            }
        };
        wanted.clamp(1, replicas.max(1))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Tasks(count) => write!(f, "{count}"),
            Stage::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl SpecType for Stage {
    fn python_type() -> String {
        "int | str".to_owned()
    }

    fn to_python(&self) -> String {
        match self {
            Stage::Tasks(count) => count.to_string(),
            Stage::Percent(percent) => format!("\"{percent}%\""),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Stage::Tasks(count) => (*count).into(),
            Stage::Percent(_) => self.to_string().into(),
        }
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Stage> {
        if let Some(stage) = read(value) {
            return Some(stage);
        }
        decoder.wrong_type(
            value,
            at,
            "a number of tasks such as 1, or a share such as \"10%\"",
        )
    }
}

fn read(value: &Value) -> Option<Stage> {
    if let Some(count) = value.as_u64() {
        return u32::try_from(count)
            .ok()
            .filter(|count| *count > 0)
            .map(Stage::Tasks);
    }
    let percent: u8 = value.as_str()?.strip_suffix('%')?.parse().ok()?;
    (1..=100)
        .contains(&percent)
        .then_some(Stage::Percent(percent))
}

impl serde::Serialize for Stage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}

impl<'de> serde::Deserialize<'de> for Stage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Stage, D::Error> {
        let value = Value::deserialize(deserializer)?;
        read(&value).ok_or_else(|| serde::de::Error::custom(format_args!("{value} is not a stage")))
    }
}

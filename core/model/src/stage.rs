//! How far a rollout goes before it waits and looks.

use std::fmt;

use serde_json::Value;

use crate::{Decoder, Domain, FieldPath, SpecType};

/// A number of tasks, a share of them, or all of a part of the fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Tasks(u32),
    Percent(u8),
    /// The tasks in the part of this kind in which the update began.
    Within(Domain),
}

impl Stage {
    /// How many of `replicas` tasks this stage covers: at least one, at most all. `within` counts those in the part of a
    /// kind in which the update began.
    pub fn tasks(self, replicas: u32, within: impl Fn(Domain) -> u32) -> u32 {
        let wanted = match self {
            Stage::Tasks(count) => count,
            Stage::Percent(percent) => {
                (u64::from(replicas) * u64::from(percent)).div_ceil(100) as u32
            }
            Stage::Within(domain) => within(domain),
        };
        wanted.clamp(1, replicas.max(1))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stage::Tasks(count) => write!(f, "{count}"),
            Stage::Percent(percent) => write!(f, "{percent}%"),
            Stage::Within(domain) => f.write_str(domain.as_str()),
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
            Stage::Percent(_) | Stage::Within(_) => format!("\"{self}\""),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Stage::Tasks(count) => (*count).into(),
            Stage::Percent(_) | Stage::Within(_) => self.to_string().into(),
        }
    }

    fn from_author(value: &Value, at: &FieldPath, decoder: &mut Decoder) -> Option<Stage> {
        if let Some(stage) = read(value) {
            return Some(stage);
        }
        decoder.wrong_type(
            value,
            at,
            "a number of tasks such as 1, a share such as \"10%\", or a part of the fleet such as \"cluster\"",
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
    let domain = serde_json::from_value(value.clone()).ok();
    if let Some(domain) = domain.filter(|_| value.is_string()) {
        return Some(Stage::Within(domain));
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

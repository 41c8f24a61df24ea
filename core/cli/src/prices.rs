//! The price table that commands read: a TOML file with a table `[prices]`.

use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use tw_model::Prices;

#[derive(Debug, Deserialize)]
struct PriceFile {
    prices: Prices,
}

/// Reads a table. Entries that it lacks are missed only when something is to be priced with them.
pub(crate) fn read(path: &Path) -> anyhow::Result<Prices> {
    let reading = || format!("reading the prices in {}", path.display());
    let text = std::fs::read_to_string(path).with_context(reading)?;
    let file: PriceFile = toml::from_str(&text).with_context(reading)?;
    Ok(file.prices)
}

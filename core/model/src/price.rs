//! What resources cost for a month, in whatever money.

use serde::Deserialize;

/// A price table, as its author wrote it: the table `[prices]` of a TOML file. Entries may be missing until they are
/// needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    pub cpu_core_month: Option<f64>,
    pub memory_gib_month: Option<f64>,
    pub disk_gib_month: Option<f64>,
}

/// A price that is needed and not in the table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the price table has no usable {entry}, and {needed_for} is to be priced")]
pub struct PriceHole {
    /// The entry that is missing or negative.
    pub entry: &'static str,
    /// What would be priced with it.
    pub needed_for: &'static str,
}

impl Prices {
    /// The price of so much more, or less, for a month. Amounts of zero need no price.
    pub fn month(
        &self,
        cpu_millicores: i64,
        memory_bytes: i64,
        disk_bytes: i64,
    ) -> Result<f64, PriceHole> {
        let gib = |bytes: i64| bytes as f64 / (1_u64 << 30) as f64;
        let amounts = [
            (
                cpu_millicores as f64 / 1000.0,
                self.cpu_core_month,
                "cpu_core_month",
                "cpu",
            ),
            (
                gib(memory_bytes),
                self.memory_gib_month,
                "memory_gib_month",
                "memory",
            ),
            (
                gib(disk_bytes),
                self.disk_gib_month,
                "disk_gib_month",
                "disk",
            ),
        ];
        let mut sum = 0.0;
        for (amount, price, entry, needed_for) in amounts {
            if amount == 0.0 {
                continue;
            }
            let price = price.filter(|price| price.is_finite() && *price >= 0.0);
            sum += amount * price.ok_or(PriceHole { entry, needed_for })?;
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: i64 = 1 << 30;

    #[test]
    fn a_hole_is_named_only_where_it_matters() {
        let prices = Prices {
            cpu_core_month: Some(20.0),
            memory_gib_month: Some(3.0),
            disk_gib_month: None,
        };
        assert_eq!(prices.month(1500, -2 * GIB, 0), Ok(24.0));
        let hole = prices.month(0, 0, GIB).expect_err("no price for disk");
        assert_eq!(hole.entry, "disk_gib_month");
        let negative = Prices {
            memory_gib_month: Some(-1.0),
            ..prices
        };
        assert_eq!(
            negative.month(0, GIB, 0).map_err(|hole| hole.entry),
            Err("memory_gib_month")
        );
    }
}

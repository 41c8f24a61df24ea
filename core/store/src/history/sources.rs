//! Which samples of each source were counted, so that a repeated one is not counted again.
//!
//! A source's sequence numbers may arrive late and out of order: beside the highest, a bit mask remembers
//! the 64 below it.

use rusqlite::{Connection, OptionalExtension, params};

use super::Sample;

/// Bit n is set if `highest - 1 - n` was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    highest: u64,
    below: u64,
}

impl Seen {
    fn first(seq: u64) -> Self {
        Seen {
            highest: seq,
            below: 0,
        }
    }

    /// Returns what has been seen with `seq` added, or `None` if it was there or is too old to tell.
    fn with(self, seq: u64) -> Option<Self> {
        let Seen { highest, below } = self;
        if seq > highest {
            let ahead = u32::try_from(seq - highest).unwrap_or(u32::MAX);
            let shifted = below.checked_shl(ahead).unwrap_or(0);
            let old_highest = 1_u64.checked_shl(ahead - 1).unwrap_or(0);
            return Some(Seen {
                highest: seq,
                below: shifted | old_highest,
            });
        }
        let behind = u32::try_from(highest - seq).ok()?.checked_sub(1)?;
        let bit = 1_u64.checked_shl(behind)?;
        (below & bit == 0).then_some(Seen {
            highest,
            below: below | bit,
        })
    }
}

/// Notes a sample and returns whether it is new.
pub(super) fn note(
    connection: &Connection,
    series: i64,
    sample: &Sample,
) -> rusqlite::Result<bool> {
    let old = connection
        .prepare_cached(
            "SELECT highest_seq, seen_below FROM source WHERE series = ?1 AND name = ?2",
        )?
        .query_row(params![series, sample.source], |row| {
            Ok(Seen {
                highest: row.get(0)?,
                below: row.get::<_, i64>(1)?.cast_unsigned(),
            })
        })
        .optional()?;
    let Some(new) = old.map_or(Some(Seen::first(sample.seq)), |old| old.with(sample.seq)) else {
        return Ok(false);
    };
    connection
        .prepare_cached(
            "INSERT INTO source VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT (series, name) DO UPDATE SET
                 highest_seq = excluded.highest_seq,
                 seen_below = excluded.seen_below,
                 last_us = max(last_us, excluded.last_us)",
        )?
        .execute(params![
            series,
            sample.source,
            new.highest,
            new.below.cast_signed(),
            sample.at_us
        ])?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::Seen;

    proptest! {
        #[test]
        fn a_number_near_the_highest_counts_exactly_once(seqs in prop::collection::vec(1000_u64..1060, 1..200)) {
            let mut seen: Option<Seen> = None;
            let mut counted = HashSet::new();
            for seq in seqs {
                let next = seen.map_or(Some(Seen::first(seq)), |seen| seen.with(seq));
                prop_assert_eq!(next.is_some(), counted.insert(seq));
                seen = next.or(seen);
            }
        }
    }

    #[test]
    fn a_number_far_below_the_highest_counts_as_repeated() {
        let seen = Seen::first(1).with(1_000_000).expect("higher is new");
        assert_eq!(seen.with(2), None);
        assert_eq!(seen.with(1_000_000), None);
        assert!(seen.with(999_936).is_some());
        assert_eq!(seen.with(999_935), None);
    }
}

//! The buckets of a history.

use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tw_model::{Cores, CpuCounts};

use super::{Bucket, Usage};

/// Reads the number of buckets and the width of the widest.
pub(super) fn totals(connection: &Connection) -> rusqlite::Result<(u64, i64)> {
    connection.query_row(
        "SELECT count(*), coalesce(max(width_us), 0) FROM bucket",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Adds what was measured at `at_us` to its bucket and returns how many buckets that made: one or none.
pub(super) fn add(
    connection: &Connection,
    series: i64,
    at_us: i64,
    width_us: i64,
    usage: &Usage,
) -> rusqlite::Result<u64> {
    let start_us = at_us.div_euclid(width_us).saturating_mul(width_us);
    let had = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM bucket WHERE series = ?1 AND start_us = ?2 AND width_us = ?3"
        ))?
        .query_row((series, start_us, width_us), read)
        .optional()?;
    let made = u64::from(had.is_none());
    let mut sum = had.map(|bucket| bucket.usage).unwrap_or_default();
    sum.merge(usage);
    connection
        .prepare_cached(&format!(
            "INSERT OR REPLACE INTO bucket (series, {COLUMNS})
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        ))?
        .execute(params![
            series,
            start_us,
            width_us,
            sum.samples,
            sum.cpu_sum_millicores,
            sum.cpu_max_millicores,
            sum.memory_max_bytes,
            sum.oom_kills,
            sum.throttled_us,
            sum.cpu.to_bytes(),
            sum.stalled_us,
            sum.disk_bytes,
            sum.network_bytes,
            sum.starts,
            sum.ends,
            sum.ran_ms,
        ])?;
    Ok(made)
}

/// Reads the buckets of a series that overlap `[from_us, to_us)`, none of which is wider than `widest_us`.
pub(super) fn range(
    connection: &Connection,
    series: &str,
    from_us: i64,
    to_us: i64,
    widest_us: i64,
) -> rusqlite::Result<Vec<Bucket>> {
    connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS} FROM bucket
             WHERE series = (SELECT id FROM series WHERE key = ?1)
                 AND start_us > ?2 AND start_us < ?3 AND start_us + width_us > ?4
             ORDER BY start_us, width_us"
        ))?
        .query_map(
            params![series, from_us.saturating_sub(widest_us), to_us, from_us],
            read,
        )?
        .collect()
}

const COLUMNS: &str = "start_us, width_us, samples, cpu_sum_millicores, cpu_max_millicores,
    memory_max_bytes, oom_kills, throttled_us, cpu_counts, stalled_us, disk_bytes, network_bytes,
    starts, ends, ran_ms";

fn read(row: &Row<'_>) -> rusqlite::Result<Bucket> {
    let counts: Vec<u8> = row.get(8)?;
    let mut usage = Usage {
        samples: row.get(2)?,
        cpu: CpuCounts::from_bytes(&counts).unwrap_or_default(),
        cpu_sum_millicores: row.get(3)?,
        cpu_max_millicores: row.get(4)?,
        memory_max_bytes: row.get(5)?,
        oom_kills: row.get(6)?,
        throttled_us: row.get(7)?,
        stalled_us: row.get(9)?,
        disk_bytes: row.get(10)?,
        network_bytes: row.get(11)?,
        starts: row.get(12)?,
        ends: row.get(13)?,
        ran_ms: row.get(14)?,
    };
    if counts.is_empty() && usage.samples > 0 {
        usage.cpu = counts_of_mean(&usage);
    }
    Ok(Bucket {
        start_us: row.get(0)?,
        width_us: row.get(1)?,
        usage,
    })
}

/// What a bucket without counts, as the first format had them, comes nearest to: one sample at its highest use, the
/// others at the mean.
fn counts_of_mean(usage: &Usage) -> CpuCounts {
    let mut counts = CpuCounts::default();
    let mean = Cores(usage.cpu_sum_millicores / usage.samples.max(1));
    for _ in 1..usage.samples.min(100_000) {
        counts.add(mean);
    }
    counts.add(Cores(usage.cpu_max_millicores));
    counts
}

/// Folds buckets that end at or before `older_than_us` into wider ones, oldest first and at most `count` of them;
/// returns how many buckets fewer there are.
pub(super) fn widen(
    connection: &Connection,
    older_than_us: i64,
    width_us: i64,
    count: u64,
) -> rusqlite::Result<u64> {
    let narrow: Vec<(i64, Bucket)> = connection
        .prepare_cached(&format!(
            "SELECT {COLUMNS}, series FROM bucket
             WHERE start_us + width_us <= ?1 AND width_us < ?2 ORDER BY start_us LIMIT ?3"
        ))?
        .query_map((older_than_us, width_us, count), |row| {
            Ok((row.get(15)?, read(row)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut fewer = narrow.len() as u64;
    for (series, bucket) in &narrow {
        connection
            .prepare_cached(
                "DELETE FROM bucket WHERE series = ?1 AND start_us = ?2 AND width_us = ?3",
            )?
            .execute((series, bucket.start_us, bucket.width_us))?;
        fewer -= add(
            connection,
            *series,
            bucket.start_us,
            width_us,
            &bucket.usage,
        )?;
    }
    Ok(fewer)
}

/// Drops the `count` oldest buckets of all series and returns how many there were.
pub(super) fn drop_oldest(connection: &Connection, count: u64) -> rusqlite::Result<u64> {
    if count == 0 {
        return Ok(0);
    }
    let dropped = connection
        .prepare_cached(
            "DELETE FROM bucket WHERE (series, start_us, width_us) IN (
                 SELECT series, start_us, width_us FROM bucket ORDER BY start_us LIMIT ?1
             )",
        )?
        .execute([count])?;
    Ok(dropped as u64)
}

/// Drops the buckets that end at or before `older_than_us` and returns how many there were.
pub(super) fn drop_older(connection: &Connection, older_than_us: i64) -> rusqlite::Result<u64> {
    let dropped = connection
        .prepare_cached("DELETE FROM bucket WHERE start_us < ?1 AND start_us + width_us <= ?1")?
        .execute([older_than_us])?;
    Ok(dropped as u64)
}

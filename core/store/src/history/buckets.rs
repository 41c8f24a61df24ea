//! The buckets of a history.

use rusqlite::{Connection, Row, params};

use super::{Bucket, Sample};

/// Reads the number of buckets and the width of the widest.
pub(super) fn totals(connection: &Connection) -> rusqlite::Result<(u64, i64)> {
    connection.query_row(
        "SELECT count(*), coalesce(max(width_us), 0) FROM bucket",
        [],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Adds a sample to its bucket and returns how many buckets that made: one or none.
pub(super) fn add(
    connection: &Connection,
    series: i64,
    sample: &Sample,
    width_us: i64,
) -> rusqlite::Result<u64> {
    let start_us = sample.at_us.div_euclid(width_us).saturating_mul(width_us);
    let values = params![
        series,
        start_us,
        width_us,
        sample.cpu_millicores,
        sample.memory_bytes,
        sample.oom_kills,
        sample.throttled_us,
    ];
    let merged = connection
        .prepare_cached(
            "UPDATE bucket SET
                 samples = samples + 1,
                 cpu_sum_millicores = cpu_sum_millicores + ?4,
                 cpu_max_millicores = max(cpu_max_millicores, ?4),
                 memory_max_bytes = max(memory_max_bytes, ?5),
                 oom_kills = oom_kills + ?6,
                 throttled_us = throttled_us + ?7
             WHERE series = ?1 AND start_us = ?2 AND width_us = ?3",
        )?
        .execute(values)?;
    if merged > 0 {
        return Ok(0);
    }
    connection
        .prepare_cached("INSERT INTO bucket VALUES (?1, ?2, ?3, 1, ?4, ?4, ?5, ?6, ?7)")?
        .execute(values)?;
    Ok(1)
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
        .prepare_cached(
            "SELECT start_us, width_us, samples, cpu_sum_millicores, cpu_max_millicores,
                    memory_max_bytes, oom_kills, throttled_us
             FROM bucket
             WHERE series = (SELECT id FROM series WHERE key = ?1)
                 AND start_us > ?2 AND start_us < ?3 AND start_us + width_us > ?4
             ORDER BY start_us, width_us",
        )?
        .query_map(
            params![series, from_us.saturating_sub(widest_us), to_us, from_us],
            read,
        )?
        .collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Bucket> {
    Ok(Bucket {
        start_us: row.get(0)?,
        width_us: row.get(1)?,
        samples: row.get(2)?,
        cpu_sum_millicores: row.get(3)?,
        cpu_max_millicores: row.get(4)?,
        memory_max_bytes: row.get(5)?,
        oom_kills: row.get(6)?,
        throttled_us: row.get(7)?,
    })
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

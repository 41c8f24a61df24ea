//! Opening the store, and reading its rows with suspicion.

use std::sync::Arc;

use tw_model::{RECORD_FORMAT, Record};
use tw_store::{BootClock, Kv, SqliteOptions, SqliteStore, Store, Txn};

use crate::config::ControllerConfig;
use crate::error::{RecordsError, RunError};

/// The key of the record format's number.
const FORMAT_KEY: &str = "meta/format";

/// Opens the store of a controller; a new one gets the newest record format.
pub(crate) async fn open_store(config: &ControllerConfig) -> Result<Arc<dyn Store>, RunError> {
    let path = config.store_path();
    let opened = tokio::task::spawn_blocking(move || {
        SqliteStore::open(&path, Arc::new(BootClock), SqliteOptions::default())
    });
    let store = opened.await.map_err(|source| RunError::Panicked {
        task: "opening of the store",
        source,
    })??;
    let (_, rows) = store.list("").await?;
    if rows.is_empty() {
        let format = Txn::new()
            .if_absent(FORMAT_KEY)
            .put(FORMAT_KEY, RECORD_FORMAT.to_string());
        store.commit(format).await?;
    }
    Ok(Arc::new(store))
}

/// Reads all records. Refuses rows of a newer format, of an unknown kind, or that cannot be read.
pub(super) async fn list(store: &dyn Store) -> Result<Vec<Record>, RunError> {
    let (_, rows) = store.list("").await?;
    Ok(decode(&rows)?)
}

fn decode(rows: &[Kv]) -> Result<Vec<Record>, RecordsError> {
    check_format(rows)?;
    rows.iter()
        .filter(|row| &*row.key != FORMAT_KEY)
        .map(|row| {
            let record = Record::decode(&row.key, &row.value)?;
            let belongs = record.key().to_string();
            match *belongs == *row.key {
                true => Ok(record),
                false => Err(RecordsError::Misplaced {
                    key: row.key.to_string(),
                    belongs,
                }),
            }
        })
        .collect()
}

fn check_format(rows: &[Kv]) -> Result<(), RecordsError> {
    let row = rows
        .iter()
        .find(|row| &*row.key == FORMAT_KEY)
        .ok_or(RecordsError::NoFormat { rows: rows.len() })?;
    let text = String::from_utf8_lossy(&row.value);
    let found = text.parse().map_err(|_| RecordsError::BadFormat {
        found: text.into_owned(),
    })?;
    match found {
        found if found <= RECORD_FORMAT => Ok(()),
        found => Err(RecordsError::Newer {
            found,
            known: RECORD_FORMAT,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tw_store::Rev;

    fn row(key: &str, value: &str) -> Kv {
        Kv {
            key: key.into(),
            value: value.to_owned().into(),
            mod_rev: Rev(1),
            create_rev: Rev(1),
        }
    }

    #[test]
    fn rows_of_other_releases_are_refused_whole() {
        let format = row(FORMAT_KEY, "1");
        assert!(decode(std::slice::from_ref(&format)).unwrap().is_empty());
        let newer = decode(&[row(FORMAT_KEY, "2")]).unwrap_err();
        assert!(newer.to_string().contains("format 2"), "{newer}");
        assert!(decode(&[row("job/default/web", "{}")]).is_err());
        assert!(decode(&[format.clone(), row("lease/x", "{}")]).is_err());
        assert!(decode(&[format, row("job/default/web", "{\"later\":1}")]).is_err());
    }
}

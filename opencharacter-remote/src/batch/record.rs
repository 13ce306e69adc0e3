//! What is kept of submitted batches, so that a killed run pays for nothing twice.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use opencharacter_core::short_id;
use opencharacter_storage::{AtomicFile, sync_directory_of};
use serde::{Deserialize, Serialize};

use crate::{RemoteError, batch::request_line::CustomId};

/// Providers delete a batch's files after 30 days.
const OUTDATED_SECONDS: u64 = 31 * 24 * 3600;

/// A batch that was submitted, or was about to be: an uploaded file without a batch's id may have become a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) endpoint: String,
    pub(crate) model: String,
    pub(crate) input_file_id: String,
    pub(crate) batch_id: Option<String>,
    /// Seconds since 1970.
    pub(crate) submitted_at: u64,
    /// Request fields that were known not to be taken: without them, equal requests would have other ids.
    pub(crate) left_out: Vec<String>,
    pub(crate) custom_ids: Vec<CustomId>,
}

/// The folder of records, for one endpoint and model.
#[derive(Debug, Clone)]
pub(crate) struct Records {
    folder: PathBuf,
    endpoint: String,
    model: String,
}

impl Records {
    /// Makes the folder where it is missing and locks it, for as long as the file lives.
    pub(crate) fn open(folder: &Path, endpoint: &str, model: &str) -> Result<(Self, File), RemoteError> {
        let fault = |reason: String| RemoteError::Folder { folder: folder.to_owned(), reason };
        let lock = fs::create_dir_all(folder)
            .and_then(|()| File::create(folder.join("lock")))
            .map_err(|error| fault(format!("{error}; choose a folder that may be written")))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(fault("another process uses it; wait for that one, or choose another folder".into()));
            }
            Err(TryLockError::Error(error)) => return Err(fault(format!("it cannot be locked: {error}"))),
        }
        Ok((Self { folder: folder.to_owned(), endpoint: endpoint.to_owned(), model: model.to_owned() }, lock))
    }

    /// A record of an uploaded file, not yet written.
    pub(crate) fn record(&self, input_file_id: String, left_out: Vec<String>, custom_ids: Vec<CustomId>) -> Record {
        Record {
            endpoint: self.endpoint.clone(),
            model: self.model.clone(),
            input_file_id,
            batch_id: None,
            submitted_at: now(),
            left_out,
            custom_ids,
        }
    }

    /// The records of this endpoint and model, the oldest first. Outdated ones are removed.
    pub(crate) fn load(&self) -> Result<Vec<Record>, RemoteError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(|error| self.fault(&error))? {
            let path = entry.map_err(|error| self.fault(&error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !(name.starts_with("batch-") && name.ends_with(".json")) {
                continue;
            }
            let bytes = fs::read(&path).map_err(|error| self.fault(&error))?;
            let record: Record = serde_json::from_slice(&bytes).map_err(|error| {
                let reason = format!(
                    "`{name}` is no record of a batch ({error}); remove it, and what it stands for is submitted anew"
                );
                RemoteError::Folder { folder: self.folder.clone(), reason }
            })?;
            if now().saturating_sub(record.submitted_at) > OUTDATED_SECONDS {
                fs::remove_file(&path).map_err(|error| self.fault(&error))?;
            } else if record.endpoint == self.endpoint && record.model == self.model {
                records.push(record);
            }
        }
        records.sort_by(|left, right| {
            (left.submitted_at, &left.input_file_id).cmp(&(right.submitted_at, &right.input_file_id))
        });
        Ok(records)
    }

    fn fault(&self, error: &io::Error) -> RemoteError {
        RemoteError::Folder { folder: self.folder.clone(), reason: format!("{error}; it must be readable") }
    }

    /// Where a record lies.
    pub(crate) fn path(&self, record: &Record) -> PathBuf {
        self.folder.join(format!("{}.json", short_id("batch", &[&record.input_file_id])))
    }

    /// Writes a record whole, or leaves what was there.
    pub(crate) fn write(&self, record: &Record) -> io::Result<()> {
        let mut file = AtomicFile::create(self.path(record))?;
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
        file.commit()
    }

    /// Forgets a batch. One that cannot be removed is asked about again by the next run, which costs nothing.
    pub(crate) fn remove(&self, record: &Record) {
        let path = self.path(record);
        if fs::remove_file(&path).is_ok() {
            sync_directory_of(&path);
        }
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_kept_in_order_and_only_for_those_they_concern() {
        let folder = tempfile::tempdir().unwrap();
        let (records, _lock) = Records::open(folder.path(), "http://host/v1/", "m").unwrap();
        let later = Record { submitted_at: now() + 1, ..records.record("../file-2".into(), vec![], vec![]) };
        let first = records.record("file-1".into(), vec!["seed".into()], vec![CustomId::of(b"{}")]);
        let outdated = Record { submitted_at: 5, ..records.record("file-0".into(), vec![], vec![]) };
        let foreign = Record { model: "other".into(), ..records.record("file-3".into(), vec![], vec![]) };
        for record in [&later, &first, &outdated, &foreign] {
            records.write(record).unwrap();
        }
        assert_eq!(records.load().unwrap(), [first.clone(), later.clone()]);
        assert!(!records.path(&outdated).exists() && records.path(&foreign).exists());
        records.remove(&first);
        assert_eq!(records.load().unwrap(), [later]);
        fs::write(folder.path().join("batch-x.json"), "{").unwrap();
        let error = records.load().unwrap_err().to_string();
        assert!(error.contains("batch-x.json") && error.contains("remove it"), "{error}");
    }

    #[test]
    fn one_process_at_a_time_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (_, lock) = Records::open(folder.path(), "http://host/v1/", "m").unwrap();
        let error = Records::open(folder.path(), "http://host/v1/", "m").unwrap_err().to_string();
        assert!(error.contains("another process"), "{error}");
        drop(lock);
        Records::open(folder.path(), "http://host/v1/", "m").unwrap();
    }
}

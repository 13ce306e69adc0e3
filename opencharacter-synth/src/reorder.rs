//! Results that arrive in any order, handed on in the order of their items.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{RejectedItem, Sink, SynthError};

/// What came of one item.
#[derive(Serialize, Deserialize)]
pub(crate) enum Finished<T> {
    /// A row.
    Row(T),
    /// No row.
    Rejected(RejectedItem),
}

/// Where a result waits for its turn.
enum Waiting<T> {
    Here(Finished<T>),
    Spooled { offset: u64, length: usize },
}

/// Results that wait for those before them; a few in memory, the others in a temporary file.
///
/// One slow call holds up everything after it: at 5,000 rows a second and an answer that takes a minute, 300,000 rows
/// wait. They are a few hundred megabytes, which belong on disk.
pub(crate) struct Reorder<T> {
    next: usize,
    waiting: BTreeMap<usize, Waiting<T>>,
    here: usize,
    spool: Option<Spool>,
}

/// Results in memory before the others go to disk.
const HERE: usize = 4096;

impl<T: Serialize + DeserializeOwned> Reorder<T> {
    pub(crate) fn new() -> Self {
        Self { next: 0, waiting: BTreeMap::new(), here: 0, spool: None }
    }

    /// Takes the result of item `index` and hands on every result whose turn has come.
    pub(crate) async fn add(
        &mut self,
        index: usize,
        finished: Finished<T>,
        sink: &mut impl Sink<T>,
    ) -> Result<(), SynthError> {
        if index != self.next {
            let waiting = self.keep(finished)?;
            self.waiting.insert(index, waiting);
            return Ok(());
        }
        hand_on(finished, sink).await?;
        self.next += 1;
        while let Some(waiting) = self.waiting.remove(&self.next) {
            let finished = self.fetch(waiting)?;
            hand_on(finished, sink).await?;
            self.next += 1;
        }
        if self.waiting.is_empty()
            && let Some(spool) = &mut self.spool
        {
            spool.clear().map_err(SynthError::Spool)?;
        }
        Ok(())
    }

    /// Hands on what still waits for an item that never came.
    pub(crate) async fn finish(mut self, sink: &mut impl Sink<T>) -> Result<(), SynthError> {
        while let Some((_, waiting)) = self.waiting.pop_first() {
            let finished = self.fetch(waiting)?;
            hand_on(finished, sink).await?;
        }
        Ok(())
    }

    fn keep(&mut self, finished: Finished<T>) -> Result<Waiting<T>, SynthError> {
        if self.here < HERE {
            self.here += 1;
            return Ok(Waiting::Here(finished));
        }
        let spool = match &mut self.spool {
            Some(spool) => spool,
            None => self.spool.insert(Spool::new().map_err(SynthError::Spool)?),
        };
        let (offset, length) = serde_json::to_vec(&finished)
            .map_err(io::Error::from)
            .and_then(|bytes| spool.append(&bytes))
            .map_err(SynthError::Spool)?;
        Ok(Waiting::Spooled { offset, length })
    }

    fn fetch(&mut self, waiting: Waiting<T>) -> Result<Finished<T>, SynthError> {
        match (waiting, &mut self.spool) {
            (Waiting::Here(finished), _) => {
                self.here -= 1;
                Ok(finished)
            }
            (Waiting::Spooled { offset, length }, Some(spool)) => {
                let bytes = spool.read(offset, length).map_err(SynthError::Spool)?;
                serde_json::from_slice(&bytes).map_err(|error| SynthError::Spool(error.into()))
            }
            (Waiting::Spooled { .. }, None) => Err(SynthError::Spool(io::ErrorKind::NotFound.into())),
        }
    }
}

async fn hand_on<T>(finished: Finished<T>, sink: &mut impl Sink<T>) -> Result<(), SynthError> {
    match finished {
        Finished::Row(row) => sink.row(row).await,
        Finished::Rejected(item) => sink.rejected(item).await,
    }
}

/// A file without a name: gone with the process, however it ends.
struct Spool {
    file: File,
    length: u64,
}

impl Spool {
    fn new() -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile()?, length: 0 })
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<(u64, usize)> {
        let offset = self.length;
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.write_all(bytes)?;
        self.length += bytes.len() as u64;
        Ok((offset, bytes.len()))
    }

    fn read(&mut self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn clear(&mut self) -> io::Result<()> {
        if self.length > 0 {
            self.file.set_len(0)?;
            self.length = 0;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Collected;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// More than fit into memory, so that some go through the file.
        #[test]
        fn any_order_of_arrival_gives_the_order_of_items(order in Just((0..3 * HERE).collect::<Vec<_>>()).prop_shuffle()) {
            let mut reorder = Reorder::new();
            let mut sink = Collected::default();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            for index in order {
                let finished = if index % 7 == 0 {
                    Finished::Rejected(RejectedItem { item: index.to_string(), reasons: vec!["dull".into()], failed: false })
                } else {
                    Finished::Row(index)
                };
                runtime.block_on(reorder.add(index, finished, &mut sink)).unwrap();
                prop_assert!(reorder.here <= HERE);
            }
            runtime.block_on(reorder.finish(&mut sink)).unwrap();
            prop_assert_eq!(sink.rows, (0..3 * HERE).filter(|index| index % 7 != 0).collect::<Vec<_>>());
            prop_assert!(sink.rejected.iter().map(|item| item.item.parse::<usize>().unwrap()).eq((0..3 * HERE).step_by(7)));
        }
    }
}

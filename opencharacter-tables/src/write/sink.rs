use std::io::{self, Write};

use bytes::Bytes;
use datafusion::parquet::{arrow::async_writer::AsyncFileWriter, errors::ParquetError};
use futures_util::{FutureExt, future::BoxFuture};
use object_store::buffered::BufWriter;
use opencharacter_storage::AtomicFile;
use tokio::io::AsyncWriteExt;

use crate::place::{Place, blocking};

/// A file that appears when it is finished, and not at all if it is dropped before.
pub(super) struct Sink(Target);

enum Target {
    Local(AtomicFile),
    Remote(Box<BufWriter>),
    /// Finished, or given up after a failure.
    Closed,
}

impl Sink {
    pub(super) async fn create(place: &Place) -> io::Result<Self> {
        Ok(Self(match place.clone() {
            Place::Local(path) => Target::Local(blocking(move || AtomicFile::create(path)).await?),
            // Parts of an upload can be seen by nobody before it is completed.
            Place::Remote { store, path } => {
                Target::Remote(Box::new(BufWriter::new(store, path).with_max_concurrency(2)))
            }
        }))
    }

    pub(super) async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        match std::mem::replace(&mut self.0, Target::Closed) {
            Target::Local(mut file) => {
                let file = blocking(move || file.write_all(&bytes).map(|()| file)).await?;
                self.0 = Target::Local(file);
            }
            Target::Remote(mut upload) => {
                let put = upload.put(bytes).await;
                self.0 = Target::Remote(upload);
                put?;
            }
            Target::Closed => return Err(closed()),
        }
        Ok(())
    }

    pub(super) async fn finish(&mut self) -> io::Result<()> {
        match std::mem::replace(&mut self.0, Target::Closed) {
            Target::Local(file) => blocking(move || file.commit()).await,
            Target::Remote(mut upload) => upload.shutdown().await,
            Target::Closed => Err(closed()),
        }
    }
}

fn closed() -> io::Error {
    io::Error::other("nothing can follow a failed write")
}

impl Drop for Sink {
    fn drop(&mut self) {
        let Target::Remote(mut upload) = std::mem::replace(&mut self.0, Target::Closed) else { return };
        // Uploaded parts take up room until the upload is aborted. Without a runtime the store's own rules clear them.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // Nobody is left to be told.
                let _ = upload.abort().await;
            });
        }
    }
}

impl AsyncFileWriter for Sink {
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move { Self::write(self, bytes).await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }

    fn complete(&mut self) -> BoxFuture<'_, Result<(), ParquetError>> {
        async move { self.finish().await.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }
}

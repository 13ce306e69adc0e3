use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use datafusion::{
    arrow::{array::RecordBatch, datatypes::SchemaRef},
    parquet::{
        arrow::{ParquetRecordBatchStreamBuilder, arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
        errors::ParquetError,
        file::metadata::{ParquetMetaData, ParquetMetaDataReader},
    },
};
use futures_util::{FutureExt, StreamExt, TryFutureExt, TryStreamExt, future::BoxFuture, stream::BoxStream};

use crate::{
    TableError,
    panics::{caught, caught_once},
    place::Place,
};

/// Rows that are decoded at once: few enough that long dialogues take tens of megabytes at most.
const BATCH: usize = 1024;

/// A Parquet file whose footer was read.
pub(crate) struct ParquetFile {
    location: String,
    builder: ParquetRecordBatchStreamBuilder<PlaceReader>,
}

impl ParquetFile {
    pub(crate) async fn open(place: &Place, location: &str) -> Result<Self, TableError> {
        let failed = |source| TableError::Read { location: location.to_owned(), source };
        let length = place.length().await.map_err(failed)?;
        let reader = PlaceReader { place: place.clone(), length };
        let builder = ParquetRecordBatchStreamBuilder::new(reader).map_err(|error| fault(location, error));
        let builder = caught_once(builder, |reason| damaged(location, &reason)).await?;
        Ok(Self { location: location.to_owned(), builder })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        self.builder.schema()
    }

    /// The rows in the file's order; of the file, the pages of one row group are in memory.
    pub(crate) fn batches(self) -> Result<BoxStream<'static, Result<RecordBatch, TableError>>, TableError> {
        let location = self.location;
        let stream = self.builder.with_batch_size(BATCH).build().map_err(|error| fault(&location, error))?;
        let damaged_here = location.clone();
        let batches = stream.map_err(move |error| fault(&location, error));
        Ok(caught(batches, move |reason| damaged(&damaged_here, &reason)).boxed())
    }
}

fn damaged(location: &str, reason: &str) -> TableError {
    let reason = format!("expected a whole Parquet file, but {reason}");
    TableError::Damaged { location: location.to_owned(), reason }
}

fn fault(location: &str, error: ParquetError) -> TableError {
    match error {
        ParquetError::External(error) if error.is::<std::io::Error>() => {
            let source = error.downcast::<std::io::Error>().map_or_else(std::io::Error::other, |error| *error);
            TableError::Read { location: location.to_owned(), source }
        }
        error => damaged(location, &error.to_string()),
    }
}

struct PlaceReader {
    place: Place,
    length: u64,
}

impl PlaceReader {
    async fn part(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        if range.start > range.end || range.end > self.length {
            return Err(ParquetError::EOF(format!("bytes {range:?} of a file of {} bytes", self.length)));
        }
        self.place.range(range).await.map_err(|error| ParquetError::External(Box::new(error)))
    }
}

impl AsyncFileReader for PlaceReader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.part(range).boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let length = self.length;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            Ok(Arc::new(reader.load_and_finish(self, length).await?))
        }
        .boxed()
    }
}

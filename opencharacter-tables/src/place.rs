use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    ops::Range,
    path::PathBuf,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use object_store::{ObjectStore, ObjectStoreExt};

/// So many bytes are read of a local file at once.
const CHUNK: usize = 1 << 20;

/// Where a table's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    Local(PathBuf),
    Remote { store: Arc<dyn ObjectStore>, path: object_store::path::Path },
}

impl Place {
    /// The bytes from first to last, in pieces. A local file is read on tokio's threads for blocking work.
    pub(crate) async fn bytes(&self) -> io::Result<BoxStream<'static, io::Result<Bytes>>> {
        match self {
            Self::Local(path) => {
                let path = path.clone();
                let file = blocking(move || open(path)).await?;
                Ok(stream::try_unfold(file, |file| async { blocking(move || next_chunk(file)).await }).boxed())
            }
            Self::Remote { store, path } => {
                let found = store.get(path).await.map_err(io::Error::from)?;
                Ok(found.into_stream().map_err(io::Error::from).boxed())
            }
        }
    }

    /// How many bytes there are.
    ///
    /// # Errors
    /// A pipe has no length, and can be read once only.
    pub(crate) async fn length(&self) -> io::Result<u64> {
        match self {
            Self::Local(path) => {
                let path = path.clone();
                blocking(move || {
                    let metadata = open(path)?.metadata()?;
                    if metadata.is_file() {
                        return Ok(metadata.len());
                    }
                    Err(io::Error::other(
                        "it is no file but a stream, which can be read only once; a filter, a query and CSV or Parquet \
                         need a file",
                    ))
                })
                .await
            }
            Self::Remote { store, path } => Ok(store.head(path).await.map_err(io::Error::from)?.size),
        }
    }

    /// The bytes of a part.
    pub(crate) async fn range(&self, range: Range<u64>) -> io::Result<Bytes> {
        match self {
            Self::Local(path) => {
                let path = path.clone();
                blocking(move || {
                    let mut file = open(path)?;
                    file.seek(SeekFrom::Start(range.start))?;
                    let length = range.end.saturating_sub(range.start);
                    // Grows as bytes come in: a damaged file may ask for more than there is.
                    let mut bytes = Vec::new();
                    file.take(length).read_to_end(&mut bytes)?;
                    if bytes.len() as u64 != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    Ok(bytes.into())
                })
                .await
            }
            Self::Remote { store, path } => store.get_range(path, range).await.map_err(io::Error::from),
        }
    }
}

fn open(path: PathBuf) -> io::Result<File> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(io::Error::other("it is a folder; expected a file"));
    }
    Ok(file)
}

fn next_chunk(mut file: File) -> io::Result<Option<(Bytes, File)>> {
    let mut bytes = vec![0; CHUNK];
    let length = loop {
        match file.read(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    bytes.truncate(length);
    Ok((length > 0).then(|| (bytes.into(), file)))
}

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

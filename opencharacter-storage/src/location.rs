use std::{
    fmt,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use object_store::{ObjectStore, ObjectStoreExt as _, aws::AmazonS3Builder};
use opencharacter_core::without_credentials;
use sha2::{Digest as _, Sha256};
use url::Url;

use crate::AtomicFile;

/// A file or folder as a user writes it: a path, or `s3://BUCKET/KEY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// On this machine.
    Local(PathBuf),
    /// In an object store.
    Remote(Url),
}

/// An object store, and a path in it.
pub type InStore = (Arc<dyn ObjectStore>, object_store::path::Path);

/// Why a location cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// It is written like a URL, but not like one that is known.
    #[error("`{location}` is no place for files: {reason}. Expected a path or `s3://BUCKET/KEY`")]
    Location {
        /// As it was written, without a password.
        location: String,
        /// What is wrong with it.
        reason: String,
    },
    /// It cannot be read.
    #[error("cannot read `{location}`: {source}. Check that it exists and that you may read it")]
    Read {
        /// Where.
        location: String,
        /// What the system or the store said.
        source: io::Error,
    },
    /// It cannot be written; what was there before is as it was.
    #[error("cannot write `{location}`: {source}. Free space, or choose a place that may be written")]
    Write {
        /// Where.
        location: String,
        /// What the system or the store said.
        source: io::Error,
    },
    /// The store's settings do not work.
    #[error(
        "cannot use the object store of `{location}`: {source}. Its settings come from the environment: \
         `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, and for stores other than Amazon's `AWS_ENDPOINT` \
         (with `AWS_ALLOW_HTTP=true` for plain HTTP)"
    )]
    Settings {
        /// Where.
        location: String,
        /// What the client said.
        source: object_store::Error,
    },
}

impl Location {
    /// The store that holds it and its path in there; `None` for a local path.
    ///
    /// # Errors
    /// [`StorageError::Settings`].
    pub fn store(&self) -> Result<Option<InStore>, StorageError> {
        let Self::Remote(url) = self else { return Ok(None) };
        let failed = |source| StorageError::Settings { location: self.to_string(), source };
        let store = AmazonS3Builder::from_env().with_url(url.as_str()).build().map_err(failed)?;
        let path = object_store::path::Path::from_url_path(url.path()).map_err(|error| failed(error.into()))?;
        Ok(Some((Arc::new(store), path)))
    }

    /// The place of the same name with `ending` added: what belongs to a file lies beside it.
    #[must_use]
    pub fn with_ending(&self, ending: &str) -> Self {
        match self {
            Self::Local(path) => {
                let mut name = path.as_os_str().to_owned();
                name.push(ending);
                Self::Local(name.into())
            }
            Self::Remote(url) => {
                let mut url = url.clone();
                url.set_path(&format!("{}{ending}", url.path()));
                Self::Remote(url)
            }
        }
    }

    /// The whole content; `None` where there is no such file.
    ///
    /// # Errors
    /// [`StorageError::Settings`], [`StorageError::Read`].
    pub async fn read(&self) -> Result<Option<Vec<u8>>, StorageError> {
        let failed = |source| StorageError::Read { location: self.to_string(), source };
        let Some((store, path)) = self.store()? else {
            return match fs::read(self.local().unwrap_or(Path::new(""))) {
                Ok(bytes) => Ok(Some(bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(error)),
            };
        };
        match store.get(&path).await {
            Ok(found) => Ok(Some(found.bytes().await.map_err(|error| failed(error.into()))?.into())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Writes the whole content, or nothing.
    ///
    /// # Errors
    /// [`StorageError::Settings`], [`StorageError::Write`].
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), StorageError> {
        let failed = |source| StorageError::Write { location: self.to_string(), source };
        let Some((store, path)) = self.store()? else {
            let write = || {
                let mut file = AtomicFile::create(self.local().unwrap_or(Path::new("")))?;
                file.write_all(&bytes)?;
                file.commit()
            };
            return write().map_err(failed);
        };
        store.put(&path, bytes.into()).await.map(drop).map_err(|error| failed(error.into()))
    }

    /// Its length in bytes; `None` where there is no such file.
    ///
    /// # Errors
    /// [`StorageError::Settings`], [`StorageError::Read`].
    pub async fn length(&self) -> Result<Option<u64>, StorageError> {
        let failed = |source| StorageError::Read { location: self.to_string(), source };
        let Some((store, path)) = self.store()? else {
            return match fs::metadata(self.local().unwrap_or(Path::new(""))) {
                Ok(found) => Ok(Some(found.len())),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed(error)),
            };
        };
        match store.head(&path).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// What tells one content from another: SHA-256 of a file, the store's tag and length of an object.
    ///
    /// # Errors
    /// [`StorageError::Settings`], [`StorageError::Read`].
    pub async fn fingerprint(&self) -> Result<String, StorageError> {
        let failed = |source| StorageError::Read { location: self.to_string(), source };
        let Some((store, path)) = self.store()? else {
            return hash_of(self.local().unwrap_or(Path::new(""))).map_err(failed);
        };
        let found = store.head(&path).await.map_err(|error| failed(error.into()))?;
        Ok(format!(
            "{} bytes, {}",
            found.size,
            found.e_tag.or(found.version).unwrap_or_else(|| found.last_modified.to_string())
        ))
    }

    /// The path, where it is on this machine.
    pub fn local(&self) -> Option<&Path> {
        match self {
            Self::Local(path) => Some(path),
            Self::Remote(_) => None,
        }
    }

    /// What its name ends in, in lower case and without compression's ending: `jsonl`, `parquet`.
    pub fn extension(&self) -> Option<String> {
        let path = match self {
            Self::Local(path) => path.as_path(),
            Self::Remote(url) => Path::new(url.path()),
        };
        path.extension().map(|extension| extension.to_string_lossy().to_lowercase())
    }
}

impl FromStr for Location {
    type Err = StorageError;

    fn from_str(text: &str) -> Result<Self, StorageError> {
        if !text.contains("://") {
            return Ok(Self::Local(PathBuf::from(text)));
        }
        let fault = |reason: String| StorageError::Location { location: without_credentials(text), reason };
        let url = Url::parse(text).map_err(|error| fault(error.to_string()))?;
        if url.scheme() != "s3" {
            return Err(fault(format!("`{}` is not known", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(fault("it holds credentials; put them into the environment".into()));
        }
        if url.host_str().is_none() {
            return Err(fault("it names no bucket".into()));
        }
        Ok(Self::Remote(url))
    }
}

impl From<PathBuf> for Location {
    fn from(path: PathBuf) -> Self {
        Self::Local(path)
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::Local(path.to_owned())
    }
}

impl fmt::Display for Location {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(formatter),
            Self::Remote(url) => url.fmt(formatter),
        }
    }
}

/// SHA-256 of a file's content, in hexadecimal.
fn hash_of(path: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(opencharacter_core::hex(&hasher.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_urls_are_told_apart_and_secrets_never_shown() {
        assert_eq!("a/b.jsonl".parse::<Location>().unwrap(), Location::Local("a/b.jsonl".into()));
        let remote: Location = "s3://bucket/run/dialogues.PARQUET".parse().unwrap();
        assert_eq!((remote.local(), remote.extension().as_deref()), (None, Some("parquet")));
        for (text, part) in [
            ("ftp://host/file", "`ftp` is not known"),
            ("s3://me:secret@bucket/file", "environment"),
            ("s3:///file", "no bucket"),
        ] {
            let error = text.parse::<Location>().unwrap_err().to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }
}

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::NnError;

/// Where an export goes. Everything is written into a hidden folder beside it, which becomes the result by one rename,
/// or is removed.
#[derive(Debug)]
pub struct Destination {
    out: PathBuf,
    staging: PathBuf,
}

impl Destination {
    /// A folder that does not exist yet, or is empty.
    pub fn folder(out: &Path) -> Result<Self, NnError> {
        match fs::read_dir(out).map(|mut entries| entries.next().is_some()) {
            Ok(true) => Err(refusal(out, "it exists and is not empty; name another folder, or remove it")),
            Ok(false) => Self::stage(out),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::stage(out),
            Err(_) if out.is_file() => Err(refusal(out, "it is a file, and a folder is wanted; name another path")),
            Err(reason) => Err(NnError::Io { action: "read", path: out.into(), reason }),
        }
    }

    /// A file that does not exist yet.
    pub fn file(out: &Path) -> Result<Self, NnError> {
        if out.is_dir() {
            return Err(refusal(out, "it is a folder, and a file is wanted; name one, such as `model.gguf` in it"));
        }
        if out.exists() {
            return Err(refusal(out, "it exists; name another file, or remove it"));
        }
        Self::stage(out)
    }

    fn stage(out: &Path) -> Result<Self, NnError> {
        let name = out.file_name().ok_or_else(|| refusal(out, "it has no name; end it with one"))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".exporting");
        let staging = out.with_file_name(hidden);
        let io = |reason| NnError::Io { action: "write", path: staging.clone(), reason };
        // What a killed export left.
        if staging.exists() {
            fs::remove_dir_all(&staging).map_err(io)?;
        }
        fs::create_dir_all(&staging).map_err(io)?;
        Ok(Self { out: out.into(), staging })
    }

    /// The path to be.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// The folder in which the result is made.
    pub(super) fn staging(&self) -> &Path {
        &self.staging
    }

    /// The folder as it is becomes the result.
    pub(super) fn publish_folder(self) -> Result<(), NnError> {
        self.publish(&self.staging)
    }

    /// The file `name` in the folder becomes the result.
    pub(super) fn publish_file(self, name: &str) -> Result<(), NnError> {
        self.publish(&self.staging.join(name))
    }

    fn publish(&self, from: &Path) -> Result<(), NnError> {
        let renamed = fs::rename(from, &self.out);
        renamed.map_err(|reason| NnError::Io { action: "write", path: self.out.clone(), reason })
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        // Published or refused: an error that is on its way says more than one of this.
        let _ = fs::remove_dir_all(&self.staging);
    }
}

fn refusal(out: &Path, reason: &str) -> NnError {
    NnError::Export { path: out.into(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten_and_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("deep/model");
        let destination = Destination::folder(&out).unwrap();
        fs::write(destination.staging().join("part"), "x").unwrap();
        drop(destination);
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 0);

        let destination = Destination::folder(&out).unwrap();
        fs::write(destination.staging().join("whole"), "x").unwrap();
        destination.publish_folder().unwrap();
        assert!(out.join("whole").exists());
        assert_eq!(fs::read_dir(folder.path().join("deep")).unwrap().count(), 1);
        let text = Destination::folder(&out).unwrap_err().to_string();
        assert!(text.contains("not empty") && text.contains("name another"), "{text}");
        let text = Destination::folder(&out.join("whole")).unwrap_err().to_string();
        assert!(text.contains("it is a file"), "{text}");
        let text = Destination::file(&out).unwrap_err().to_string();
        assert!(text.contains("it is a folder"), "{text}");
        let text = Destination::file(&out.join("whole")).unwrap_err().to_string();
        assert!(text.contains("it exists"), "{text}");

        let empty = folder.path().join("empty");
        fs::create_dir(&empty).unwrap();
        Destination::folder(&empty).unwrap().publish_folder().unwrap();
    }
}

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

/// Tells apart files for the same destination within this process.
static CREATED: AtomicU64 = AtomicU64::new(0);

/// A file that appears at its destination when it is whole, and not at all if it is dropped before.
#[derive(Debug)]
pub struct AtomicFile {
    destination: PathBuf,
    temporary: PathBuf,
    writer: Option<BufWriter<File>>,
}

impl AtomicFile {
    /// Begins a hidden file beside `destination`.
    ///
    /// # Errors
    /// What the system says when it cannot be made.
    pub fn create(destination: impl Into<PathBuf>) -> io::Result<Self> {
        let destination = destination.into();
        let name = destination.file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy());
        let number = CREATED.fetch_add(1, Ordering::Relaxed);
        let temporary = destination.with_file_name(format!(".{name}.{}-{number}.tmp", std::process::id()));
        let writer = Some(BufWriter::with_capacity(1 << 16, File::create(&temporary)?));
        Ok(Self { destination, temporary, writer })
    }

    /// Makes the content durable and gives it its name.
    ///
    /// # Errors
    /// What the system says, a full disk above all; the destination is then as it was.
    pub fn commit(mut self) -> io::Result<()> {
        let Some(writer) = self.writer.take() else { return Ok(()) };
        let named = writer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::rename(&self.temporary, &self.destination));
        if named.is_err() {
            // Already failing: what matters is that the half-written file does not stay.
            let _ = fs::remove_file(&self.temporary);
        }
        named?;
        sync_directory_of(&self.destination);
        Ok(())
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.as_mut().map_or(Ok(0), |writer| writer.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.as_mut().map_or(Ok(()), Write::flush)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(writer) = self.writer.take() {
            // Given up: what was buffered is not worth writing, and the file is not worth keeping.
            drop(writer.into_parts());
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes a new name in a directory durable, where the system can.
pub fn sync_directory_of(path: &Path) {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Not every file system can sync a directory; the file's content is safe either way.
    let _ = File::open(parent).and_then(|directory| directory.sync_all());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_for_one_destination_do_not_mix() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut files = [AtomicFile::create(&path).unwrap(), AtomicFile::create(&path).unwrap()];
        for (file, content) in files.iter_mut().zip(["first", "second"]) {
            file.write_all(content.as_bytes()).unwrap();
        }
        for (file, content) in files.into_iter().zip(["first", "second"]) {
            file.commit().unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), content);
        }
    }

    #[test]
    fn the_old_content_stays_until_the_new_one_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, "old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.flush().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

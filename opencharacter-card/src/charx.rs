//! CHARX: a zip archive with `card.json` at its top (`SPEC_V3.md`, "CHARX").

use std::{
    collections::BTreeMap,
    io::{Cursor, Read as _, Write as _},
    sync::Arc,
};

use zip::{CompressionMethod, ZipArchive, ZipWriter, result::ZipError, write::SimpleFileOptions};

use crate::{CardError, limits};

/// The card's own file.
const CARD: &str = "card.json";

/// An archive as it was read. Files are unpacked when they are asked for, and copied packed.
#[derive(Debug, Clone)]
pub(crate) struct Charx {
    archive: ZipArchive<Cursor<Arc<[u8]>>>,
    /// What stands before the archive: the picture of a `.jpg` that is a CHARX.
    prefix: Vec<u8>,
}

impl Charx {
    /// Opens an archive. Nothing of it is unpacked yet; every name in it is checked.
    pub(crate) fn open(bytes: &[u8]) -> Result<Self, CardError> {
        let archive = ZipArchive::new(Cursor::new(Arc::from(bytes))).map_err(|error| damaged(&error))?;
        let too_large = |what: &str, size: u64, limit: u64, unit| CardError::TooLarge {
            what: format!("CHARX archive: {what}"),
            size,
            limit,
            unit,
        };
        if archive.len() > limits::ARCHIVE_FILES {
            return Err(too_large("its files", archive.len() as u64, limits::ARCHIVE_FILES as u64, "files"));
        }
        let mut total: u64 = 0;
        for index in 0..archive.len() {
            let file = archive.by_index_data(index).map_err(|error| damaged(&error))?;
            let name = file.name().map_err(|error| damaged(&error))?.into_owned();
            check_path(&name)?;
            total = total.saturating_add(file.size());
        }
        if total > limits::ARCHIVE_BYTES {
            return Err(too_large("what it unpacks to", total, limits::ARCHIVE_BYTES, "bytes"));
        }
        let offset = usize::try_from(archive.offset()).unwrap_or(usize::MAX);
        let prefix = bytes.get(..offset).unwrap_or_default().to_vec();
        Ok(Self { archive, prefix })
    }

    /// The text of `card.json`.
    pub(crate) fn card(&self) -> Result<Vec<u8>, CardError> {
        self.read(CARD, limits::JSON_BYTES)?.ok_or_else(|| CardError::Archive {
            reason: format!("it has no `{CARD}` at its top; a folder that was packed whole has it one level too deep"),
        })
    }

    /// A file's content; `None` where there is none of this name.
    pub(crate) fn file(&self, path: &str) -> Result<Option<Vec<u8>>, CardError> {
        self.read(path, limits::ASSET_BYTES)
    }

    fn read(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, CardError> {
        let fault = |reason: String| CardError::ArchiveFile { path: path.to_owned(), reason };
        let mut archive = self.archive.clone();
        let file = match archive.by_name(path) {
            Ok(file) => file,
            Err(ZipError::FileNotFound) => return Ok(None),
            Err(error) => return Err(fault(error.to_string())),
        };
        let mut content = Vec::new();
        // What the archive says of the size is not believed.
        file.take(limit as u64 + 1).read_to_end(&mut content).map_err(|error| fault(error.to_string()))?;
        if content.len() > limit {
            return Err(CardError::TooLarge {
                what: format!("CHARX archive: `{path}` unpacked"),
                size: content.len() as u64,
                limit: limit as u64,
                unit: "bytes",
            });
        }
        Ok(Some(content))
    }

    /// The names of its files, `card.json` left out.
    pub(crate) fn names(&self) -> Vec<String> {
        let name = |index| self.archive.by_index_data(index).ok()?.name().ok().map(std::borrow::Cow::into_owned);
        (0..self.archive.len()).filter_map(name).filter(|name| name != CARD && !name.ends_with('/')).collect()
    }
}

fn damaged(error: &ZipError) -> CardError {
    CardError::Archive { reason: error.to_string() }
}

/// Refuses a name that would leave the folder that an archive is unpacked into, on any system.
pub(crate) fn check_path(path: &str) -> Result<(), CardError> {
    let drive = path.as_bytes().get(1) == Some(&b':');
    let leaves = path.is_empty()
        || drive
        || path.starts_with(['/', '\\'])
        || path.split(['/', '\\']).any(|part| part == "..")
        || path.chars().any(char::is_control);
    if leaves { Err(CardError::UnsafePath { path: path.escape_debug().to_string() }) } else { Ok(()) }
}

/// Packs `card` and `added` over what `read` had: its other files are copied as they are packed there.
pub(crate) fn write_archive(
    read: Option<&Charx>,
    card: &str,
    added: &BTreeMap<String, Vec<u8>>,
) -> Result<Vec<u8>, CardError> {
    let failed = |error: ZipError| damaged(&error);
    let mut target = Cursor::new(Vec::new());
    if let Some(read) = read {
        target.get_mut().extend_from_slice(&read.prefix);
        target.set_position(read.prefix.len() as u64);
    }
    let mut writer = ZipWriter::new(target);
    put(&mut writer, CARD, card.as_bytes())?;
    if let Some(read) = read {
        writer.set_raw_comment(read.archive.comment().into()).map_err(failed)?;
        let mut archive = read.archive.clone();
        for index in 0..archive.len() {
            let file = archive.by_index_raw(index).map_err(failed)?;
            let name = file.name().map_err(failed)?.into_owned();
            if name != CARD && !added.contains_key(&name) {
                writer.raw_copy_file(file).map_err(failed)?;
            }
        }
    }
    for (name, content) in added {
        put(&mut writer, name, content)?;
    }
    Ok(writer.finish().map_err(failed)?.into_inner())
}

fn put(writer: &mut ZipWriter<Cursor<Vec<u8>>>, name: &str, content: &[u8]) -> Result<(), CardError> {
    // The time is always 1980: equal cards give equal files.
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    writer.start_file(name, options).map_err(|error| damaged(&error))?;
    writer.write_all(content).map_err(|error| CardError::ArchiveFile { path: name.into(), reason: error.to_string() })
}

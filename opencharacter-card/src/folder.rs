use std::{
    fs,
    path::{Path, PathBuf},
};

use opencharacter_core::Character;

use crate::{CardError, CardFile};

/// Endings of files that may be cards, in lower case.
const ENDINGS: [&str; 6] = ["png", "apng", "json", "charx", "jpg", "jpeg"];

/// The cards of a folder, read one at a time in the order of their names.
#[derive(Debug)]
pub struct Folder {
    paths: std::vec::IntoIter<PathBuf>,
}

/// One file of a folder.
#[derive(Debug)]
pub struct FolderEntry {
    /// The file.
    pub path: PathBuf,
    /// Its card, or why there is none.
    pub card: Result<CardFile, CardError>,
}

/// Opens a folder of cards. Files of other kinds (by their ending) and folders in it are passed over, and so is a JPEG
/// that is only a picture.
///
/// # Errors
/// [`CardError::Io`] when the folder itself cannot be read. A bad file is an item of its own and ends nothing.
pub fn read_folder(path: &Path) -> Result<Folder, CardError> {
    let failed = |source| CardError::Io { path: path.to_owned(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_lowercase());
        if ending.is_some_and(|ending| ENDINGS.contains(&ending.as_str())) && path.is_file() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(Folder { paths: paths.into_iter() })
}

impl Iterator for Folder {
    type Item = FolderEntry;

    fn next(&mut self) -> Option<FolderEntry> {
        loop {
            let path = self.paths.next()?;
            let card = CardFile::open(&path);
            let only_picture = is_jpeg(&path)
                && matches!(&card, Err(CardError::InFile { source, .. }) if matches!(**source, CardError::Unrecognised { .. }));
            if !only_picture {
                return Some(FolderEntry { path, card });
            }
        }
    }
}

impl Folder {
    /// The characters of the folder, and what could not be read. Each names its file as its source where the card names
    /// none.
    pub fn characters(self) -> (Vec<Character>, Vec<CardError>) {
        let (mut characters, mut errors) = (Vec::new(), Vec::new());
        for FolderEntry { path, card } in self {
            match card {
                Ok(file) => {
                    let mut character = file.card.to_character();
                    if character.source.is_empty() {
                        character.source = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    }
                    characters.push(character);
                }
                Err(error) => errors.push(error),
            }
        }
        (characters, errors)
    }
}

fn is_jpeg(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("jpg") || ending.eq_ignore_ascii_case("jpeg"))
}

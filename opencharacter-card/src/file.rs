use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    fs,
    path::Path,
};

use crate::{
    Asset, AssetAddress, Card, CardError, Spec, Warning,
    avatar::avatar_png,
    charx::{Charx, check_path},
    data_address,
    json::parse_json,
    limits,
    png::Png,
    png_text,
    warning::Warnings,
};

/// How a card is to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CardFormat {
    /// A JSON file of that version.
    Json(Spec),
    /// The character's picture with the card in text chunks; V3 brings a V2 copy for older programs.
    Png(Spec),
    /// A zip archive with the card and its assets; always V3.
    Charx,
}

/// A card and what it travelled in: the picture, the assets, everything else in the file.
#[derive(Debug, Clone)]
pub struct CardFile {
    /// The card. Change it as you like.
    pub card: Card,
    /// What a person should know of the file that was read.
    pub warnings: Vec<Warning>,
    pub(crate) container: Container,
    /// Assets that were added since, by their path in an archive.
    pub(crate) added: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone)]
pub(crate) enum Container {
    Json,
    Png(Png),
    Charx(Box<Charx>),
}

/// A card as bytes, and what of it the format could not take.
#[derive(Debug, Clone)]
pub struct WrittenCard {
    /// The file.
    pub bytes: Vec<u8>,
    /// What was left out or changed, and why.
    pub warnings: Vec<Warning>,
}

impl CardFile {
    /// Reads a card from a file's bytes, whatever they are: PNG, APNG, CHARX (also behind a JPEG), JSON of V1, V2 or V3.
    ///
    /// Memory and time are bounded by the file's size and the limits in this crate, whatever the file says.
    ///
    /// # Errors
    /// [`CardError`], except [`CardError::Io`] and [`CardError::InFile`].
    pub fn parse(bytes: &[u8]) -> Result<Self, CardError> {
        let mut warnings = Warnings::default();
        let (card, container) = if Png::is_png(bytes) {
            let png = Png::parse(bytes)?;
            (png_text::read_card(&png, &mut warnings)?, Container::Png(png))
        } else if bytes.starts_with(b"PK") || bytes.starts_with(b"\xFF\xD8\xFF") {
            let charx = Charx::open(bytes).map_err(|error| match error {
                CardError::Archive { .. } if !bytes.starts_with(b"PK") => {
                    CardError::Unrecognised { found: "a JPEG with no archive behind the picture".into() }
                }
                other => other,
            })?;
            let json = parse_json(&charx.card()?, "card.json", &mut warnings)?;
            (Card::read(json, "card.json", &mut warnings)?, Container::Charx(Box::new(charx)))
        } else if looks_like_json(bytes) {
            let json = parse_json(bytes, "card", &mut warnings)?;
            (Card::read(json, "card", &mut warnings)?, Container::Json)
        } else {
            return Err(CardError::Unrecognised { found: beginning(bytes) });
        };
        let mut file = Self { card, warnings: Vec::new(), container, added: BTreeMap::new() };
        file.check_assets(&mut warnings);
        file.warnings = warnings.into_vec();
        Ok(file)
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`CardError::Io`], and [`CardError::InFile`] with what [`CardFile::parse`] says.
    pub fn open(path: &Path) -> Result<Self, CardError> {
        let failed = |source| CardError::Io { path: path.to_owned(), source };
        let size = fs::metadata(path).map_err(failed)?.len();
        let read = || {
            if size > limits::FILE_BYTES {
                let what = "the file".into();
                return Err(CardError::TooLarge { what, size, limit: limits::FILE_BYTES, unit: "bytes" });
            }
            Self::parse(&fs::read(path).map_err(failed)?)
        };
        read().map_err(|error| error.in_file(path))
    }

    /// A new card that has not travelled yet.
    pub fn new(card: Card) -> Self {
        Self { card, warnings: Vec::new(), container: Container::Json, added: BTreeMap::new() }
    }

    /// Warns of assets that point nowhere or out of the archive.
    fn check_assets(&self, warnings: &mut Warnings) {
        let names: HashSet<String> = self.files().into_iter().collect();
        for (index, asset) in self.card.assets.iter().flatten().enumerate() {
            let AssetAddress::Embedded(path) = asset.address() else { continue };
            let place = format!("data.assets[{index}].uri");
            if check_path(path).is_err() {
                warnings.add(place, "leads out of the card's own folder; it will not be read");
            } else if !names.contains(path) {
                warnings.add(place, "names a file that did not come with the card");
            }
        }
    }

    /// The format it was read in; JSON for a new card.
    pub fn format(&self) -> CardFormat {
        match self.container {
            Container::Json => CardFormat::Json(self.card.spec),
            Container::Png(_) => CardFormat::Png(self.card.spec),
            Container::Charx(_) => CardFormat::Charx,
        }
    }

    /// An asset's content; `None` when it is elsewhere (nothing is ever fetched) or did not come with the card.
    ///
    /// # Errors
    /// [`CardError::ArchiveFile`], [`CardError::Encoding`], [`CardError::TooLarge`], [`CardError::UnsafePath`].
    pub fn asset(&self, asset: &Asset) -> Result<Option<Vec<u8>>, CardError> {
        match (asset.address(), &self.container) {
            (AssetAddress::Embedded(path), container) => {
                check_path(path)?;
                match (self.added.get(path), container) {
                    (Some(content), _) => Ok(Some(content.clone())),
                    (None, Container::Charx(charx)) => charx.file(path),
                    (None, _) => Ok(None),
                }
            }
            (AssetAddress::Chunk(path), Container::Png(png)) => png_text::read_asset(png, path),
            (AssetAddress::Data(data), _) => data_address::decode(data, &asset.name).map(Some),
            (AssetAddress::Default, Container::Png(png)) if asset.kind != "user_icon" => {
                Ok(Some(png_text::without_card(png).to_bytes()))
            }
            _ => Ok(None),
        }
    }

    /// The files that came with the card in a CHARX, named or not by its assets.
    pub fn files(&self) -> Vec<String> {
        match &self.container {
            Container::Charx(charx) => charx.names(),
            _ => Vec::new(),
        }
    }

    /// Adds an asset with its content; a CHARX carries it as a file. One of the same kind and name is replaced.
    ///
    /// # Errors
    /// [`CardError::UnsafePath`] when `kind`, `name` or `ext` are no names of files.
    pub fn add_asset(&mut self, kind: &str, name: &str, ext: &str, content: Vec<u8>) -> Result<(), CardError> {
        let path = archive_path(kind, name, ext);
        check_path(&path)?;
        if [kind, name, ext].iter().any(|part| part.contains(['/', '\\'])) {
            return Err(CardError::UnsafePath { path });
        }
        let asset = Asset {
            kind: kind.into(),
            uri: format!("embeded://{path}"),
            name: name.into(),
            ext: ext.into(),
            ..Asset::default()
        };
        self.added.insert(path, content);
        let assets = self.card.assets.get_or_insert_with(|| vec![Asset::default_icon()]);
        match assets.iter_mut().find(|other| other.kind == kind && other.name == name) {
            Some(old) => *old = asset,
            None => assets.push(asset),
        }
        Ok(())
    }

    /// The character's picture as a PNG without a card: the one it came in, its main icon, or a drawn placeholder.
    pub fn picture(&self) -> Vec<u8> {
        self.own_picture().map_or_else(|| avatar_png(&self.card.name), |png| png_text::without_card(&png).to_bytes())
    }

    /// Takes `png` for the character's picture from now on.
    ///
    /// # Errors
    /// [`CardError::Png`].
    pub fn set_picture(&mut self, png: &[u8]) -> Result<(), CardError> {
        let picture = png_text::without_card(&Png::parse(png)?);
        if let Container::Png(old) = &mut self.container {
            // The chunks of assets stay with the card.
            let kept = old.chunks.clone();
            *old = picture;
            for chunk in kept.into_iter().filter(png_text::is_asset) {
                old.insert_before_end(chunk);
            }
            Ok(())
        } else {
            self.add_asset("icon", "main", "png", picture.to_bytes())
        }
    }

    /// The picture that it came in, or its main icon where that is a PNG.
    pub(crate) fn own_picture(&self) -> Option<Cow<'_, Png>> {
        if let Container::Png(png) = &self.container {
            return Some(Cow::Borrowed(png));
        }
        let icon = self.card.assets.iter().flatten().find(|asset| asset.is_main_icon())?;
        let content = self.asset(icon).ok()??;
        Png::parse(&content).ok().map(Cow::Owned)
    }
}

/// Where V3 wants an asset: `assets/{kind}/{what it is}/{name}.{ext}`.
pub(crate) fn archive_path(kind: &str, name: &str, ext: &str) -> String {
    let folder = match ext {
        "png" | "jpg" | "jpeg" | "webp" | "gif" | "avif" | "apng" => "images",
        "mp3" | "wav" | "ogg" | "flac" => "audio",
        "mp4" | "webm" | "mov" => "video",
        "safetensors" | "ckpt" | "onnx" => "ai",
        "otf" | "ttf" | "woff" | "woff2" => "fonts",
        "lua" | "js" | "py" => "code",
        "obj" | "glb" | "fbx" => "3d",
        _ => "other",
    };
    format!("assets/{kind}/{folder}/{name}.{ext}")
}

fn looks_like_json(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    // UTF-16 is not read, and said to be what it is.
    [b"{".as_slice(), b"[", b"\xFF\xFE", b"\xFE\xFF"].iter().any(|start| bytes.starts_with(start))
}

fn beginning(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "the file is empty".into();
    }
    format!("it begins with `{}`", bytes.get(..12).unwrap_or(bytes).escape_ascii())
}

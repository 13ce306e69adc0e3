//! Writing a card into a container: what moves with it, and what has no place there.

use std::collections::{BTreeMap, HashSet};

use crate::{
    Asset, AssetAddress, Card, CardError, CardFile, CardFormat, Spec, WrittenCard,
    avatar::avatar_png,
    charx::write_archive,
    data_address,
    file::{Container, archive_path},
    limits,
    png::Png,
    png_text,
    warning::Warnings,
};

impl CardFile {
    /// The card in a format. What is not of the card and did not change is copied byte for byte: other chunks of the
    /// PNG, other files of the archive.
    ///
    /// # Errors
    /// [`CardError::Archive`] and [`CardError::ArchiveFile`] where an archive's files cannot be copied. An asset that
    /// cannot move to the format is a warning.
    pub fn write(&self, format: CardFormat) -> Result<WrittenCard, CardError> {
        let mut warnings = Warnings::default();
        let bytes = match format {
            CardFormat::Json(spec) => {
                let card = self.with_inline_assets(spec, None, &mut warnings);
                if matches!(self.container, Container::Png(_)) {
                    warnings.add("picture", "JSON has no place for it; keep the PNG, or write a CHARX");
                }
                serde_json::to_vec_pretty(&card.to_json(spec))
                    .map_err(|reason| CardError::Json { place: "card".into(), reason })?
            }
            CardFormat::Png(spec) => self.write_png(spec, &mut warnings)?,
            CardFormat::Charx => self.write_charx(&mut warnings)?,
        };
        Ok(WrittenCard { bytes, warnings: warnings.into_vec() })
    }

    fn write_png(&self, spec: Spec, warnings: &mut Warnings) -> Result<Vec<u8>, CardError> {
        let mut png = match self.own_picture() {
            Some(png) => png.into_owned(),
            None => Png::parse(&avatar_png(&self.card.name))?,
        };
        let card = self.with_inline_assets(spec, Some(&png), warnings);
        png_text::write_card(&mut png, &card, spec);
        Ok(png.to_bytes())
    }

    /// The card with its assets where JSON and PNG can hold them: as `data:` addresses, the picture as `ccdefault:`.
    fn with_inline_assets(&self, spec: Spec, picture: Option<&Png>, warnings: &mut Warnings) -> Card {
        let mut card = self.card.clone();
        let mut room = limits::INLINE_BYTES;
        let is_png = matches!(self.container, Container::Png(_));
        let mut named = HashSet::new();
        for (index, asset) in card.assets.iter_mut().flatten().enumerate() {
            let moves = match asset.address() {
                AssetAddress::Embedded(path) => {
                    named.insert(path.to_owned());
                    true
                }
                // A chunk stays where it is as long as the PNG does.
                AssetAddress::Chunk(_) => picture.is_none() && is_png,
                _ => false,
            };
            if !moves {
                continue;
            }
            let place = format!("data.assets[{index}]");
            let content = match self.asset(asset) {
                Ok(Some(content)) => content,
                Ok(None) => {
                    warnings.add(place, "its file did not come with the card; the address was left as it is");
                    continue;
                }
                Err(error) => {
                    warnings.add(place, format!("the address was left as it is: {error}"));
                    continue;
                }
            };
            let is_picture = picture.is_some() && !is_png && asset.is_main_icon() && Png::is_png(&content);
            if is_picture {
                asset.uri = "ccdefault:".into();
            } else if content.len() > room {
                warnings.add(place, format!("{} bytes are too many for this format; write a CHARX", content.len()));
            } else {
                room -= content.len();
                asset.uri = data_address::encode(&asset.ext, &content);
            }
        }
        for file in self.files().into_iter().filter(|file| !named.contains(file)) {
            warnings
                .add(file, "no asset of the card names this file, and this format has no place for it; write a CHARX");
        }
        if spec < Spec::V3 && card.assets.as_ref().is_some_and(|assets| !assets.is_empty()) {
            warnings.add("data.assets", format!("{spec} knows no assets; programs that read it will not show them"));
        }
        card
    }

    fn write_charx(&self, warnings: &mut Warnings) -> Result<Vec<u8>, CardError> {
        let mut card = self.card.clone();
        let mut added = self.added.clone();
        if let Container::Png(_) = self.container {
            for asset in card.assets.get_or_insert_with(|| vec![Asset::default_icon()]) {
                if !matches!(asset.address(), AssetAddress::Default | AssetAddress::Chunk(_)) {
                    continue;
                }
                let content = match self.asset(asset) {
                    Ok(Some(content)) => content,
                    Ok(None) => continue,
                    Err(error) => {
                        warnings.add(format!("asset `{}`", asset.name), format!("left as it is: {error}"));
                        continue;
                    }
                };
                let path = free_path(&asset.kind, &asset.name, &asset.ext, &added);
                asset.uri = format!("embeded://{path}");
                added.insert(path, content);
            }
        }
        let read = match &self.container {
            Container::Charx(charx) => Some(charx.as_ref()),
            _ => None,
        };
        write_archive(read, &card.to_json(Spec::V3).to_string(), &added)
    }
}

/// An archive path of plain ASCII letters that is not taken, whatever a card's asset is called.
fn free_path(kind: &str, name: &str, ext: &str, taken: &BTreeMap<String, Vec<u8>>) -> String {
    let plain = |text: &str, default: &str| {
        let kept = |character: char| character.is_ascii_alphanumeric() || "-_".contains(character);
        let text: String = text.chars().filter(|character| kept(*character)).take(60).collect();
        if text.is_empty() { default.to_owned() } else { text }
    };
    let (kind, name, ext) = (plain(kind, "other"), plain(name, "asset"), plain(ext, "unknown").to_ascii_lowercase());
    let mut path = archive_path(&kind, &name, &ext);
    let mut number = 2;
    while taken.contains_key(&path) {
        path = archive_path(&kind, &format!("{name}-{number}"), &ext);
        number += 1;
    }
    path
}

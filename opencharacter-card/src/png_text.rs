//! Cards in the text chunks of a PNG: reading `ccv3` and `chara` as they come, writing them as `SillyTavern` does.

use std::io::Read as _;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose},
};
use flate2::read::ZlibDecoder;
use serde_json::Value;

use crate::{
    Card, CardError, Spec,
    json::parse_json,
    limits,
    png::{Chunk, Png},
    warning::Warnings,
};

/// Keywords of a card's text chunks, the one that wins first.
const KEYWORDS: [&str; 2] = ["ccv3", "chara"];
/// Keyword of chunks that hold one asset each: `chara-ext-asset_:PATH`.
const ASSET_KEYWORD: &str = "chara-ext-asset_";

/// Base64 as people write it: padded or not.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A text chunk, its keyword read and its text still packed.
struct TextChunk<'a> {
    keyword: String,
    kind: [u8; 4],
    /// What follows the keyword's zero byte.
    rest: &'a [u8],
    place: String,
}

impl<'a> TextChunk<'a> {
    fn of(chunk: &'a Chunk) -> Option<Self> {
        if !matches!(&chunk.kind, b"tEXt" | b"zTXt" | b"iTXt") {
            return None;
        }
        let (keyword, rest) = split_at_zero(&chunk.data)?;
        let keyword = String::from_utf8_lossy(keyword.get(..300).unwrap_or(keyword)).trim().to_owned();
        let place = format!("PNG chunk `{}` `{keyword}` at byte {}", chunk.kind.escape_ascii(), chunk.offset);
        Some(Self { keyword, kind: chunk.kind, rest, place })
    }

    /// Its text, unpacked up to the limit.
    fn text(&self) -> Result<Vec<u8>, CardError> {
        let short = || CardError::encoding(&self.place, "cut off before its text");
        match &self.kind {
            b"zTXt" => inflate(self.rest.get(1..).ok_or_else(short)?, &self.place),
            b"iTXt" => {
                let [packed, _, rest @ ..] = self.rest else { return Err(short()) };
                // Language, and the keyword in that language.
                let (_, rest) = split_at_zero(rest).ok_or_else(short)?;
                let (_, text) = split_at_zero(rest).ok_or_else(short)?;
                if *packed == 0 { Ok(text.to_vec()) } else { inflate(text, &self.place) }
            }
            _ => Ok(self.rest.to_vec()),
        }
    }

    /// The JSON in it: base64, or plain as some programs write it.
    fn json(&self) -> Result<Vec<u8>, CardError> {
        let text = self.text()?;
        if text.trim_ascii_start().starts_with(b"{") {
            return Ok(text);
        }
        decode_base64(&text, &self.place, limits::JSON_BYTES)
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let zero = memchr::memchr(0, bytes)?;
    Some((bytes.get(..zero)?, bytes.get(zero + 1..)?))
}

fn inflate(packed: &[u8], place: &str) -> Result<Vec<u8>, CardError> {
    // Room for the base64 of the largest JSON.
    let limit = limits::JSON_BYTES / 3 * 4 + 4;
    let mut text = Vec::new();
    let mut unpacked = ZlibDecoder::new(packed).take(limit as u64 + 1);
    unpacked
        .read_to_end(&mut text)
        .map_err(|error| CardError::encoding(place, format!("cannot be unpacked: {error}")))?;
    if text.len() > limit {
        return Err(CardError::TooLarge {
            what: place.to_owned(),
            size: text.len() as u64,
            limit: limit as u64,
            unit: "bytes",
        });
    }
    Ok(text)
}

/// The bytes that a base64 text stands for, white space in it ignored.
pub(crate) fn decode_base64(text: &[u8], place: &str, limit: usize) -> Result<Vec<u8>, CardError> {
    if text.len() / 4 * 3 > limit.saturating_add(limit / 8) {
        return Err(CardError::TooLarge {
            what: place.to_owned(),
            size: (text.len() / 4 * 3) as u64,
            limit: limit as u64,
            unit: "bytes",
        });
    }
    let decode = |text: &[u8]| {
        BASE64.decode(text).map_err(|error| {
            let error = error.to_string();
            CardError::encoding(place, format!("expected base64: {}", error.trim_end_matches('.')))
        })
    };
    if text.iter().any(u8::is_ascii_whitespace) {
        let solid: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        return decode(&solid);
    }
    decode(text)
}

/// Finds the card of a PNG: `ccv3` before `chara`, the first of each, and the next where one cannot be read.
pub(crate) fn read_card(png: &Png, warnings: &mut Warnings) -> Result<Card, CardError> {
    let texts: Vec<TextChunk<'_>> = png.chunks.iter().filter_map(TextChunk::of).collect();
    // Two of each: a file of a thousand packed cards is not unpacked a thousand times.
    let candidates = KEYWORDS
        .iter()
        .flat_map(|keyword| texts.iter().filter(|text| text.keyword.eq_ignore_ascii_case(keyword)).take(2));
    let mut first_error = None;
    let mut found: Option<(Card, &TextChunk<'_>)> = None;
    for text in candidates {
        let mut own = Warnings::default();
        let value = text.json().and_then(|json| parse_json(&json, &text.place, &mut own));
        match (value.and_then(|value| Card::read(value, &text.place, &mut own)), &found) {
            (Ok(card), None) => {
                for warning in own.into_vec() {
                    warnings.add(warning.place, warning.problem);
                }
                found = Some((card, text));
            }
            (Ok(card), Some((taken, place))) => {
                if !same_character(taken, &card) {
                    warnings.add(&text.place, format!("says something else than `{}`, which was taken", place.keyword));
                }
            }
            (Err(error), _) => {
                warnings.add(&text.place, format!("not used: {error}"));
                first_error.get_or_insert(error);
            }
        }
    }
    match found {
        Some((mut card, _)) => {
            remove_notice(&mut card);
            Ok(card)
        }
        None => Err(first_error.unwrap_or(CardError::NoCard)),
    }
}

fn same_character(left: &Card, right: &Card) -> bool {
    let key = |card: &Card| {
        [&card.name, &card.description, &card.personality, &card.scenario, &card.first_mes, &card.mes_example]
            .map(|text| text.replace("\r\n", "\n"))
    };
    key(left) == key(right)
}

/// What the V2 copy of a V3 card says at the end of its notes, as V3 asks.
const NOTICE: &str = "\n\n[This is the V2 copy of a V3 card: assets, nickname and lorebook decorators do not work here. \
                      Use a program that reads V3, and edit the card there.]";

fn remove_notice(card: &mut Card) {
    if let Some(notes) = card.creator_notes.strip_suffix(NOTICE) {
        card.creator_notes.truncate(notes.len());
    }
}

/// Replaces the card in `png`: V1 and V2 as `chara`, V3 as `ccv3` with a V2 copy in `chara` for older programs.
pub(crate) fn write_card(png: &mut Png, card: &Card, spec: Spec) {
    png.chunks.retain(|chunk| !is_card(chunk));
    if spec == Spec::V3 {
        png.insert_before_end(text_chunk("chara", &v2_copy(card).to_json(Spec::V2)));
        png.insert_before_end(text_chunk("ccv3", &card.to_json(Spec::V3)));
    } else {
        png.insert_before_end(text_chunk("chara", &card.to_json(spec)));
    }
}

fn is_card(chunk: &Chunk) -> bool {
    TextChunk::of(chunk).is_some_and(|text| KEYWORDS.iter().any(|keyword| text.keyword.eq_ignore_ascii_case(keyword)))
}

fn v2_copy(card: &Card) -> Card {
    let mut copy = card.clone();
    if card.needs_v3() {
        copy.creator_notes.push_str(NOTICE);
        // They are in the V3 chunk beside this one, and as `data:` addresses can be most of the file.
        copy.assets = None;
    }
    copy
}

fn text_chunk(keyword: &str, card: &Value) -> Chunk {
    let mut data = format!("{keyword}\0").into_bytes();
    data.extend_from_slice(general_purpose::STANDARD.encode(card.to_string()).as_bytes());
    Chunk::new(*b"tEXt", data)
}

/// The path of an asset's chunk.
fn asset_path<'a>(text: &'a TextChunk<'_>) -> Option<&'a str> {
    let start = text.keyword.get(..ASSET_KEYWORD.len())?;
    let rest = text.keyword.get(ASSET_KEYWORD.len()..)?;
    start.eq_ignore_ascii_case(ASSET_KEYWORD).then(|| rest.strip_prefix(':').unwrap_or(rest))
}

/// The asset that a chunk `chara-ext-asset_:PATH` holds.
pub(crate) fn read_asset(png: &Png, path: &str) -> Result<Option<Vec<u8>>, CardError> {
    for text in png.chunks.iter().filter_map(TextChunk::of) {
        if asset_path(&text) == Some(path) {
            return decode_base64(&text.text()?, &text.place, limits::ASSET_BYTES).map(Some);
        }
    }
    Ok(None)
}

/// Whether the chunk holds an asset.
pub(crate) fn is_asset(chunk: &Chunk) -> bool {
    TextChunk::of(chunk).is_some_and(|text| asset_path(&text).is_some())
}

/// The picture alone: without the card and without assets.
pub(crate) fn without_card(png: &Png) -> Png {
    let mut bare = png.clone();
    bare.chunks.retain(|chunk| !is_asset(chunk) && !is_card(chunk));
    bare
}

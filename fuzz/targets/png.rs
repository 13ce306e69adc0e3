//! Cards in pictures: any bytes, and any bytes as the card of a picture that is whole.

#![no_main]

mod round_trip;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use opencharacter_card::{Card, CardFile, CardFormat, Spec};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = CardFile::parse(bytes) {
        round_trip::check(&file);
    }
    if let Ok(file) = CardFile::parse(&with_chunk(bytes)) {
        round_trip::check(&file);
    }
});

/// A small picture with one more chunk: its type and content are `bytes`, its length and checksum are right, so that
/// the content is looked at.
fn with_chunk(bytes: &[u8]) -> Vec<u8> {
    /// Drawing takes longer than all that is looked for.
    static PICTURE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        CardFile::new(Card::default()).write(CardFormat::Png(Spec::V2)).expect("a card can be written").bytes
    });
    let mut png = PICTURE.clone();
    // Behind the signature and the header chunk.
    let place = 8 + 12 + 13;
    let (kind, content) = bytes.split_at(bytes.len().min(4));
    let kind = [kind, &[b'a'; 4][kind.len()..]].concat();
    let named = [&kind, content].concat();
    let chunk = [&(content.len() as u32).to_be_bytes()[..], &named, &checksum(&named).to_be_bytes()].concat();
    png.splice(place..place, chunk);
    png
}

/// CRC-32 as PNG has it, a bit at a time.
fn checksum(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
    })
}

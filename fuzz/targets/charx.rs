//! Cards as archives, also behind a picture.

#![no_main]

mod round_trip;

use libfuzzer_sys::fuzz_target;
use opencharacter_card::CardFile;

fuzz_target!(|bytes: &[u8]| {
    // An archive is found from its end; the beginning only says that it is one.
    let archive = [b"PK", bytes].concat();
    for bytes in [bytes, &archive] {
        if let Ok(file) = CardFile::parse(bytes) {
            round_trip::check(&file);
        }
    }
});

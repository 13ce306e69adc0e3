//! Cards as JSON.

#![no_main]

mod round_trip;

use libfuzzer_sys::fuzz_target;
use opencharacter_card::CardFile;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = CardFile::parse(bytes) {
        round_trip::check(&file);
    }
});

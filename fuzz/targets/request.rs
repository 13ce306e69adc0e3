//! Bodies of requests for chat and text completions.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| opencharacter_serve::check_request(bytes));

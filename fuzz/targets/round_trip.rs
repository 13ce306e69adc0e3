//! What holds of every file that is read as a card.

use opencharacter_card::{CardFile, CardFormat, Spec};

/// A card that is read can be shown, and written and read again without loss.
pub fn check(file: &CardFile) {
    let _ = file.card.to_character();
    for asset in file.card.assets.iter().flatten() {
        let _ = file.asset(asset);
    }
    for format in [file.format(), CardFormat::Json(Spec::V3)] {
        let Ok(written) = file.write(format) else { continue };
        let again = CardFile::parse(&written.bytes).expect("what was written can be read");
        let twice = again.write(format).expect("what was written once can be written again");
        assert_eq!(
            again.card,
            CardFile::parse(&twice.bytes).expect("and read again").card,
            "a card changes as it travels"
        );
    }
}

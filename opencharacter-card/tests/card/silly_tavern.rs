//! PNGs that `SillyTavern`'s own packages wrote (`tests/silly_tavern/check.sh --golden`). That they read ours, too, is what
//! the script shows when it is run; it needs npm.

use opencharacter_card::{CardFile, Spec};

use super::tests;

#[test]
fn what_its_packages_write_is_read() {
    for (name, spec) in [("v1", Spec::V1), ("v2_full", Spec::V3), ("v2_sillytavern", Spec::V3)] {
        let golden = CardFile::parse(&std::fs::read(tests(&format!("silly_tavern/{name}.png"))).unwrap()).unwrap();
        let source = CardFile::parse(&std::fs::read(tests(&format!("cards/{name}.json"))).unwrap()).unwrap();
        assert_eq!(golden.card.spec, spec, "{name}");
        assert!(golden.warnings.is_empty(), "{name}: {:?}", golden.warnings);
        // Equal but for the version that it was stamped with.
        let version = if spec == Spec::V1 { Spec::V1 } else { Spec::V3 };
        let mut expected = source.card.to_json(version);
        let mut found = golden.card.to_json(version);
        expected.sort_all_objects();
        found.sort_all_objects();
        assert_eq!(found, expected, "{name}");
    }
}

use std::sync::LazyLock;

use opencharacter_card::{CardFile, Lorebook};
use proptest::prelude::*;

use super::{cases, expect, tests};

/// Each file of `tests/bad_input` fails with what stands in `.expected` beside it.
#[test]
fn bad_files_are_refused_with_place_and_remedy() {
    let paths = cases("bad_input");
    for path in &paths {
        let error = CardFile::parse(&std::fs::read(path).unwrap())
            .err()
            .unwrap_or_else(|| panic!("{} was read", path.display()));
        expect(path, &format!("{error}\n"));
    }
    assert!(paths.len() >= 40, "{}", paths.len());
}

/// A PNG of one pixel with these chunks between its pixels and its end.
pub(super) fn png_with(chunks: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
    let base = std::fs::read(tests("bad_input/no_card.png")).unwrap();
    // Signature, header and pixels; then a comment and the end.
    let comment = base.windows(4).position(|window| window == b"tEXt").unwrap() - 4;
    let mut bytes = base[..comment].to_vec();
    for (kind, data) in chunks.iter().chain(&[(b"IEND", [].as_slice())]) {
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(*kind);
        bytes.extend_from_slice(data);
        let mut crc = flate2::Crc::new();
        crc.update(*kind);
        crc.update(data);
        bytes.extend_from_slice(&crc.sum().to_be_bytes());
    }
    bytes
}

#[test]
fn hundred_megabytes_of_plain_zeros_are_refused() {
    let mut data = b"chara\0".to_vec();
    data.resize(100 << 20, 0);
    let error = CardFile::parse(&png_with(&[(b"tEXt", &data)])).unwrap_err().to_string();
    assert!(error.contains("PNG chunk `tEXt` `chara` at byte") && error.contains("are read"), "{error}");
}

#[test]
fn a_thousand_packed_cards_are_not_all_unpacked() {
    let bomb = std::fs::read(tests("bad_input/hundred_megabytes_of_zeros.png")).unwrap();
    let begin = bomb.windows(4).position(|window| window == b"zTXt").unwrap();
    let length = u32::from_be_bytes(bomb[begin - 4..begin].try_into().unwrap()) as usize;
    let data = &bomb[begin + 4..begin + 4 + length];
    let chunks = vec![(b"zTXt", data); 1_000];
    let started = std::time::Instant::now();
    assert!(CardFile::parse(&png_with(&chunks)).is_err());
    // Not a measurement: unpacking all of them takes minutes.
    assert!(started.elapsed().as_secs() < 30);
}

/// Files to damage: one of each container.
static WHOLE_FILES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    use opencharacter_card::{CardFormat, Spec};
    let file = CardFile::parse(&std::fs::read(tests("cards/v3_full.json")).unwrap()).unwrap();
    [CardFormat::Png(Spec::V3), CardFormat::Charx, CardFormat::Json(Spec::V2)]
        .into_iter()
        .map(|format| file.write(format).unwrap().bytes)
        .collect()
});

#[test]
fn files_cut_off_anywhere_never_panic() {
    for bytes in WHOLE_FILES.iter() {
        for end in (0..bytes.len()).step_by(bytes.len() / 400 + 1) {
            assert!(CardFile::parse(&bytes[..end]).is_err(), "cut at {end} of {}", bytes.len());
        }
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = CardFile::parse(&bytes);
        let _ = Lorebook::parse(&bytes);
    }

    #[test]
    fn arbitrary_chunks_never_panic(
        kind in prop_oneof![Just(b"tEXt"), Just(b"zTXt"), Just(b"iTXt")],
        keyword in "(chara|ccv3|Chara|CCV3|chara-ext-asset_:)?",
        data in proptest::collection::vec(any::<u8>(), 0..500),
    ) {
        let mut whole = keyword.into_bytes();
        whole.push(0);
        whole.extend(data);
        let _ = CardFile::parse(&png_with(&[(kind, &whole)]));
    }

    #[test]
    fn flipped_bytes_never_panic(which in 0_usize..3, flips in proptest::collection::vec((any::<prop::sample::Index>(), 1_u8..), 1..6)) {
        let mut bytes = WHOLE_FILES[which].clone();
        for (index, mask) in flips {
            let length = bytes.len();
            bytes[index.index(length)] ^= mask;
        }
        if let Ok(file) = CardFile::parse(&bytes) {
            // What was read in spite of it can be written.
            for asset in file.card.assets.iter().flatten() {
                let _ = file.asset(asset);
            }
            let _ = file.write(file.format());
        }
    }

    #[test]
    fn json_of_any_types_never_panics(value in any_json()) {
        let card = serde_json::json!({"spec": "chara_card_v3", "spec_version": "3.0", "data": value});
        let bytes = serde_json::to_vec(&card).unwrap();
        let _ = Lorebook::parse(&serde_json::to_vec(&value).unwrap());
        if let Ok(file) = CardFile::parse(&bytes) {
            let written = file.card.to_json(file.card.spec);
            // A second reading and writing changes nothing.
            let again = CardFile::parse(&serde_json::to_vec(&written).unwrap()).unwrap();
            prop_assert_eq!(again.card.to_json(again.card.spec), written);
            let character = file.card.to_character();
            prop_assert_eq!(opencharacter_card::Card::from_character(&character).to_character().profile.name, character.profile.name);
        }
    }
}

/// Objects with the keys that cards know and values of any type.
fn any_json() -> impl Strategy<Value = serde_json::Value> {
    use serde_json::Value;
    let key = prop_oneof![
        Just("name"),
        Just("description"),
        Just("tags"),
        Just("alternate_greetings"),
        Just("character_book"),
        Just("entries"),
        Just("keys"),
        Just("content"),
        Just("extensions"),
        Just("assets"),
        Just("uri"),
        Just("position"),
        Just("insertion_order"),
        Just("creation_date"),
        Just("opencharacter"),
        Just("profile"),
        Just("persona"),
        Just("secondary_keys"),
        Just("enabled"),
        Just("key"),
        Just("other"),
        Just("depth_prompt"),
        Just("decorators"),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(Value::from("@@depth 2\n@@@x\n{{char}} {{random:a,b}}")),
    ];
    let value = leaf.prop_recursive(4, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((key.clone(), inner), 0..8).prop_map(|fields| Value::Object(
                fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
            )),
        ]
    });
    value.prop_filter("an object", serde_json::Value::is_object)
}

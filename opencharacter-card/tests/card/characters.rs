use opencharacter_card::{Card, CardFile, CardFormat, Spec};
use opencharacter_core::{Character, Profile, Provenance};
use proptest::prelude::*;
use serde_json::json;

fn card(value: &serde_json::Value) -> Card {
    CardFile::parse(value.to_string().as_bytes()).unwrap().card
}

#[test]
fn a_strangers_card_says_what_it_says() {
    let card = card(&json!({"name": "Mira", "personality": "{{char}} is dry", "first_mes": "Hm.",
        "description": "{{char}} keeps the lighthouse of Skagen. She trusts {{user}}.\nAge: 52\nBirth Place: Skagen\nShe fishes."}));
    let character = card.to_character();
    assert_eq!(character.persona, "Mira keeps the lighthouse of Skagen.");
    assert_eq!(
        character.profile,
        Profile {
            name: "Mira".into(),
            age: "52".into(),
            birth_place: "Skagen\nShe fishes.".into(),
            general_experience: "Mira keeps the lighthouse of Skagen. She trusts the user.".into(),
            personality: "Mira is dry".into(),
            ..Profile::default()
        }
    );
    assert!(character.character_id.starts_with("character-") && character.provenance.is_none());
}

#[test]
fn nicknames_name_and_unchanged_cards_keep_every_letter() {
    let mut card = card(&json!({"spec": "chara_card_v3", "data": {"name": "Mira Holm", "nickname": "Mi",
        "description": "[Character(\"Mira\") {\n Age(\"52\")}]", "personality": "{{char}} is dry", "extensions": {"other": 1}}}));
    let before = card.clone();
    let mut character = card.to_character();
    assert_eq!(character.profile.name, "Mi");
    card.set_character(&character);
    assert_eq!(
        (&card.name, &card.nickname, &card.description, &card.personality),
        (&before.name, &before.nickname, &before.description, &before.personality)
    );
    assert_eq!(card.extensions["other"], 1);
    assert_eq!(card.to_character(), character);
    // A change of one field rewrites what holds it.
    character.profile.age = "53".into();
    card.set_character(&character);
    assert!(card.description.contains("\nAge: 53"), "{}", card.description);
    assert_eq!((card.name.as_str(), card.nickname.as_str()), ("Mira Holm", "Mi"));
    assert_eq!(card.to_character(), character);
}

#[test]
fn an_edit_made_elsewhere_counts() {
    let character = Character {
        persona: "A keeper who hates the sea".into(),
        profile: Profile {
            name: "Ada".into(),
            age: "52".into(),
            race: "Danish".into(),
            personality: "dry".into(),
            ..Profile::default()
        },
        provenance: Some(Provenance { teacher: "t".into(), ..Provenance::default() }),
        license: "MIT".into(),
        ..Character::from_name("Ada", "personas.jsonl", "")
    };
    let mut card = Card::from_character(&character);
    assert_eq!(card.description, "A keeper who hates the sea\nAge: 52\nRace: Danish");
    assert_eq!(card.source, ["personas.jsonl"]);
    card.description = card.description.replace("52", "60");
    card.personality = "warm".into();
    card.name = "Ada Holm".into();
    let edited = card.to_character();
    assert_eq!((edited.profile.age.as_str(), edited.profile.race.as_str()), ("60", "Danish"));
    assert_eq!((edited.profile.name.as_str(), edited.profile.personality.as_str()), ("Ada Holm", "warm"));
    assert_eq!(
        (edited.character_id, edited.provenance, edited.persona),
        (character.character_id, character.provenance, character.persona)
    );
}

#[test]
fn provenance_of_another_shape_is_kept() {
    let mut card = Card::from_character(&Character::from_name("Ada", "", ""));
    card.extensions["opencharacter"]["provenance"] = json!({"run": "r1", "adapter": "sha256:00", "scores": {"x": 0.5}});
    let character = card.to_character();
    assert_eq!(character.provenance, None);
    card.set_character(&character);
    assert_eq!(card.extensions["opencharacter"]["provenance"]["run"], "r1");
}

fn any_character() -> impl Strategy<Value = Character> {
    let text = || "(\\PC|\n|: |Age|\\{\\{char\\}\\}|\\. ){0,12}";
    (text(), proptest::array::uniform8(text()), text(), text(), proptest::option::of(text())).prop_map(
        |(
            persona,
            [name, age, gender, race, birth_place, appearance, general_experience, personality],
            source,
            license,
            teacher,
        )| {
            Character {
                character_id: opencharacter_core::short_id("character", &[&persona, &name]),
                persona,
                profile: Profile { name, age, gender, race, birth_place, appearance, general_experience, personality },
                source,
                license,
                provenance: teacher.map(|teacher| Provenance { teacher, seed: u64::MAX, ..Provenance::default() }),
            }
        },
    )
}

proptest! {
    /// Whatever a character says comes back exactly, through every version and container.
    #[test]
    fn characters_come_back_exactly(character in any_character()) {
        let file = CardFile::new(Card::from_character(&character));
        for format in [CardFormat::Json(Spec::V1), CardFormat::Json(Spec::V2), CardFormat::Charx] {
            let read = CardFile::parse(&file.write(format).unwrap().bytes).unwrap();
            prop_assert_eq!(&read.card.to_character(), &character);
        }
    }

    /// A character put onto any card is the character that the card then has.
    #[test]
    fn a_card_has_the_character_that_was_set(character in any_character(), description in "(\\PC|\n|Age: |\\. ){0,20}", name in "\\PC{0,8}") {
        let mut card = Card { name, description, ..Card::default() };
        card.set_character(&character);
        prop_assert_eq!(card.to_character(), character);
    }
}

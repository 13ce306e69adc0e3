//! The native [`Character`] as a card and back.
//!
//! What a character knows exactly stands in `extensions.opencharacter`; the fields that people read and edit (name,
//! description, personality) are written from it. Read back, a field that a person edited since says what counts, and a
//! field that nobody touched means what the extension says.

use opencharacter_core::{Character, Profile, ProfileField, Provenance, short_id};
use serde_json::{Map, Value};

use crate::{Audience, Card, DrawKey, Macros};

/// The key of this program's own data in `extensions`.
pub(crate) const NAMESPACE: &str = "opencharacter";

/// Profile fields that stand as labelled lines in `description`.
const DESCRIBED: [ProfileField; 6] = [
    ProfileField::Age,
    ProfileField::Gender,
    ProfileField::Race,
    ProfileField::BirthPlace,
    ProfileField::Appearance,
    ProfileField::GeneralExperience,
];

impl Card {
    /// A new card of `character`. Greetings and examples are empty: a character has none.
    pub fn from_character(character: &Character) -> Self {
        let mut card = Self::default();
        card.set_character(character);
        card
    }

    /// The card's character.
    ///
    /// Of a stranger's card the persona is the first sentence of `description`, labelled lines (`Age: 52`) become profile
    /// fields, and the rest of `description` becomes `general_experience`; `{{char}}` is replaced by the name and
    /// `{{user}}` by `the user`. Nothing is made up.
    pub fn to_character(&self) -> Character {
        let macros = Macros {
            character: self.display_name(),
            user: "the user",
            original: None,
            draw: DrawKey { chat: "character", ..DrawKey::default() },
        };
        let stored = self.stored_character();
        let description = macros.expand(&self.description, "description", Audience::Prompt);
        let untouched = stored.as_ref().filter(|stored| description_of(stored) == self.description);
        let (persona, mut profile) = match untouched {
            Some(stored) => (stored.persona.clone(), Profile { personality: String::new(), ..stored.profile.clone() }),
            None => described(&description, stored.as_ref()),
        };
        profile.personality = match &stored {
            Some(stored) if stored.profile.personality == self.personality => stored.profile.personality.clone(),
            _ if self.personality.trim().is_empty() => profile.personality,
            _ => macros.expand(&self.personality, "personality", Audience::Prompt),
        };
        profile.name = match &stored {
            Some(stored) if stored.display_name() == self.display_name() => stored.profile.name.clone(),
            _ => self.display_name().trim().to_owned(),
        };
        let own = |key: &str| self.own(key).and_then(Value::as_str).map(str::to_owned);
        Character {
            character_id: own("character_id")
                .unwrap_or_else(|| short_id("character", &["card", &self.name, &self.description, &self.personality])),
            persona,
            profile,
            source: own("source").unwrap_or_default(),
            license: own("license").unwrap_or_default(),
            provenance: self.own("provenance").and_then(provenance),
        }
    }

    /// Makes the card say what `character` says. Texts that say it already stay as they are, to the letter.
    pub fn set_character(&mut self, character: &Character) {
        let before = self.to_character();
        if before.profile.name != character.profile.name || self.name.is_empty() {
            character.display_name().clone_into(&mut self.name);
            self.nickname.clear();
        }
        if before.profile.personality != character.profile.personality {
            self.personality.clone_from(&character.profile.personality);
        }
        let described = |character: &Character| {
            (character.persona.clone(), DESCRIBED.map(|field| character.profile.get(field).to_owned()))
        };
        if described(&before) != described(character) {
            self.description = description_of(character);
        }
        self.store(character);
    }

    /// Writes what is exact into the extension.
    fn store(&mut self, character: &Character) {
        let mut own = match self.extensions.shift_remove(NAMESPACE) {
            Some(Value::Object(own)) => own,
            _ => Map::new(),
        };
        let mut text = |key: &str, value: &str| own.insert(key.to_owned(), value.into());
        text("character_id", &character.character_id);
        text("persona", &character.persona);
        for (key, value) in [("source", &character.source), ("license", &character.license)] {
            text(key, value);
        }
        let profile =
            ProfileField::ALL.map(|field| (field.key().to_owned(), Value::from(character.profile.get(field))));
        own.insert("profile".into(), Value::Object(profile.into_iter().collect()));
        match &character.provenance {
            // It is made of strings and numbers: it cannot fail to be JSON.
            Some(known) => {
                own.insert("provenance".into(), serde_json::to_value(known).unwrap_or_default());
            }
            // Another program's account of the card's origin is not ours to remove.
            None if own.get("provenance").and_then(provenance).is_some() => {
                own.shift_remove("provenance");
            }
            None => {}
        }
        self.extensions.insert(NAMESPACE.into(), Value::Object(own));
        if !character.source.is_empty() && !self.source.contains(&character.source) {
            self.source.push(character.source.clone());
        }
    }

    fn own(&self, key: &str) -> Option<&Value> {
        self.extensions.get(NAMESPACE)?.get(key)
    }

    /// The persona and profile that the extension holds.
    fn stored_character(&self) -> Option<Character> {
        let persona = self.own("persona").and_then(Value::as_str);
        let profile = self.own("profile").and_then(|profile| serde_json::from_value::<Profile>(profile.clone()).ok());
        if persona.is_none() && profile.is_none() {
            return None;
        }
        let mut character = Character::from_name("", "", "");
        persona.unwrap_or_default().clone_into(&mut character.persona);
        character.profile = profile.unwrap_or_default();
        Some(character)
    }
}

fn provenance(value: &Value) -> Option<Provenance> {
    serde_json::from_value(value.clone()).ok()
}

/// What stands in `description`: the persona, then the labelled lines.
fn description_of(character: &Character) -> String {
    let mut text = character.persona.clone();
    for field in DESCRIBED {
        let value = character.profile.get(field);
        if !value.is_empty() {
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(field.label());
            text.push_str(": ");
            text.push_str(value);
        }
    }
    text
}

/// Persona and profile as a description says them; what it does not say is as it was `stored`.
fn described(description: &str, stored: Option<&Character>) -> (String, Profile) {
    let persona = match stored.map(|stored| stored.persona.as_str()) {
        Some(persona) if !persona.is_empty() && description.starts_with(persona) => persona.to_owned(),
        _ => first_sentence(description),
    };
    // A persona that has the first line for itself is not said twice.
    let rest =
        description.strip_prefix(persona.as_str()).filter(|rest| rest.is_empty() || rest.starts_with(['\n', '\r']));
    let said = Profile::from_text(rest.unwrap_or(description));
    let mut profile = stored.map(|stored| stored.profile.clone()).unwrap_or_default();
    for field in DESCRIBED {
        let value = said.get(field);
        if !value.is_empty() {
            profile.set(field, value);
        }
    }
    profile.personality = said.personality;
    (persona, profile)
}

/// The first sentence of a text, or its beginning where it does not end soon.
fn first_sentence(text: &str) -> String {
    const LONGEST: usize = 300;
    // Shorter than this, a point belongs to a title or an initial.
    const SHORTEST: usize = 12;
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let mut characters = line.char_indices().enumerate().peekable();
    while let Some((count, (position, character))) = characters.next() {
        if count >= LONGEST {
            return line[..position].trim_end().to_owned();
        }
        let ends_word = characters.peek().is_none_or(|(_, (_, next))| next.is_whitespace());
        if count >= SHORTEST && ends_word && matches!(character, '.' | '!' | '?' | '。') {
            return line[..position + character.len_utf8()].to_owned();
        }
    }
    line.to_owned()
}

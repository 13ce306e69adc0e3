use serde_json::{Map, Value};

use crate::{
    Asset, CardError, Lorebook, Spec, Warning,
    fields::{Field, Kept, Reader, as_one, by_commas, number},
    json::parse_json,
    spec::{Envelope, V1_FIELDS, warn_of_disagreement},
    warning::Warnings,
};

/// A character card: what V1, V2 and V3 say of a character, as one type.
///
/// Fields are named as in the specification. An empty string, list or map stands for a field that is absent. What has no
/// field here (unknown keys, nulls, values of a wrong type) is kept and written back by [`Card::to_json`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Card {
    /// The version that it was read as; V3 for a new one.
    pub spec: Spec,
    /// The name; `{{char}}`, unless there is a nickname.
    pub name: String,
    /// Who the character is.
    pub description: String,
    /// Its personality, in short.
    pub personality: String,
    /// Where the conversation takes place.
    pub scenario: String,
    /// The first message of a chat.
    pub first_mes: String,
    /// Example dialogues, each after a line `<START>`.
    pub mes_example: String,
    /// For the user to read, never in a prompt.
    pub creator_notes: String,
    /// Replaces the user's system prompt; `{{original}}` in it stands for that.
    pub system_prompt: String,
    /// Replaces the user's text after the history, by the same rule.
    pub post_history_instructions: String,
    /// Further first messages.
    pub alternate_greetings: Vec<String>,
    /// The character's own lorebook.
    pub character_book: Option<Lorebook>,
    /// For sorting and filtering, case ignored.
    pub tags: Vec<String>,
    /// Who made the card.
    pub creator: String,
    /// The card's version, as its creator counts.
    pub character_version: String,
    /// What programs keep for themselves, each under its own name.
    pub extensions: Map<String, Value>,
    /// V3: pictures and other files. `None` means one icon, the container's own picture.
    pub assets: Option<Vec<Asset>>,
    /// V3: what `{{char}}` stands for when it is not empty.
    pub nickname: String,
    /// V3: language code (ISO 639-1) to `creator_notes` in that language.
    pub creator_notes_multilingual: Map<String, Value>,
    /// V3: ids or addresses of where the card comes from; append only.
    pub source: Vec<String>,
    /// V3: first messages for groups.
    pub group_only_greetings: Vec<String>,
    /// V3: seconds since 1970, UTC; 0 is unknown. Never changed once set.
    pub creation_date: Option<f64>,
    /// V3: seconds since 1970, UTC.
    pub modification_date: Option<f64>,
    /// What else stood in `data`.
    pub kept: Kept,
    /// What stood around `data`.
    pub kept_around: Kept,
}

impl Card {
    /// Reads a card's JSON text, of any version; `place` names it in messages.
    ///
    /// # Errors
    /// [`CardError::Encoding`], [`CardError::Json`], [`CardError::TooLarge`], [`CardError::Shape`].
    pub fn parse(json: &[u8], place: &str) -> Result<(Self, Vec<Warning>), CardError> {
        let mut warnings = Warnings::default();
        let value = parse_json(json, place, &mut warnings)?;
        let card = Self::read(value, place, &mut warnings)?;
        Ok((card, warnings.into_vec()))
    }

    pub(crate) fn read(value: Value, place: &str, warnings: &mut Warnings) -> Result<Self, CardError> {
        let Envelope { spec, around, data } = Envelope::open(value, place, warnings)?;
        let mut reader = Reader::new(data, if spec == Spec::V1 { "" } else { "data" }, warnings);
        warn_of_disagreement(&around, &mut reader);
        // Pygmalion's names of the V1 fields come second.
        let mut text_or = |key: &str, other: &str| {
            let text = reader.text(key);
            if text.is_empty() { reader.text(other) } else { text }
        };
        let mut card = Self {
            spec,
            name: text_or("name", "char_name"),
            description: text_or("description", "char_persona"),
            scenario: text_or("scenario", "world_scenario"),
            first_mes: text_or("first_mes", "char_greeting"),
            mes_example: text_or("mes_example", "example_dialogue"),
            kept_around: Kept::of(around),
            ..Self::default()
        };
        card.read_rest(&mut reader);
        card.kept = reader.finish();
        if card.name.trim().is_empty() {
            warnings.add("name", "empty; `{{char}}` stands for nothing");
        }
        Ok(card)
    }

    fn read_rest(&mut self, reader: &mut Reader<'_>) {
        self.personality = reader.text("personality");
        self.creator_notes = reader.text("creator_notes");
        self.system_prompt = reader.text("system_prompt");
        self.post_history_instructions = reader.text("post_history_instructions");
        self.alternate_greetings = reader.list("alternate_greetings", as_one);
        self.tags = reader.list("tags", by_commas);
        self.creator = reader.text("creator");
        self.character_version = reader.text("character_version");
        self.extensions = reader.object("extensions");
        self.nickname = reader.text("nickname");
        self.creator_notes_multilingual = reader.object("creator_notes_multilingual");
        self.source = reader.list("source", as_one);
        self.group_only_greetings = reader.list("group_only_greetings", as_one);
        self.creation_date = reader.number("creation_date");
        self.modification_date = reader.number("modification_date");
        self.character_book = Lorebook::of_card(reader, self.spec);
        self.assets = Asset::list(reader);
    }

    /// The card as the JSON of `spec`.
    ///
    /// Nothing is lost on the way down: fields that `spec` does not know stand where they stood, as unknown fields, and a
    /// lorebook's decorators, which V2 forbids, move into each entry's extensions until it is read again. Only two fields
    /// go: `chat` and `fav` at the top, by which `SillyTavern` notes what its user does with the card.
    pub fn to_json(&self, spec: Spec) -> Value {
        let mut data = self.kept.overlay(self.fields(spec));
        if spec == Spec::V1 {
            for (key, value) in self.kept_around.values() {
                if !["spec", "spec_version", "data"].contains(&key.as_str()) && !data.contains_key(key) {
                    data.insert(key.clone(), value.clone());
                }
            }
            remove_private(&mut data);
            return Value::Object(data);
        }
        let mut top = self.kept_around.values().clone();
        remove_private(&mut top);
        if spec != self.spec || !top.contains_key("spec") {
            for (key, text) in [("spec", spec.name().unwrap_or_default()), ("spec_version", spec.version())] {
                top.insert(key.into(), text.into());
            }
        }
        if self.spec == Spec::V1 {
            remove_private(&mut data);
        }
        for key in V1_FIELDS {
            // Copies at the top go on being copies.
            if top.contains_key(key) && top.get(key) == self.kept.values().get(key) {
                top.insert(key.into(), data.get(key).cloned().unwrap_or_default());
            }
        }
        top.insert("data".into(), Value::Object(data));
        Value::Object(top)
    }

    fn fields(&self, spec: Spec) -> Vec<Field> {
        let above = |lowest: Spec, key, value: Value, default: Value| {
            if spec >= lowest { Field::required(key, value) } else { Field::optional(key, value, default) }
        };
        let text = |key, text: &str| above(Spec::V2, key, text.into(), "".into());
        let list = |lowest, key, items: &[String]| above(lowest, key, items.into(), Value::Array(Vec::new()));
        vec![
            Field::required("name", self.name.as_str()),
            Field::required("description", self.description.as_str()),
            Field::required("personality", self.personality.as_str()),
            Field::required("scenario", self.scenario.as_str()),
            Field::required("first_mes", self.first_mes.as_str()),
            Field::required("mes_example", self.mes_example.as_str()),
            text("creator_notes", &self.creator_notes),
            text("system_prompt", &self.system_prompt),
            text("post_history_instructions", &self.post_history_instructions),
            list(Spec::V2, "alternate_greetings", &self.alternate_greetings),
            Field::optional(
                "character_book",
                self.character_book.as_ref().map_or(Value::Null, |book| book.to_value(spec)),
                Value::Null,
            ),
            list(Spec::V2, "tags", &self.tags),
            text("creator", &self.creator),
            text("character_version", &self.character_version),
            above(Spec::V2, "extensions", self.extensions.clone().into(), Map::new().into()),
            Field::optional("assets", self.assets.as_deref().map_or(Value::Null, Asset::to_value), Value::Null),
            Field::optional("nickname", self.nickname.as_str(), ""),
            Field::optional("creator_notes_multilingual", self.creator_notes_multilingual.clone(), Map::new()),
            Field::optional("source", self.source.as_slice(), Value::Array(Vec::new())),
            list(Spec::V3, "group_only_greetings", &self.group_only_greetings),
            Field::optional("creation_date", self.creation_date.map_or(Value::Null, number), Value::Null),
            Field::optional("modification_date", self.modification_date.map_or(Value::Null, number), Value::Null),
        ]
    }

    /// What `{{char}}` stands for.
    pub fn display_name(&self) -> &str {
        if self.nickname.trim().is_empty() { &self.name } else { &self.nickname }
    }

    /// All first messages: `first_mes` is number 0, the first of `alternate_greetings` number 1.
    pub fn greetings(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.first_mes).chain(&self.alternate_greetings).map(String::as_str)
    }

    /// Whether it holds what V2 has no field for, so that a program that knows only V2 shows less.
    pub(crate) fn needs_v3(&self) -> bool {
        !self.nickname.is_empty()
            || self.assets.as_ref().is_some_and(|assets| !assets.is_empty())
            || !self.group_only_greetings.is_empty()
            || self.character_book.as_ref().is_some_and(Lorebook::needs_v3)
    }
}

/// Removes what `SillyTavern` notes at the top about its user: the last chat's file, and whether it is a favourite.
fn remove_private(top: &mut Map<String, Value>) {
    top.shift_remove("chat");
    top.shift_remove("fav");
}

use serde_json::{Map, Value, json};

use crate::{
    CardError, Entry, Spec, Warning,
    decorators::split_decorators,
    fields::{Field, Kept, Reader, number},
    json::{kind_of, parse_json},
    warning::Warnings,
};

/// A lorebook: texts that enter the prompt when the conversation comes to speak of them (V2 `character_book`, V3
/// `Lorebook`).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lorebook {
    /// Not for prompts.
    pub name: String,
    /// Not for prompts.
    pub description: String,
    /// How many of the newest messages are searched for keys; absent: the front end's choice.
    pub scan_depth: Option<f64>,
    /// How many tokens its entries may take together; absent: the front end's choice.
    pub token_budget: Option<f64>,
    /// Whether what is inserted is searched for keys too.
    pub recursive_scanning: bool,
    /// What programs keep for themselves.
    pub extensions: Map<String, Value>,
    /// The entries.
    pub entries: Vec<Entry>,
    /// What else stood in it.
    pub kept: Kept,
}

impl Lorebook {
    /// Reads a lorebook's own file: V3 (`lorebook_v3`), a bare book, or `SillyTavern`'s world info.
    ///
    /// # Errors
    /// [`CardError::Encoding`], [`CardError::Json`], [`CardError::TooLarge`], [`CardError::Shape`].
    pub fn parse(json: &[u8]) -> Result<(Self, Vec<Warning>), CardError> {
        const PLACE: &str = "lorebook";
        let expected = |found: &str| {
            CardError::shape(
                PLACE,
                format!(
                    "expected an object with `entries` (a lorebook or a SillyTavern world), or one with `spec` \
                     `lorebook_v3` and `data`, found {found}; is it another file's JSON?"
                ),
            )
        };
        let mut warnings = Warnings::default();
        let mut book = match parse_json(json, PLACE, &mut warnings)? {
            Value::Object(map) => map,
            other => return Err(expected(kind_of(&other))),
        };
        if let Some(Value::Object(data)) = book.get_mut("data") {
            book = std::mem::take(data);
        }
        if !book.get("entries").is_some_and(|entries| entries.is_array() || entries.is_object()) {
            return Err(expected("an object without them"));
        }
        let book = Self::read(book, String::new(), Spec::V3, &mut warnings);
        Ok((book, warnings.into_vec()))
    }

    /// The book as a file of its own, as V3 says (`lorebook_v3`).
    pub fn to_json(&self) -> Value {
        json!({"spec": "lorebook_v3", "data": self.to_value(Spec::V3)})
    }

    /// The field `character_book` of a card.
    pub(crate) fn of_card(reader: &mut Reader<'_>, spec: Spec) -> Option<Self> {
        let Value::Object(map) = reader.value("character_book")? else {
            reader.unreadable("character_book", "an object", Value::Null);
            return None;
        };
        let place = reader.place("character_book");
        Some(Self::read(map, place, spec, reader.warnings()))
    }

    fn read(map: Map<String, Value>, place: String, spec: Spec, warnings: &mut Warnings) -> Self {
        let mut reader = Reader::new(map, place, warnings);
        let mut book = Self {
            name: reader.text("name"),
            description: reader.text("description"),
            scan_depth: reader.number("scan_depth"),
            token_budget: reader.number("token_budget"),
            recursive_scanning: reader.flag("recursive_scanning", false),
            extensions: reader.object("extensions"),
            ..Self::default()
        };
        book.entries = Entry::list(&mut reader, spec);
        book.kept = reader.finish();
        book
    }

    pub(crate) fn to_value(&self, spec: Spec) -> Value {
        let optional_number =
            |key, value: Option<f64>| Field::optional(key, value.map_or(Value::Null, number), Value::Null);
        Value::Object(self.kept.overlay([
            Field::optional("name", self.name.as_str(), ""),
            Field::optional("description", self.description.as_str(), ""),
            optional_number("scan_depth", self.scan_depth),
            optional_number("token_budget", self.token_budget),
            Field::optional("recursive_scanning", self.recursive_scanning, false),
            Field::required("extensions", self.extensions.clone()),
            Field::required("entries", Entry::to_values(&self.entries, spec)),
        ]))
    }

    /// Whether an entry has what V2 has no field for.
    pub(crate) fn needs_v3(&self) -> bool {
        self.entries.iter().any(|entry| entry.use_regex || !split_decorators(&entry.content).0.is_empty())
    }
}

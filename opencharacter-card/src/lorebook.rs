use serde_json::{Map, Value, json};

use crate::{
    CardError, Spec, Warning,
    character::NAMESPACE,
    decorators::split_decorators,
    fields::{Field, Kept, Reader, by_commas, number},
    json::{kind_of, parse_json},
    warning::Warnings,
    world_info,
};

/// Where [`Entry::extensions`] keep, under [`NAMESPACE`], the decorators that V2 has no place for.
const DECORATORS: &str = "decorators";

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

/// One entry of a [`Lorebook`].
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the format")]
pub struct Entry {
    /// Any of them found in the searched messages makes the entry match.
    pub keys: Vec<String>,
    /// With `selective`, one of these must be found too.
    pub secondary_keys: Vec<String>,
    /// The text to insert; V3 allows decorators (`@@depth 4`) in its first lines.
    pub content: String,
    /// What programs keep for themselves. `SillyTavern`'s gates and positions stand here and are honoured.
    pub extensions: Map<String, Value>,
    /// An entry that is not enabled never matches.
    pub enabled: bool,
    /// Lower is earlier in the prompt.
    pub insertion_order: f64,
    /// V3: the keys are regular expressions.
    pub use_regex: bool,
    /// Matches always.
    pub constant: bool,
    /// Whether `secondary_keys` count.
    pub selective: bool,
    /// Whether `A` and `a` differ in keys; absent: they do not.
    pub case_sensitive: Option<bool>,
    /// The lowest goes first when the budget is spent.
    pub priority: Option<f64>,
    /// Before or after the character's definition; absent: before it.
    pub position: Option<EntryPosition>,
    /// Not for prompts.
    pub name: String,
    /// Not for prompts.
    pub comment: String,
    /// What else stood in it, its `id` among that.
    pub kept: Kept,
}

/// Where a [`Lorebook`]'s entry goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryPosition {
    /// `before_char`
    BeforeCharacter,
    /// `after_char`
    AfterCharacter,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            keys: Vec::new(),
            secondary_keys: Vec::new(),
            content: String::new(),
            extensions: Map::new(),
            enabled: true,
            insertion_order: DEFAULT_ORDER,
            use_regex: false,
            constant: false,
            selective: false,
            case_sensitive: None,
            priority: None,
            position: None,
            name: String::new(),
            comment: String::new(),
            kept: Kept::default(),
        }
    }
}

/// `SillyTavern`'s default of `insertion_order`.
const DEFAULT_ORDER: f64 = 100.0;

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
        let mut book = match parse_json(json, PLACE)? {
            Value::Object(map) => map,
            other => return Err(expected(kind_of(&other))),
        };
        if let Some(Value::Object(data)) = book.get_mut("data") {
            book = std::mem::take(data);
        }
        if !book.get("entries").is_some_and(|entries| entries.is_array() || entries.is_object()) {
            return Err(expected("an object without them"));
        }
        let mut warnings = Warnings::default();
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

impl Entry {
    fn list(reader: &mut Reader<'_>, spec: Spec) -> Vec<Self> {
        let place = reader.place("entries");
        let items: Vec<Value> = match reader.value("entries") {
            None => return Vec::new(),
            Some(Value::Array(items)) => items,
            // SillyTavern's own files say `{"0": {...}, "1": {...}}`.
            Some(Value::Object(by_id)) => {
                by_id.into_iter().map(|(_, entry)| world_info::to_card_entry(entry)).collect()
            }
            Some(_) => {
                reader.unreadable("entries", "a list", Value::Array(Vec::new()));
                return Vec::new();
            }
        };
        let count = items.len();
        let mut entries = Vec::with_capacity(count);
        for (index, item) in items.into_iter().enumerate() {
            if let Value::Object(map) = item {
                entries.push(Self::read(map, format!("{place}[{index}]"), spec, reader.warnings()));
            }
        }
        if entries.len() < count {
            reader.unreadable("entries", "a list of objects", Self::to_values(&entries, spec));
        }
        entries
    }

    fn read(map: Map<String, Value>, place: String, spec: Spec, warnings: &mut Warnings) -> Self {
        let mut reader = Reader::new(map, place, warnings);
        let mut entry = Self {
            keys: reader.list("keys", by_commas),
            secondary_keys: reader.list("secondary_keys", by_commas),
            content: reader.text("content"),
            extensions: reader.object("extensions"),
            enabled: reader.flag("enabled", true),
            insertion_order: reader.number_or("insertion_order", DEFAULT_ORDER),
            use_regex: reader.flag("use_regex", false),
            constant: reader.flag("constant", false),
            selective: reader.flag("selective", false),
            case_sensitive: reader.optional_flag("case_sensitive"),
            priority: reader.number("priority"),
            position: EntryPosition::read(&mut reader),
            name: reader.text("name"),
            comment: reader.text("comment"),
            kept: Kept::default(),
        };
        entry.kept = reader.finish();
        if spec == Spec::V2 {
            entry.take_decorators_back();
        }
        entry
    }

    fn to_values(entries: &[Self], spec: Spec) -> Value {
        entries.iter().map(|entry| entry.to_value(spec)).collect()
    }

    fn to_value(&self, spec: Spec) -> Value {
        let (content, extensions) =
            if spec == Spec::V2 { self.without_decorators() } else { (self.content.clone(), self.extensions.clone()) };
        let position = self.position.map_or(Value::Null, |position| position.as_str().into());
        let use_regex = if spec == Spec::V3 {
            Field::required("use_regex", self.use_regex)
        } else {
            Field::optional("use_regex", self.use_regex, false)
        };
        Value::Object(self.kept.overlay([
            Field::required("keys", self.keys.as_slice()),
            Field::required("content", content),
            Field::required("extensions", extensions),
            Field::required("enabled", self.enabled),
            Field::required("insertion_order", number(self.insertion_order)),
            use_regex,
            Field::optional("secondary_keys", self.secondary_keys.as_slice(), Value::Array(Vec::new())),
            Field::optional("constant", self.constant, false),
            Field::optional("selective", self.selective, false),
            Field::optional("case_sensitive", self.case_sensitive, Value::Null),
            Field::optional("priority", self.priority.map_or(Value::Null, number), Value::Null),
            Field::optional("position", position, Value::Null),
            Field::optional("name", self.name.as_str(), ""),
            Field::optional("comment", self.comment.as_str(), ""),
        ]))
    }

    /// Content and extensions as V2 wants them: the decorators moved into the extensions.
    fn without_decorators(&self) -> (String, Map<String, Value>) {
        let mut extensions = self.extensions.clone();
        let (decorators, content) = split_decorators(&self.content);
        if decorators.is_empty() {
            return (self.content.clone(), extensions);
        }
        let own = extensions.entry(NAMESPACE).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(own) = own else { return (self.content.clone(), extensions) };
        own.insert(DECORATORS.into(), decorators.into());
        (content.to_owned(), extensions)
    }

    fn take_decorators_back(&mut self) {
        let Some(Value::Object(own)) = self.extensions.get_mut(NAMESPACE) else { return };
        let Some(Value::String(decorators)) = own.shift_remove(DECORATORS) else { return };
        if own.is_empty() {
            self.extensions.shift_remove(NAMESPACE);
        }
        self.content.insert_str(0, &decorators);
    }

    /// What a person knows it by: its name, comment, id or first key.
    pub fn label(&self) -> String {
        let id = || match self.kept.values().get("id") {
            Some(Value::Number(id)) => Some(format!("entry {id}")),
            Some(Value::String(id)) if !id.is_empty() => Some(format!("entry {id}")),
            _ => None,
        };
        let filled = |text: &String| (!text.trim().is_empty()).then(|| text.chars().take(60).collect());
        filled(&self.name)
            .or_else(|| filled(&self.comment))
            .or_else(|| self.keys.first().and_then(filled))
            .or_else(id)
            .unwrap_or_else(|| "entry without a name".into())
    }
}

impl EntryPosition {
    fn as_str(self) -> &'static str {
        match self {
            Self::BeforeCharacter => "before_char",
            Self::AfterCharacter => "after_char",
        }
    }

    fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let found = reader.value("position")?;
        match (found.as_str(), found.as_i64()) {
            (Some("before_char"), _) | (_, Some(0)) => Some(Self::BeforeCharacter),
            (Some("after_char"), _) | (_, Some(1)) => Some(Self::AfterCharacter),
            (Some(""), _) => None,
            _ => {
                reader.unreadable("position", "`before_char` or `after_char`", Value::Null);
                None
            }
        }
    }
}

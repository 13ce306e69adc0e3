use serde_json::{Map, Value};

use crate::{
    Spec,
    character::NAMESPACE,
    decorators::split_decorators,
    fields::{Field, Kept, Reader, by_commas, number},
    limits,
    warning::Warnings,
    world_info,
};

/// Where [`Entry::extensions`] keep, under [`NAMESPACE`], the decorators that V2 has no place for.
const DECORATORS: &str = "decorators";

/// One entry of a [`Lorebook`](crate::Lorebook).
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

/// Where a lorebook's entry goes.
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

impl Entry {
    pub(crate) fn list(reader: &mut Reader<'_>, spec: Spec) -> Vec<Self> {
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
        if items.len() > limits::LIST_ITEMS {
            reader.unreadable("entries", "a shorter list", Value::Array(Vec::new()));
            return Vec::new();
        }
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

    pub(crate) fn to_values(entries: &[Self], spec: Spec) -> Value {
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

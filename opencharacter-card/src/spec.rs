use std::fmt;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::{CardError, fields::Reader, json::kind_of, warning::Warnings};

/// A version of the character card specification.
///
/// V1 and V2: `malfoyslastname/character-card-spec-v2`; V3: `kwaroran/character-card-spec-v3`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Spec {
    /// Six strings in a flat object.
    V1,
    /// `chara_card_v2`: lorebook, greetings, extensions.
    V2,
    /// `chara_card_v3`: assets, decorators, macros.
    #[default]
    V3,
}

impl Spec {
    /// What stands in `spec`; V1 has no such field.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::V1 => None,
            Self::V2 => Some("chara_card_v2"),
            Self::V3 => Some("chara_card_v3"),
        }
    }

    /// What stands in `spec_version`.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::V1 => "1.0",
            Self::V2 => "2.0",
            Self::V3 => "3.0",
        }
    }
}

impl fmt::Display for Spec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::V1 => "V1",
            Self::V2 => "V2",
            Self::V3 => "V3",
        })
    }
}

/// A card's object, taken apart: its version, what stands around `data`, and `data`.
pub(crate) struct Envelope {
    pub(crate) spec: Spec,
    /// Empty for V1, whose fields stand at the top. `data` is null in here and marks its place.
    pub(crate) around: Map<String, Value>,
    pub(crate) data: Map<String, Value>,
}

impl Envelope {
    /// Finds the version by what is there: a missing `spec` with `data` is V2, without it V1.
    pub(crate) fn open(value: Value, place: &str, warnings: &mut Warnings) -> Result<Self, CardError> {
        let Value::Object(mut top) = value else {
            return Err(CardError::shape(
                place,
                format!("expected a card, which is an object, found {}; is it another file's JSON?", kind_of(&value)),
            ));
        };
        refuse_lorebook(&top, place)?;
        if !top.get("data").is_some_and(Value::is_object) {
            if looks_like_v1(&top) {
                if top.get("spec").is_some_and(|spec| !spec.is_null()) {
                    warnings.add("data", "missing, though `spec` is there; the fields at the top were taken");
                }
                return Ok(Self { spec: Spec::V1, around: Map::new(), data: top });
            }
            return Err(CardError::shape(
                place,
                "expected a card: an object with `spec` and `data` (V2, V3), or with `name`, `description`, \
                 `personality`, `scenario`, `first_mes` and `mes_example` (V1); is it another file's JSON?",
            ));
        }
        let spec = spec_of(&top, warnings);
        let data = match top.insert("data".into(), Value::Null) {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        Ok(Self { spec, around: top, data })
    }
}

/// What V1 exports have besides a name; one of them tells a card from any other object.
const V1_MARKS: [&str; 8] = [
    "first_mes",
    "mes_example",
    "personality",
    "scenario",
    "char_persona",
    "char_greeting",
    "example_dialogue",
    "world_scenario",
];

fn looks_like_v1(top: &Map<String, Value>) -> bool {
    let has = |key: &str| top.get(key).is_some_and(|value| value.is_string() || value.is_null());
    (has("name") || has("char_name")) && V1_MARKS.iter().any(|key| has(key))
}

fn refuse_lorebook(top: &Map<String, Value>, place: &str) -> Result<(), CardError> {
    let spec = top.get("spec").and_then(Value::as_str).unwrap_or_default();
    if spec.starts_with("lorebook") || top.contains_key("entries") && !top.contains_key("data") {
        return Err(CardError::shape(
            place,
            "this is a lorebook and no card; add it to a card, or read it as a lorebook",
        ));
    }
    Ok(())
}

fn spec_of(top: &Map<String, Value>, warnings: &mut Warnings) -> Spec {
    let name = top.get("spec").and_then(Value::as_str).map(|name| name.trim().to_ascii_lowercase());
    let version = match top.get("spec_version") {
        Some(Value::String(text)) => text.trim().parse::<f64>().ok(),
        Some(Value::Number(number)) => number.as_f64(),
        _ => None,
    };
    let spec = match name.as_deref() {
        Some("chara_card_v2") => Spec::V2,
        Some("chara_card_v3") => Spec::V3,
        Some("chara_card_v1") => Spec::V1,
        Some(unknown) => {
            let shown: String = unknown.chars().take(40).collect();
            let taken = if version.is_some_and(|version| version < 3.0) { Spec::V2 } else { Spec::V3 };
            warnings.add("spec", format!("`{shown}` is not known; read as {taken}, what it adds is kept unread"));
            taken
        }
        None if version.is_some_and(|version| version >= 3.0) => {
            warnings.add("spec", "missing; read as V3 by its `spec_version`");
            Spec::V3
        }
        None => {
            warnings.add("spec", "missing; read as V2, because there is `data`");
            Spec::V2
        }
    };
    let newest = if spec == Spec::V3 { 3.0 } else { 2.0 };
    if let Some(version) = version.filter(|version| *version > newest) {
        warnings.add("spec_version", format!("{version} is newer than {spec}; what it adds is kept unread"));
    }
    // A flat object never comes here; with `data`, V1 has the shape of V2.
    spec.max(Spec::V2)
}

/// Warns of fields that stand at the top too (as `SillyTavern` writes them) and say something else there.
pub(crate) fn warn_of_disagreement(around: &Map<String, Value>, reader: &mut Reader<'_>) {
    for key in V1_FIELDS {
        let (Some(outer), Some(inner)) = (around.get(key).and_then(Value::as_str), reader.value(key)) else { continue };
        if inner.as_str().is_some_and(|inner| inner != outer) {
            reader.warnings().add(key, "stands at the top and in `data` and differs; the one in `data` was taken");
        }
    }
}

/// The six fields of V1.
pub(crate) const V1_FIELDS: [&str; 6] = ["name", "description", "personality", "scenario", "first_mes", "mes_example"];

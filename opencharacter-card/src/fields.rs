//! Reading the fields of a JSON object as types, and writing them back over what was read.
//!
//! Every object of a card keeps the map that it was read from ([`Kept`]). Writing lays the typed fields over a copy of
//! it: unknown fields, their order, nulls, and values of a wrong type that nobody changed come out as they went in.

use serde_json::{Map, Number, Value};

use crate::{json::kind_of, warning::Warnings};

/// What was read and is written back although no field holds it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept {
    values: Map<String, Value>,
    /// What a field holds instead of a value that could not be read: unless it changed, the value is left alone.
    instead: Map<String, Value>,
}

/// A typed field on its way out.
pub(crate) struct Field {
    key: &'static str,
    /// `Null` removes the key.
    value: Value,
    /// Written only where the key was there before.
    omit: bool,
}

impl Field {
    /// Must be there whatever it holds.
    pub(crate) fn required(key: &'static str, value: impl Into<Value>) -> Self {
        Self { key, value: value.into(), omit: false }
    }

    /// May be absent when it holds `default`.
    pub(crate) fn optional(key: &'static str, value: impl Into<Value>, default: impl Into<Value>) -> Self {
        let value = value.into();
        let omit = value == default.into();
        Self { key, value, omit }
    }
}

impl Kept {
    /// Of a map that no field was read from.
    pub(crate) fn of(values: Map<String, Value>) -> Self {
        Self { values, instead: Map::new() }
    }

    pub(crate) fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// The map that was read, with `fields` laid over it.
    pub(crate) fn overlay(&self, fields: impl IntoIterator<Item = Field>) -> Map<String, Value> {
        let mut map = self.values.clone();
        for Field { key, value, omit } in fields {
            let old = map.get(key);
            if self.instead.get(key) == Some(&value)
                || old.is_some_and(|old| same(old, &value))
                || omit && old.is_none_or(Value::is_null)
            {
                continue;
            }
            if value.is_null() {
                map.shift_remove(key);
            } else {
                map.insert(key.to_owned(), value);
            }
        }
        map
    }
}

/// Equal as JSON sees it: `1` and `1.0` are one number.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(left), Value::Number(right)) => left.as_f64() == right.as_f64(),
        _ => left == right,
    }
}

/// A number as JSON writes it: without a point where it is whole.
pub(crate) fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Value::Number((value as i64).into());
    }
    Number::from_f64(value).map_or(Value::Null, Value::Number)
}

/// Reads fields, takes null for absent and near types for what is meant, and warns of the rest.
pub(crate) struct Reader<'a> {
    kept: Kept,
    place: String,
    warnings: &'a mut Warnings,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(values: Map<String, Value>, place: impl Into<String>, warnings: &'a mut Warnings) -> Self {
        Self { kept: Kept::of(values), place: place.into(), warnings }
    }

    /// All fields are read: what is to be kept of the object.
    pub(crate) fn finish(self) -> Kept {
        self.kept
    }

    pub(crate) fn warnings(&mut self) -> &mut Warnings {
        self.warnings
    }

    /// The field's place in messages.
    pub(crate) fn place(&self, key: &str) -> String {
        if self.place.is_empty() { key.to_owned() } else { format!("{}.{key}", self.place) }
    }

    /// The value, where there is one and it is not null.
    pub(crate) fn value(&self, key: &str) -> Option<Value> {
        self.kept.values.get(key).filter(|value| !value.is_null()).cloned()
    }

    pub(crate) fn text(&mut self, key: &str) -> String {
        match self.kept.values.get(key) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(flag)) => flag.to_string(),
            Some(_) => {
                self.unreadable(key, "a string", "");
                String::new()
            }
        }
    }

    /// A list of strings. One string is taken as a list of what `split` makes of it.
    pub(crate) fn list(&mut self, key: &str, split: fn(&str) -> Vec<String>) -> Vec<String> {
        match self.kept.values.get(key) {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(text)) => split(text),
            Some(Value::Array(items)) => {
                let mut whole = true;
                let texts: Vec<String> = items
                    .iter()
                    .filter_map(|item| match item {
                        Value::String(text) => Some(text.clone()),
                        Value::Number(number) => Some(number.to_string()),
                        Value::Null => None,
                        _ => {
                            whole = false;
                            None
                        }
                    })
                    .collect();
                if !whole {
                    self.unreadable(key, "a list of strings", texts.clone());
                }
                texts
            }
            Some(_) => {
                self.unreadable(key, "a list of strings", Vec::<Value>::new());
                Vec::new()
            }
        }
    }

    pub(crate) fn flag(&mut self, key: &str, default: bool) -> bool {
        self.optional_flag(key).unwrap_or_else(|| {
            self.stands_for(key, default);
            default
        })
    }

    /// Says what a value that could not be read is taken for.
    fn stands_for(&mut self, key: &str, default: impl Into<Value>) {
        if let Some(instead) = self.kept.instead.get_mut(key) {
            *instead = default.into();
        }
    }

    pub(crate) fn optional_flag(&mut self, key: &str) -> Option<bool> {
        match self.kept.values.get(key)? {
            Value::Null => None,
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => Some(number.as_f64() != Some(0.0)),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => {
                self.unreadable(key, "true or false", Value::Null);
                None
            }
        }
    }

    pub(crate) fn number_or(&mut self, key: &str, default: f64) -> f64 {
        self.number(key).unwrap_or_else(|| {
            self.stands_for(key, number(default));
            default
        })
    }

    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        let found = match self.kept.values.get(key)? {
            Value::Null => return None,
            Value::String(text) if text.trim().is_empty() => return None,
            Value::Number(number) => number.as_f64(),
            Value::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let found = found.filter(|number| number.is_finite());
        if found.is_none() {
            self.unreadable(key, "a number", Value::Null);
        }
        found
    }

    pub(crate) fn object(&mut self, key: &str) -> Map<String, Value> {
        match self.kept.values.get(key) {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(map)) => map.clone(),
            // PHP writes an empty object so.
            Some(Value::Array(items)) if items.is_empty() => Map::new(),
            Some(_) => {
                self.unreadable(key, "an object", Map::new());
                Map::new()
            }
        }
    }

    /// Warns that the field does not hold what was `expected`, and remembers what it is taken for.
    pub(crate) fn unreadable(&mut self, key: &str, expected: &str, instead: impl Into<Value>) {
        let found = match self.kept.values.get(key).map_or("nothing", kind_of) {
            "a list" if expected.starts_with("a list") => "a list with something else in it",
            other => other,
        };
        let place = self.place(key);
        self.warnings.add(place, format!("expected {expected}, found {found}; it is kept and not used"));
        self.kept.instead.insert(key.to_owned(), instead.into());
    }
}

/// A string with commas, as a list.
pub(crate) fn by_commas(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A string as a list of one; none when it is blank.
pub(crate) fn as_one(text: &str) -> Vec<String> {
    if text.trim().is_empty() { Vec::new() } else { vec![text.to_owned()] }
}

//! JSON values as what they should be, with messages that name the field to blame.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// `value` as a `T`, or a reason that names the field to blame.
pub(crate) fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| {
        let message = error.to_string();
        let Value::Object(row) = value else {
            return format!("expected a JSON object, found {}", kind_of(value));
        };
        // serde does not say where a type is wrong. The field to blame is the one without which the complaint differs.
        let to_blame = row.keys().find(|&key| {
            let mut without = row.clone();
            without.shift_remove(key);
            T::deserialize(&Value::Object(without)).err().is_none_or(|other| other.to_string() != message)
        });
        match to_blame {
            Some(key) if !message.contains(&format!("`{key}`")) => format!("field `{key}`: {message}"),
            _ => message,
        }
    })
}

/// What `value` is, for a message.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

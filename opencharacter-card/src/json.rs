use serde_json::Value;

use crate::{CardError, limits};

/// The value written in `bytes`; `place` names them in messages.
///
/// Size, number of values and depth are bounded before anything of them is in memory.
pub(crate) fn parse_json(bytes: &[u8], place: &str) -> Result<Value, CardError> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let too_large = |size: usize, limit: usize, unit| CardError::TooLarge {
        what: place.to_owned(),
        size: size as u64,
        limit: limit as u64,
        unit,
    };
    if bytes.len() > limits::JSON_BYTES {
        return Err(too_large(bytes.len(), limits::JSON_BYTES, "bytes"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        CardError::encoding(place, format!("invalid UTF-8 at byte {}; expected JSON in UTF-8", error.valid_up_to()))
    })?;
    let values = count_values(bytes);
    if values > limits::JSON_VALUES {
        return Err(too_large(values, limits::JSON_VALUES, "values"));
    }
    serde_json::from_str(text).map_err(|reason| CardError::Json { place: place.to_owned(), reason })
}

/// How many values a JSON text holds, roughly: each comes after a bracket, a colon or a comma.
fn count_values(text: &[u8]) -> usize {
    let (mut in_string, mut escaped, mut count) = (false, false, 1);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'[' | b'{' | b',' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// The kind of a value, for messages.
pub(crate) fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_short_values_are_refused_before_they_are_made() {
        let text = format!("[{}0]", "0,".repeat(limits::JSON_VALUES));
        assert!(matches!(parse_json(text.as_bytes(), "x"), Err(CardError::TooLarge { unit: "values", .. })));
        let prose = format!("\"{}\"", "a, {b} [c] \\\" ".repeat(limits::JSON_VALUES / 8));
        assert!(parse_json(prose.as_bytes(), "x").is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse_json("[".repeat(1 << 20).as_bytes(), "x").is_err());
    }
}

use serde_json::Value;

use crate::{CardError, limits, warning::Warnings};

/// The value written in `bytes`; `place` names them in messages.
///
/// Size, number of values and depth are bounded before anything of them is in memory. Half a surrogate pair, which
/// JavaScript writes where it cut a text within an emoji, is read as U+FFFD, with a warning.
pub(crate) fn parse_json(bytes: &[u8], place: &str, warnings: &mut Warnings) -> Result<Value, CardError> {
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
    serde_json::from_str(text).or_else(|reason| {
        let mended = without_half_pairs(text).and_then(|mended| serde_json::from_str(&mended).ok());
        let value = mended.ok_or_else(|| CardError::Json { place: place.to_owned(), reason })?;
        warnings.add(place, "holds half a character (a lone surrogate); U+FFFD stands for it now");
        Ok(value)
    })
}

/// The text with `\ufffd` for every `\u` escape of half a surrogate pair; `None` where there is none.
fn without_half_pairs(text: &str) -> Option<String> {
    let escape = |at: usize| {
        let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut mended = String::with_capacity(text.len());
    let (mut copied, mut at) = (0, 0);
    while let Some(found) = text.get(at..).and_then(|rest| rest.find('\\')) {
        at += found;
        match (escape(at), escape(at + 6)) {
            (Some(0xD800..=0xDBFF), Some(0xDC00..=0xDFFF)) => at += 12,
            (Some(0xD800..=0xDFFF), _) => {
                mended.push_str(text.get(copied..at)?);
                mended.push_str("\\ufffd");
                at += 6;
                copied = at;
            }
            _ => at += 2,
        }
    }
    mended.push_str(text.get(copied..)?);
    (copied > 0).then_some(mended)
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

    fn parse(text: &str) -> Result<Value, CardError> {
        parse_json(text.as_bytes(), "x", &mut Warnings::default())
    }

    #[test]
    fn half_a_pair_is_read_and_whole_ones_stay() {
        let mut warnings = Warnings::default();
        let text = r#"["\ud83d\ude00 \ud83d \ude00\\ud83d \n\ud83d\ud83d\ude00", "é\\"]"#;
        let value = parse_json(text.as_bytes(), "x", &mut warnings).unwrap();
        assert_eq!(value, serde_json::json!(["😀 \u{fffd} \u{fffd}\\ud83d \n\u{fffd}😀", "é\\"]));
        assert_eq!(warnings.into_vec().len(), 1);
        assert!(parse(r#"["\ud83"]"#).is_err() && parse(r#"["\"#).is_err());
    }

    #[test]
    fn many_short_values_are_refused_before_they_are_made() {
        let text = format!("[{}0]", "0,".repeat(limits::JSON_VALUES));
        assert!(matches!(parse(&text), Err(CardError::TooLarge { unit: "values", .. })));
        let prose = format!("\"{}\"", "a, {b} [c] \\\" ".repeat(limits::JSON_VALUES / 8));
        assert!(parse(&prose).is_ok());
    }

    #[test]
    fn depth_is_bounded() {
        assert!(parse(&"[".repeat(1 << 20)).is_err());
    }
}

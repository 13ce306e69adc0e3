//! JSON from models that are only asked for it.

use jsonschema::Validator;
use opencharacter_core::{Message, Role};
use serde_json::Value;

/// Asks for a document of `schema` in words, at the end of the user's last message.
pub(crate) fn ask_for_json(messages: &mut Vec<Message>, schema: &Value) {
    let words =
        format!("Answer with one JSON document that satisfies this JSON schema, and with nothing else:\n{schema}");
    match messages.iter_mut().rfind(|message| message.role == Role::User) {
        Some(message) => {
            message.content.push_str("\n\n");
            message.content.push_str(&words);
        }
        None => messages.push(Message::user(words)),
    }
}

/// What to say after an answer that broke its schema.
pub(crate) fn repair(answer: &str, reason: &str) -> [Message; 2] {
    let words = format!("That does not satisfy the schema: {reason}. Answer with the corrected JSON document alone.");
    [Message::assistant(answer), Message::user(words)]
}

/// The JSON document in an answer, checked against its schema.
pub(crate) fn checked(answer: &str, schema: &Validator) -> Result<String, String> {
    let text = document(answer);
    let value: Value = serde_json::from_str(text).map_err(|error| format!("not valid JSON: {error}"))?;
    match schema.iter_errors(&value).next() {
        None => Ok(text.to_owned()),
        Some(error) => Err(format!("at `{}`: {error}", error.instance_path())),
    }
}

/// An answer without the fence or the words around its document.
fn document(answer: &str) -> &str {
    let text = answer.trim();
    let (Some(start), Some(end)) = (text.find(['{', '[']), text.rfind(['}', ']'])) else { return text };
    if start < end { &text[start..=end] } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_found_and_checked() {
        let schema = json!({"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]});
        let schema = jsonschema::validator_for(&schema).unwrap();
        for answer in ["{\"age\": 5}", "```json\n{\"age\": 5}\n```", "Here it is: {\"age\": 5}. Anything else?"] {
            assert_eq!(checked(answer, &schema).unwrap(), "{\"age\": 5}");
        }
        for (answer, part) in [
            ("I would rather not.", "not valid JSON"),
            ("{\"age\": \"five\"}", "/age"),
            ("{\"name\": 5}", "age"),
            ("{\"age\": 5", "not valid JSON"),
            ("} {", "not valid JSON"),
        ] {
            let error = checked(answer, &schema).unwrap_err();
            assert!(error.contains(part), "{answer}: {error}");
        }
    }

    #[test]
    fn the_schema_is_asked_for_where_the_user_speaks() {
        let mut messages = vec![Message::system("s"), Message::user("Invent a person."), Message::assistant("{")];
        ask_for_json(&mut messages, &json!({"type": "object"}));
        assert!(messages[1].content.starts_with("Invent a person.\n\n") && messages[1].content.contains("\"object\""));
    }
}

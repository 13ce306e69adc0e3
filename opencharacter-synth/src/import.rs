//! The formats of the public data sets, recognised row by row.

use opencharacter_core::{
    Character, Dialogue, Instruction, Message, Persona, PreferencePair, Profile, Role, Turn, short_id,
};
use serde_json::{Map, Value};

use crate::{
    source::{FromRow, RowPlace},
    value::{from_value, kind_of},
};

/// A persona is one line; longer than this many characters it is something else.
const LONGEST_PERSONA: usize = 8_000;
/// For the text of one turn, in characters.
const LONGEST_TEXT: usize = 200_000;

/// A dialogue, and the character that its row brought along.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportedDialogue {
    /// The dialogue.
    pub dialogue: Dialogue,
    /// Made of what the row says of its character, where it says something.
    pub character: Option<Character>,
}

/// Rows with `persona`, `input persona` or `input_persona` (Persona Hub), or lines of text. The id follows from the text.
impl FromRow for Persona {
    const NAME: &'static str = "personas";

    fn from_row(value: Value, place: &RowPlace<'_>) -> Result<Self, String> {
        let row = Row::of(&value)?;
        if let Some(text) = row.line() {
            return Ok(Self::new(limited("the persona", text, LONGEST_PERSONA)?, place.source, ""));
        }
        let (key, text) = row.required(&["persona", "input persona", "input_persona"])?;
        let text = limited(&format!("field `{key}`"), text, LONGEST_PERSONA)?;
        Ok(Self::new(text, row.source(place.source)?, row.license()?))
    }

    fn id(&self) -> &str {
        &self.character_id
    }
}

/// Native rows, Alpaca, self-instruct, LIMA, `ShareGPT`, `OpenAI` messages, `FastChat` questions, or a plain `question`,
/// `prompt` or `text`. An empty answer is none.
impl FromRow for Instruction {
    const NAME: &'static str = "instructions";

    fn from_row(value: Value, place: &RowPlace<'_>) -> Result<Self, String> {
        let row = Row::of(&value)?;
        let mut instruction = Self::new(row.turns()?, row.source(place.source)?, row.license()?);
        if let Some(id) = row.id("instruction_id")? {
            instruction.instruction_id = id;
        }
        if let Some(provenance) = value.get("provenance").filter(|found| found.is_object()) {
            instruction.provenance =
                from_value(provenance).map_err(|reason| format!("field `provenance`: {reason}"))?;
        }
        Ok(instruction)
    }

    fn id(&self) -> &str {
        &self.instruction_id
    }
}

/// Native rows, or the paper's released schema, whose `character` is the profile as one text.
///
/// An age may be a number. A missing `character_id` follows from the persona, or from the name where there is none.
impl FromRow for Character {
    const NAME: &'static str = "characters";

    fn from_row(value: Value, place: &RowPlace<'_>) -> Result<Self, String> {
        let mut character = character_of(&Row::of(&value)?)?;
        if character.source.is_empty() {
            place.source.clone_into(&mut character.source);
        }
        Ok(character)
    }

    fn id(&self) -> &str {
        &self.character_id
    }
}

/// Native rows, `RoleBench` (`role`, `question`, `generated`, of which the first is taken), the paper's released schema
/// (`question`, `character_answer`), `OpenAI` messages, or `ShareGPT`.
///
/// A `RoleBench` role becomes a character of which only the name is known.
impl FromRow for ImportedDialogue {
    const NAME: &'static str = "dialogues";

    fn from_row(value: Value, place: &RowPlace<'_>) -> Result<Self, String> {
        let (dialogue, character) = dialogue_of(&Row::of(&value)?, &value, place.source)?;
        Ok(Self { dialogue, character })
    }

    fn id(&self) -> &str {
        &self.dialogue.dialogue_id
    }
}

/// `prompt`, `chosen` and `rejected`, each an array of messages, with `pair_id` and `character_id` where there are any. A
/// row without `pair_id` is named by its place.
impl FromRow for PreferencePair {
    const NAME: &'static str = "pairs";

    fn from_row(mut value: Value, place: &RowPlace<'_>) -> Result<Self, String> {
        if let Some(row) = value.as_object_mut() {
            row.entry("pair_id").or_insert_with(|| Value::String(format!("{} {}", place.unit, place.number)));
        }
        let pair: Self = from_value(&value)?;
        for (name, messages) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            if messages.last().is_none_or(|message| message.role != Role::Assistant) {
                return Err(format!("field `{name}`: expected it to end in an assistant message"));
            }
        }
        Ok(pair)
    }

    fn id(&self) -> &str {
        &self.pair_id
    }
}

fn limited<'a>(what: &str, text: &'a str, longest: usize) -> Result<&'a str, String> {
    let length = text.chars().count();
    if length > longest {
        return Err(format!("{what}: {length} characters are too many, expected at most {longest}"));
    }
    Ok(text)
}

/// One row's fields.
struct Row<'a>(&'a Map<String, Value>);

impl<'a> Row<'a> {
    fn of(value: &'a Value) -> Result<Self, String> {
        match value {
            Value::Object(fields) => Ok(Self(fields)),
            other => Err(format!("expected a JSON object, found {}", kind_of(other))),
        }
    }

    /// A line of plain text.
    fn line(&self) -> Option<&'a str> {
        if self.0.len() == 1 { self.0.get("text")?.as_str() } else { None }
    }

    fn has(&self, key: &str) -> bool {
        self.0.contains_key(key)
    }

    /// A field's text; `None` where it is missing or null.
    fn text(&self, key: &str) -> Result<Option<&'a str>, String> {
        match self.0.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => string(value, key).map(Some),
        }
    }

    /// The first of `keys` that the row has, and its text, which must not be blank.
    fn required(&self, keys: &[&'a str]) -> Result<(&'a str, &'a str), String> {
        for key in keys {
            if let Some(text) = self.text(key)? {
                return Ok((key, filled(text, key)?));
            }
        }
        match keys.iter().find(|key| self.has(key)) {
            Some(key) => Err(format!("field `{key}`: expected a string, found null")),
            None => Err(self.unknown(keys)),
        }
    }

    fn unknown(&self, expected: &[&str]) -> String {
        let quote = |names: Vec<&str>| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let found: Vec<&str> = self.0.keys().map(String::as_str).take(12).collect();
        let found = if found.is_empty() { "no field".to_owned() } else { quote(found) };
        match expected {
            [one] => format!("field `{one}` is missing; found {found}"),
            several => format!("expected one of the fields {}; found {found}", quote(several.to_vec())),
        }
    }

    /// An id, which some files hold as a number.
    fn id(&self, key: &str) -> Result<Option<String>, String> {
        match self.0.get(key) {
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            _ => Ok(self.text(key)?.filter(|id| !id.trim().is_empty()).map(str::to_owned)),
        }
    }

    fn source(&self, default: &str) -> Result<String, String> {
        Ok(self.text("source")?.unwrap_or(default).to_owned())
    }

    fn license(&self) -> Result<&'a str, String> {
        Ok(self.text("license")?.unwrap_or_default())
    }

    /// The first of `keys` with a text that is not blank.
    fn answer(&self, keys: &[&str]) -> Result<Option<String>, String> {
        for key in keys {
            if let Some(text) = self.text(key)?
                && !text.trim().is_empty()
            {
                return Ok(Some(limited(&format!("field `{key}`"), text.trim(), LONGEST_TEXT)?.to_owned()));
            }
        }
        Ok(None)
    }

    /// The turns of an instruction in any known format.
    fn turns(&self) -> Result<Vec<Turn>, String> {
        const QUESTIONS: [&str; 5] = ["question", "prompt", "text", "synthesized text", "synthesized_text"];
        if self.has("turns") {
            return self.listed_turns();
        }
        if self.has("instruction") {
            return Ok(vec![if self.has("instances") { self.self_instruct_turn()? } else { self.alpaca_turn()? }]);
        }
        if let Some(key) = ["conversations", "messages"].into_iter().find(|key| self.has(key)) {
            return turns_of(&self.conversation(key)?, key);
        }
        if !QUESTIONS.iter().any(|key| self.has(key)) {
            let mut expected = vec!["instruction", "turns", "messages", "conversations"];
            expected.extend(QUESTIONS);
            return Err(self.unknown(&expected));
        }
        let (key, question) = self.required(&QUESTIONS)?;
        let user = limited(&format!("field `{key}`"), question.trim(), LONGEST_TEXT)?.to_owned();
        Ok(vec![Turn { user, answer: self.answer(&["answer", "response", "output", "completion"])? }])
    }

    /// Native turns (`user`, `answer`) or `FastChat`'s list of questions, perhaps with a list `reference` of answers.
    fn listed_turns(&self) -> Result<Vec<Turn>, String> {
        let listed = array(&self.0["turns"], "turns")?;
        if listed.is_empty() {
            return Err("field `turns` is empty: expected at least one turn".into());
        }
        let references = self.0.get("reference").and_then(Value::as_array);
        let mut turns = Vec::new();
        for (index, turn) in listed.iter().enumerate() {
            let field = format!("turns[{index}]");
            turns.push(match turn {
                Value::Object(fields) => {
                    let (_, user) =
                        Row(fields).required(&["user"]).map_err(|reason| format!("field `{field}`: {reason}"))?;
                    Turn { user: user.trim().to_owned(), answer: Row(fields).answer(&["answer"])? }
                }
                other => {
                    let user = filled(string(other, &field)?, &field)?.trim().to_owned();
                    let reference = references.and_then(|references| references.get(index)?.as_str());
                    Turn { user, answer: reference.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned) }
                }
            });
        }
        Ok(turns)
    }

    fn alpaca_turn(&self) -> Result<Turn, String> {
        let user = self.question_with_input(self.text("input")?)?;
        Ok(Turn { user, answer: self.answer(&["output", "response", "answer"])? })
    }

    fn self_instruct_turn(&self) -> Result<Turn, String> {
        let Some(first) = array(&self.0["instances"], "instances")?.first() else {
            return Ok(Turn { user: self.question_with_input(None)?, answer: None });
        };
        let first = Row::of(first).map_err(|reason| format!("field `instances[0]`: {reason}"))?;
        let user = self.question_with_input(first.text("input")?)?;
        Ok(Turn { user, answer: first.answer(&["output"])? })
    }

    /// The instruction and, after a blank line, what it is to be applied to.
    fn question_with_input(&self, input: Option<&str>) -> Result<String, String> {
        let (_, instruction) = self.required(&["instruction"])?;
        let input = input.map(str::trim).filter(|input| !input.is_empty() && *input != "<noinput>");
        let question = match input {
            Some(input) => format!("{}\n\n{input}", instruction.trim()),
            None => instruction.trim().to_owned(),
        };
        limited("field `instruction`", &question, LONGEST_TEXT)?;
        Ok(question)
    }

    /// Messages: objects with `role` or `from` and `content` or `value`, or strings in turn (LIMA).
    fn conversation(&self, key: &str) -> Result<Vec<Message>, String> {
        let listed = array(self.0.get(key).unwrap_or(&Value::Null), key)?;
        listed.iter().enumerate().map(|(index, entry)| message_of(entry, index, &format!("{key}[{index}]"))).collect()
    }
}

fn string<'a>(value: &'a Value, field: &str) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("field `{field}`: expected a string, found {}", kind_of(value)))
}

fn array<'a>(value: &'a Value, field: &str) -> Result<&'a [Value], String> {
    let listed = value.as_array().map(Vec::as_slice);
    listed.ok_or_else(|| format!("field `{field}`: expected an array, found {}", kind_of(value)))
}

fn filled<'a>(text: &'a str, field: &str) -> Result<&'a str, String> {
    if text.trim().is_empty() { Err(format!("field `{field}` is empty: expected text")) } else { Ok(text) }
}

fn message_of(entry: &Value, index: usize, field: &str) -> Result<Message, String> {
    let Value::Object(fields) = entry else {
        let role = if index.is_multiple_of(2) { Role::User } else { Role::Assistant };
        let content = limited(&format!("field `{field}`"), string(entry, field)?.trim(), LONGEST_TEXT)?;
        return Ok(Message { role, content: content.to_owned() });
    };
    let row = Row(fields);
    let inner = |reason: String| format!("field `{field}`: {reason}");
    let (key, role) = row.required(&["role", "from"]).map_err(inner)?;
    let role = match role.to_lowercase().as_str() {
        "system" | "developer" => Role::System,
        "user" | "human" | "prompter" => Role::User,
        "assistant" | "gpt" | "chatgpt" | "model" | "bot" | "bing" | "bard" => Role::Assistant,
        other => {
            return Err(inner(format!(
                "field `{key}`: `{other}` is no role, expected `system`, `user` or `assistant`"
            )));
        }
    };
    let (key, content) = match row.required(&["content", "value"]) {
        Ok(found) => found,
        Err(reason) => return Err(inner(reason)),
    };
    let content = limited(&format!("field `{field}.{key}`"), content.trim(), LONGEST_TEXT)?;
    Ok(Message { role, content: content.to_owned() })
}

/// The user's messages, each with the answer that follows it, if one does.
fn turns_of(messages: &[Message], field: &str) -> Result<Vec<Turn>, String> {
    let mut turns: Vec<Turn> = Vec::new();
    for message in messages {
        match (message.role, turns.last_mut()) {
            (Role::User, _) => turns.push(Turn { user: message.content.clone(), answer: None }),
            (Role::Assistant, Some(turn)) if turn.answer.is_none() && !message.content.is_empty() => {
                turn.answer = Some(message.content.clone());
            }
            _ => {}
        }
    }
    if turns.is_empty() {
        return Err(format!("field `{field}`: expected at least one message of the user"));
    }
    Ok(turns)
}

fn character_of(row: &Row<'_>) -> Result<Character, String> {
    let flat_profile = match row.0.get("character") {
        Some(Value::String(text)) => Some(Profile::from_text(text)),
        _ => None,
    };
    let persona = row.text("persona")?.unwrap_or_default().trim();
    limited("field `persona`", persona, LONGEST_PERSONA)?;
    let mut fields = row.0.clone();
    if let Some(Value::Number(age)) = row.0.get("age") {
        fields.insert("age".into(), Value::String(age.to_string()));
    }
    let name = match &flat_profile {
        Some(profile) => profile.name.clone(),
        None => row.text("name")?.unwrap_or_default().trim().to_owned(),
    };
    if persona.is_empty() && name.is_empty() {
        return Err(row.unknown(&["persona", "name", "character"]));
    }
    let id = row.id("character_id")?.unwrap_or_else(|| {
        if persona.is_empty() { short_id("character", &["name", &name]) } else { short_id("character", &[persona]) }
    });
    fields.insert("character_id".into(), Value::String(id));
    let mut character: Character = from_value(&Value::Object(fields))?;
    if let Some(profile) = flat_profile {
        character.profile = profile;
    }
    Ok(character)
}

fn dialogue_of(row: &Row<'_>, value: &Value, source: &str) -> Result<(Dialogue, Option<Character>), String> {
    if row.has("dialogue_id") && row.has("messages") {
        let dialogue: Dialogue = from_value(value)?;
        answered(&dialogue.messages, "messages")?;
        return Ok((dialogue, None));
    }
    if row.has("generated") {
        return role_bench(row, source);
    }
    if row.has("character_answer") {
        return released(row, source);
    }
    if let Some(key) = ["messages", "conversations"].into_iter().find(|key| row.has(key)) {
        let messages = row.conversation(key)?;
        answered(&messages, key)?;
        let character_id = row.id("character_id")?.unwrap_or_default();
        return Ok((dialogue_from(messages, character_id, row.source(source)?), None));
    }
    Err(row.unknown(&["dialogue_id", "messages", "conversations", "generated", "character_answer"]))
}

fn answered(messages: &[Message], field: &str) -> Result<(), String> {
    let assistant = |message: &&Message| message.role == Role::Assistant && !message.content.trim().is_empty();
    if messages.iter().any(|message| assistant(&message)) {
        return Ok(());
    }
    Err(format!("field `{field}`: expected at least one message of the assistant"))
}

fn dialogue_from(messages: Vec<Message>, character_id: String, question_source: String) -> Dialogue {
    let mut parts = vec![character_id.as_str()];
    parts.extend(messages.iter().flat_map(|message| [message.role.as_str(), message.content.as_str()]));
    Dialogue {
        dialogue_id: short_id("dialogue", &parts),
        character_id,
        question_source,
        strategy: None,
        messages,
        provenance: None,
    }
}

fn role_bench(row: &Row<'_>, source: &str) -> Result<(Dialogue, Option<Character>), String> {
    let (_, role) = row.required(&["role"])?;
    let (_, question) = row.required(&["question"])?;
    let generated = array(&row.0["generated"], "generated")?;
    let first = generated.first().ok_or("field `generated` is empty: expected at least one answer")?;
    let answer = filled(string(first, "generated[0]")?, "generated[0]")?;
    let (role, question, answer) = (role.trim(), question.trim(), answer.trim());
    let character = Character::from_name(role, row.source(source)?, row.license()?);
    let dialogue = Dialogue {
        dialogue_id: short_id("dialogue", &[role, question, answer]),
        character_id: character.character_id.clone(),
        question_source: row.source(source)?,
        strategy: None,
        messages: vec![Message::user(question), Message::assistant(answer)],
        provenance: None,
    };
    Ok((dialogue, Some(character)))
}

fn released(row: &Row<'_>, source: &str) -> Result<(Dialogue, Option<Character>), String> {
    let (_, question) = row.required(&["question"])?;
    let (_, answer) = row.required(&["character_answer"])?;
    let question_source = row.text("question_source")?.unwrap_or(source).to_owned();
    let character = (row.has("persona") || row.has("character")).then(|| character_of(row)).transpose()?;
    let character_id = match &character {
        Some(character) => character.character_id.clone(),
        None => row.id("character_id")?.unwrap_or_default(),
    };
    let messages = vec![Message::user(question.trim()), Message::assistant(answer.trim())];
    Ok((dialogue_from(messages, character_id, question_source), character))
}

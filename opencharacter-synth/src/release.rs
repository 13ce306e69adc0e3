//! Rows as other programs read them.

use opencharacter_core::{Character, Dialogue, Message, PromptError, Role, SystemPrompt};
use serde_json::{Value, json};

/// How other programs write dialogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialogueFormat {
    /// `messages` of `role` and `content`, the character's system prompt first.
    OpenAi,
    /// `conversations` of `from` and `value`, with `system` beside them.
    ShareGpt,
    /// The paper's released schema: one question and answer per row, with persona and profile text. Of a dialogue with
    /// more turns, a row for each.
    Paper,
}

impl DialogueFormat {
    /// The rows of one dialogue. `character` is whose it is, where that is known.
    ///
    /// # Errors
    /// [`PromptError`] for a system prompt that cannot be rendered.
    pub fn rows(
        self,
        dialogue: &Dialogue,
        character: Option<&Character>,
        system: &SystemPrompt,
    ) -> Result<Vec<Value>, PromptError> {
        let own_system = dialogue.messages.iter().find(|message| message.role == Role::System);
        let said: Vec<&Message> = dialogue.messages.iter().filter(|message| message.role != Role::System).collect();
        let prompt = || match (own_system, character) {
            (Some(message), _) => Ok(Some(message.content.clone())),
            (None, Some(character)) => system.render(character).map(Some),
            (None, None) => Ok(None),
        };
        Ok(match self {
            Self::OpenAi => {
                let mut messages: Vec<Value> =
                    prompt()?.into_iter().map(|text| json!({ "role": "system", "content": text })).collect();
                messages.extend(said.iter().map(|message| json!(message)));
                vec![json!({ "id": dialogue.dialogue_id, "messages": messages })]
            }
            Self::ShareGpt => {
                let from = |role| if role == Role::Assistant { "gpt" } else { "human" };
                let turns: Vec<Value> = said
                    .iter()
                    .map(|message| json!({ "from": from(message.role), "value": message.content }))
                    .collect();
                let mut row = json!({ "id": dialogue.dialogue_id, "conversations": turns });
                if let Some(text) = prompt()? {
                    row["system"] = text.into();
                }
                vec![row]
            }
            Self::Paper => said
                .chunks_exact(2)
                .map(|turn| {
                    let mut row = json!({
                        "character_id": dialogue.character_id,
                        "question_source": dialogue.question_source,
                        "question": turn[0].content,
                        "character_answer": turn[1].content,
                    });
                    if let Some(character) = character {
                        row["persona"] = character.persona.clone().into();
                        row["character"] = character.profile.to_text().into();
                    }
                    row
                })
                .collect(),
        })
    }
}

/// A row of the paper's `synthetic_character.jsonl`.
pub fn paper_character(character: &Character) -> Value {
    json!({
        "character_id": character.character_id,
        "persona": character.persona,
        "character": character.profile.to_text(),
    })
}

/// LLaMA-Factory's `dataset_info.json` for a file of [`DialogueFormat::OpenAi`] rows.
pub fn llama_factory_info(name: &str, file_name: &str) -> Value {
    json!({ name: {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": { "messages": "messages" },
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        },
    } })
}

/// Whether a licence's text keeps its rows from commercial use.
pub fn is_research_only(license: &str) -> bool {
    let license = license.to_lowercase();
    let words: Vec<&str> = license.split(|letter: char| !letter.is_alphanumeric()).collect();
    let has = |word: &str| words.contains(&word);
    has("nc")
        || license.contains("non-commercial")
        || license.contains("noncommercial")
        || (has("research") && has("only"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImportedDialogue;
    use crate::source::{FromRow as _, RowPlace};

    fn dialogue() -> (Dialogue, Character) {
        let mut character = Character::from_name("Ada Holm", "test", "MIT");
        character.persona = "A lighthouse keeper".into();
        character.character_id = "character-1".into();
        let messages = vec![
            Message::user("Who are you?"),
            Message::assistant("Ada."),
            Message::user("Really?"),
            Message::assistant("Yes, really."),
        ];
        let dialogue = Dialogue {
            dialogue_id: "dialogue-1".into(),
            character_id: "character-1".into(),
            question_source: "lima".into(),
            strategy: None,
            messages,
            provenance: None,
        };
        (dialogue, character)
    }

    #[test]
    fn every_format_is_read_back() {
        let (dialogue, character) = dialogue();
        let system = SystemPrompt::default();
        for format in [DialogueFormat::OpenAi, DialogueFormat::ShareGpt, DialogueFormat::Paper] {
            let rows = format.rows(&dialogue, Some(&character), &system).unwrap();
            let place = RowPlace { source: "file", unit: "line", number: 1 };
            let mut said = Vec::new();
            for row in rows {
                let read = ImportedDialogue::from_row(row, &place).unwrap();
                said.extend(read.dialogue.messages.into_iter().filter(|message| message.role != Role::System));
                if format == DialogueFormat::Paper {
                    let character = read.character.unwrap();
                    assert_eq!(character.profile.name, "Ada Holm");
                    assert_eq!(
                        (character.character_id.as_str(), character.persona.as_str()),
                        ("character-1", "A lighthouse keeper")
                    );
                    assert_eq!(read.dialogue.question_source, "lima");
                }
            }
            assert_eq!(said, dialogue.messages, "{format:?}");
        }
    }

    #[test]
    fn licences_that_forbid_commerce_are_found() {
        for license in ["CC-BY-NC-4.0", "cc by nc sa", "research only", "Non-commercial use"] {
            assert!(is_research_only(license), "{license}");
        }
        for license in ["MIT", "CC-BY-SA-4.0", "Apache-2.0", "", "CC0-1.0", "open research data, CC-BY"] {
            assert!(!is_research_only(license), "{license}");
        }
    }
}

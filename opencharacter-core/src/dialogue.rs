use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Message, short_id};

/// One question of an [`Instruction`], with its plain answer where the source has one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// What the user says.
    pub user: String,
    /// The source's own answer, which response rewriting (-R) needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

/// A task for a character: the user's side of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Instruction {
    /// Follows from the user's turns.
    pub instruction_id: String,
    /// The turns, at least one.
    pub turns: Vec<Turn>,
    /// Where it comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The licence of that source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// How it was made; absent for instructions that were read from somewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl Instruction {
    /// An instruction whose id follows from the user's turns.
    pub fn new(turns: Vec<Turn>, source: impl Into<String>, license: impl Into<String>) -> Self {
        let questions: Vec<&str> = turns.iter().map(|turn| turn.user.as_str()).collect();
        Self {
            instruction_id: short_id("instruction", &questions),
            turns,
            source: source.into(),
            license: license.into(),
            provenance: None,
        }
    }
}

/// How a dialogue's answers were made (OpenCharacter, section 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// -G: the character answers the question.
    Generate,
    /// -R: the existing answer is rewritten in the character's voice.
    Rewrite,
}

impl Strategy {
    /// The strategy's name in files: `generate` or `rewrite`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Generate => "generate",
            Self::Rewrite => "rewrite",
        }
    }
}

/// A source and its licence, as its rows name them; empty where they say nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SourceNote {
    /// A data set or file.
    pub source: String,
    /// Its licence.
    pub license: String,
}

/// Where a row comes from: enough to find and repeat every call that made it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Fingerprint of the model that wrote it.
    pub teacher: String,
    /// Template name to hash.
    pub templates: BTreeMap<String, String>,
    /// Keys of the ledger records behind it.
    pub ledger_keys: Vec<String>,
    /// The recipe's seed.
    pub seed: u64,
    /// What it was made of: the persona's source, the instruction's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceNote>,
    /// The instruction behind a dialogue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instruction_id: Option<String>,
    /// How specific the answer is to the character, in nats, where candidates were compared:
    /// log p(answer | this character) - mean over others of log p(answer | other).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specificity: Option<f64>,
}

/// A conversation with a character: what the trainer reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dialogue {
    /// Follows from character, instruction and strategy, or from the messages of an imported dialogue.
    pub dialogue_id: String,
    /// The character who answers; empty for an imported dialogue that has none.
    #[serde(default)]
    pub character_id: String,
    /// The instruction's source.
    #[serde(default)]
    pub question_source: String,
    /// How the answers were made; absent for imported dialogues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    /// User and assistant turns; a leading system message only where an import brought one.
    pub messages: Vec<Message>,
    /// How it was made; absent for imported dialogues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

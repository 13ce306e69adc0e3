use serde::{Deserialize, Serialize};

use crate::Message;

/// A conversation with a good and a bad continuation: what preference training reads. `prompt`, `chosen` and `rejected`
/// are the columns of TRL's conversational preference format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// Names the pair in messages; follows from the dialogues that it was made of.
    pub pair_id: String,
    /// The character who answers; empty where the prompt brings its own system message.
    #[serde(default)]
    pub character_id: String,
    /// The conversation up to the user's last turn.
    pub prompt: Vec<Message>,
    /// The answer to prefer.
    pub chosen: Vec<Message>,
    /// The answer to avoid.
    pub rejected: Vec<Message>,
    /// Whose answer the rejected one is, where it is another character's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rejected_character_id: Option<String>,
}

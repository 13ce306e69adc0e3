use std::{fmt, str::FromStr};

use opencharacter_core::{GenerateRequest, Message, Sampling, ScoreRequest, content_hash};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// What was asked, and of whom: a hash over the kind of call, the model's fingerprint, the messages and, for an
/// answer, sampling (seed included), schema and the log-probabilities asked for. Equal keys have equal answers. Shown
/// as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallKey(pub(crate) [u8; 32]);

impl CallKey {
    /// The key of asking `model` (its fingerprint) for an answer.
    pub fn of_generate(model: &str, request: &GenerateRequest) -> Self {
        let mut asked = asked(&request.messages, Some(&request.sampling), request.schema.as_ref());
        if let Some(log_probs) = request.log_probs {
            // Only where they are asked for: keys of all other requests are those of older ledgers.
            asked["log_probs"] = log_probs.into();
        }
        Self(content_hash(&["generate", model, &asked.to_string()]))
    }

    /// The key of asking `model` (its fingerprint) for a score.
    pub fn of_score(model: &str, request: &ScoreRequest) -> Self {
        Self(content_hash(&["score", model, &asked(&request.messages, None, None).to_string()]))
    }

    fn digits(self) -> [u8; 64] {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        digits
    }
}

fn asked(messages: &[Message], sampling: Option<&Sampling>, schema: Option<&serde_json::Value>) -> serde_json::Value {
    // The order of a schema's properties is kept, not sorted away: it is the order they are generated in.
    serde_json::json!({ "messages": messages, "sampling": sampling, "schema": schema })
}

impl fmt::Display for CallKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(str::from_utf8(&self.digits()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for CallKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "CallKey({self})")
    }
}

impl From<CallKey> for String {
    fn from(key: CallKey) -> Self {
        key.to_string()
    }
}

impl FromStr for CallKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed = || format!("expected 64 hexadecimal digits, found `{text}`");
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|value| value as u8);
        if text.len() != 64 {
            return Err(malformed());
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(malformed()) };
            *byte = high << 4 | low;
        }
        Ok(Self(key))
    }
}

impl TryFrom<String> for CallKey {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

// By hand and not through a `String`: this is on the path of every record written and scanned.
impl Serialize for CallKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(str::from_utf8(&self.digits()).map_err(ser::Error::custom)?)
    }
}

impl<'de> Deserialize<'de> for CallKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl de::Visitor<'_> for Digits {
            type Value = CallKey;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("64 hexadecimal digits")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<CallKey, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

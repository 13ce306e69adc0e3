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
        let asked = Asked {
            messages: &request.messages,
            sampling: Some(SamplingKey::of(&request.sampling)),
            schema: request.schema.as_ref(),
            log_probs: request.log_probs,
        };
        Self(content_hash(&["generate", model, &asked.to_text()]))
    }

    /// The key of asking `model` (its fingerprint) for a score.
    pub fn of_score(model: &str, request: &ScoreRequest) -> Self {
        let asked = Asked { messages: &request.messages, sampling: None, schema: None, log_probs: None };
        Self(content_hash(&["score", model, &asked.to_text()]))
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

/// What is asked, in the words that are hashed. They must never change: a ledger of last year holds their hashes.
#[derive(Serialize)]
struct Asked<'a> {
    messages: &'a [Message],
    sampling: Option<SamplingKey<'a>>,
    /// The order of a schema's properties is kept, not sorted away: it is the order they are generated in.
    schema: Option<&'a serde_json::Value>,
    /// Only where they are asked for: keys of all other requests are those of older ledgers.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_probs: Option<usize>,
}

impl Asked<'_> {
    fn to_text(&self) -> String {
        // Strings, numbers and a JSON value: nothing in it can fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// [`Sampling`] with its numbers as the first ledgers wrote them: 0.8 as the double nearest to the float nearest to it.
#[derive(Serialize)]
struct SamplingKey<'a> {
    temperature: f64,
    top_k: usize,
    top_p: f64,
    min_p: f64,
    repetition_penalty: f64,
    max_tokens: usize,
    stop: &'a [String],
    seed: u64,
}

impl<'a> SamplingKey<'a> {
    fn of(sampling: &'a Sampling) -> Self {
        let Sampling { temperature, top_k, top_p, min_p, repetition_penalty, max_tokens, stop, seed } = sampling;
        Self {
            temperature: f64::from(*temperature),
            top_k: *top_k,
            top_p: f64::from(*top_p),
            min_p: f64::from(*min_p),
            repetition_penalty: f64::from(*repetition_penalty),
            max_tokens: *max_tokens,
            stop,
            seed: *seed,
        }
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_those_of_the_first_ledgers() {
        let sampling = Sampling {
            temperature: 0.8,
            min_p: 0.02,
            stop: vec!["\n\"x".into()],
            seed: u64::MAX,
            ..Sampling::default()
        };
        let messages = vec![Message::system("Ada \u{1} ü"), Message::user("Who?")];
        for (schema, log_probs) in [(None, None), (Some(json!({"b": 1.5, "a": [null]})), Some(3))] {
            let request = GenerateRequest { messages: messages.clone(), sampling: sampling.clone(), schema, log_probs };
            let mut before = json!({ "messages": messages, "sampling": sampling, "schema": request.schema });
            if let Some(log_probs) = log_probs {
                before["log_probs"] = log_probs.into();
            }
            let expected = CallKey(content_hash(&["generate", "m", &before.to_string()]));
            assert_eq!(CallKey::of_generate("m", &request), expected);
        }
        let before = json!({ "messages": messages, "sampling": null, "schema": null }).to_string();
        let expected = CallKey(content_hash(&["score", "m", &before]));
        assert_eq!(CallKey::of_score("m", &ScoreRequest { messages }), expected);
    }
}

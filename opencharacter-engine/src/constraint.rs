use std::sync::Arc;

use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie},
};
use opencharacter_nn::Tokenizer;
use serde_json::{Value, json};

/// Turns JSON schemas into constraints on tokens; one per model.
pub(crate) struct ConstraintFactory {
    factory: ParserFactory,
}

impl ConstraintFactory {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Result<Self, String> {
        let end = *tokenizer.end_of_text().first().ok_or("the tokenizer has no end-of-text token")?;
        let words: Vec<Vec<u8>> = (0..tokenizer.vocabulary_size() as u32)
            .map(|token| {
                if tokenizer.is_special(token) {
                    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
                    word.extend(tokenizer.token_name(token).bytes());
                    word
                } else {
                    tokenizer.token_bytes(token).to_vec()
                }
            })
            .collect();
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), &words);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&environment).map_err(|error| error.to_string())?;
        factory.quiet();
        Ok(Self { factory })
    }

    /// A constraint that admits exactly the documents of `schema`.
    pub(crate) fn json(&self, schema: &Value) -> Result<Constraint, String> {
        let grammar = TopLevelGrammar::from_json_schema(with_plain_spacing(schema));
        let parser = self.factory.create_parser(grammar).map_err(|error| format!("JSON schema: {error}"))?;
        let matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(error) => Err(format!("JSON schema: {error}")),
            None => Ok(Constraint { matcher }),
        }
    }
}

/// One separator style, `{"a": 1, "b": 2}`: free whitespace lets a small model fill its answer with blanks.
fn with_plain_spacing(schema: &Value) -> Value {
    let mut schema = schema.clone();
    if let Some(object) = schema.as_object_mut() {
        object
            .entry("x-guidance")
            .or_insert_with(|| json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "}));
    }
    schema
}

/// What one answer may still say.
pub(crate) struct Constraint {
    matcher: Matcher,
}

impl Constraint {
    /// Makes tokens that may not come next negative infinity.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), String> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
        for (token, logit) in logits.iter_mut().enumerate() {
            if token >= allowed.len() || !allowed.is_allowed(token as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
        Ok(())
    }

    /// Takes note of the token drawn; true when the document is complete.
    pub(crate) fn accept(&mut self, token: u32) -> Result<bool, String> {
        self.matcher.consume_token(token).map_err(|error| error.to_string())?;
        Ok(self.matcher.is_stopped())
    }
}

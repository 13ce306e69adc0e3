use std::path::{Path, PathBuf};

use tokenizers::{
    AddedToken, DecoderWrapper,
    models::bpe::{BPE, Vocab},
    pre_tokenizers::{PreTokenizerWrapper, byte_level::ByteLevel, digits::Digits, sequence::Sequence},
};

use crate::{NnError, gguf::GgufFile};

/// Text to tokens and back: byte-level BPE, from GGUF metadata or a `tokenizer.json`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Each token's bytes; empty for special tokens.
    bytes: Vec<Vec<u8>>,
    special: Vec<bool>,
    begin_of_text: Option<u32>,
    end_of_text: Vec<u32>,
}

/// GGUF token types: control tokens are never text.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, NnError> {
        let fail = |reason: String| NnError::Tokenizer { path: file.path().into(), reason };
        let missing = |key: &str| fail(format!("metadata `{key}` is missing; use a GGUF that carries its tokenizer"));
        let model = file.string("tokenizer.ggml.model").ok_or_else(|| missing("tokenizer.ggml.model"))?;
        let pre = file.string("tokenizer.ggml.pre").unwrap_or("(none)");
        if model != "gpt2" || pre != "smollm" {
            return Err(fail(format!(
                "tokenizer `{model}` with pre-tokenizer `{pre}` is not implemented; known: `gpt2` with `smollm`"
            )));
        }
        let tokens = file.strings("tokenizer.ggml.tokens").ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let merges = file.strings("tokenizer.ggml.merges").ok_or_else(|| missing("tokenizer.ggml.merges"))?;
        let types = file.integers("tokenizer.ggml.token_type").unwrap_or_default();
        let merges: Vec<(String, String)> = merges
            .iter()
            .map(|merge| {
                merge
                    .split_once(' ')
                    .map(|(left, right)| (left.to_owned(), right.to_owned()))
                    .ok_or_else(|| fail(format!("merge `{merge}` is not two tokens")))
            })
            .collect::<Result<_, _>>()?;
        let vocabulary = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
        let bpe = BPE::builder()
            .vocab_and_merges::<Vocab>(vocabulary, merges)
            .build()
            .map_err(|error| fail(error.to_string()))?;
        let mut inner = tokenizers::Tokenizer::new(bpe);
        // The `smollm` rules: digits one by one, then GPT-2's expression, as SmolLM's tokenizer.json has them.
        let byte_level = ByteLevel::new(false, true, true);
        inner.with_pre_tokenizer(Some(Sequence::new(vec![
            PreTokenizerWrapper::Digits(Digits::new(true)),
            PreTokenizerWrapper::ByteLevel(byte_level),
        ])));
        inner.with_decoder(Some(byte_level));
        let added: Vec<AddedToken> = tokens
            .iter()
            .zip(&types)
            .filter(|(_, kind)| **kind == CONTROL || **kind == USER_DEFINED)
            .map(|(token, kind)| AddedToken::from(token.clone(), *kind == CONTROL).normalized(false))
            .collect();
        inner.add_special_tokens(added).map_err(|error| fail(error.to_string()))?;
        let id = |key: &str| file.integer(key).map(|id| id as u32);
        let end_of_text = [id("tokenizer.ggml.eos_token_id"), id("tokenizer.ggml.eot_token_id")];
        Self::finish(inner, id("tokenizer.ggml.bos_token_id"), end_of_text.into_iter().flatten().collect(), file.path())
    }

    /// Reads `tokenizer.json` and, for the end-of-turn tokens, `generation_config.json` or `config.json` of a Hugging
    /// Face folder.
    pub fn from_folder(folder: &Path) -> Result<Self, NnError> {
        let path = folder.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| NnError::Tokenizer { path: path.clone(), reason: error.to_string() })?;
        if !matches!(inner.get_decoder(), Some(DecoderWrapper::ByteLevel(_))) {
            let reason =
                "it is not a byte-level BPE tokenizer; models with SentencePiece tokenizers are not implemented";
            return Err(NnError::Tokenizer { path, reason: reason.into() });
        }
        let read = |name: &str| -> serde_json::Value {
            std::fs::read_to_string(folder.join(name))
                .ok()
                .and_then(|text| serde_json::from_str(&text).ok())
                .unwrap_or_default()
        };
        let ids = |value: &serde_json::Value| -> Vec<u32> {
            match value {
                serde_json::Value::Array(ids) => ids.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect(),
                other => other.as_u64().map(|id| id as u32).into_iter().collect(),
            }
        };
        let config = read("config.json");
        let mut end_of_text = ids(&read("generation_config.json")["eos_token_id"]);
        end_of_text.extend(ids(&config["eos_token_id"]));
        let tokenizer_config = read("tokenizer_config.json");
        if let Some(token) = tokenizer_config["eos_token"].as_str().and_then(|token| inner.token_to_id(token)) {
            end_of_text.push(token);
        }
        let begin = ids(&config["bos_token_id"]).first().copied();
        Self::finish(inner, begin, end_of_text, &path)
    }

    fn finish(
        inner: tokenizers::Tokenizer,
        begin_of_text: Option<u32>,
        mut end_of_text: Vec<u32>,
        path: &Path,
    ) -> Result<Self, NnError> {
        end_of_text.sort_unstable();
        end_of_text.dedup();
        let fail = |reason: &str| NnError::Tokenizer { path: PathBuf::from(path), reason: reason.to_owned() };
        if end_of_text.is_empty() {
            return Err(fail("no end-of-text token is named; generation could not stop"));
        }
        let size = inner.get_vocab_size(true);
        if end_of_text.iter().any(|&token| token as usize >= size) {
            return Err(fail("the end-of-text token is outside the vocabulary"));
        }
        let from_character = byte_alphabet();
        let added = inner.get_added_tokens_decoder();
        let mut bytes = vec![Vec::new(); size];
        let mut special = vec![false; size];
        for id in 0..size as u32 {
            let Some(token) = inner.id_to_token(id) else { continue };
            if added.get(&id).is_some_and(|token| token.special) {
                special[id as usize] = true;
                continue;
            }
            bytes[id as usize] = if added.contains_key(&id) {
                token.into_bytes()
            } else {
                token.chars().filter_map(|character| from_character.get(&character).copied()).collect()
            };
        }
        Ok(Self { inner, bytes, special, begin_of_text, end_of_text })
    }

    /// The tokens of `text`, which is a rendered chat template: names of special tokens become those tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        // Byte-level BPE covers every byte, so encoding cannot fail.
        self.inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
    }

    /// The bytes of a token; empty for special tokens and for ids outside the vocabulary.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.bytes.get(token as usize).map_or(&[], Vec::as_slice)
    }

    /// Whether a token is never text.
    pub fn is_special(&self, token: u32) -> bool {
        self.special.get(token as usize).copied().unwrap_or(false)
    }

    /// The name of a token, special ones included.
    pub fn token_name(&self, token: u32) -> String {
        self.inner.id_to_token(token).unwrap_or_default()
    }

    /// The text of `tokens`, special ones left out; bytes that are not UTF-8 become replacement characters.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.token_bytes(token)).copied().collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The library's form of it.
    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// The token that begins a text.
    pub(crate) fn begin_of_text(&self) -> Option<u32> {
        self.begin_of_text
    }

    /// Tokens that end a turn.
    pub fn end_of_text(&self) -> &[u32] {
        &self.end_of_text
    }

    /// The name of the token that begins a text, for the chat template.
    pub fn begin_of_text_name(&self) -> String {
        self.begin_of_text.map(|token| self.token_name(token)).unwrap_or_default()
    }

    /// The name of the first token that ends a text, for the chat template.
    pub fn end_of_text_name(&self) -> String {
        self.end_of_text.first().map(|&token| self.token_name(token)).unwrap_or_default()
    }

    /// Number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.bytes.len()
    }
}

/// GPT-2's alphabet: which byte each character of a token stands for.
fn byte_alphabet() -> std::collections::HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256_u32;
    let mut alphabet = std::collections::HashMap::new();
    for byte in 0..=u8::MAX {
        let character = if printable(byte) {
            char::from(byte)
        } else {
            next += 1;
            char::from_u32(next - 1).unwrap_or_default()
        };
        alphabet.insert(character, byte);
    }
    alphabet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_covers_every_byte_once() {
        let alphabet = byte_alphabet();
        let mut bytes: Vec<u8> = alphabet.values().copied().collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(alphabet[&'Ġ'], b' ');
        assert_eq!(alphabet[&'Ċ'], b'\n');
    }
}

mod gguf;
mod scores;

pub(crate) use gguf::pre_tokenizer_name;
pub(crate) use scores::{SentencePieceRules, is_byte_token};

use std::{collections::HashMap, path::Path};

use serde_json::Value;
use tokenizers::{
    ModelWrapper,
    normalizers::{NormalizerWrapper, Sequence},
    pre_tokenizers::{PreTokenizerWrapper, metaspace::PrependScheme},
};

use crate::NnError;

/// SentencePiece's sign for a space.
const SPACE: &str = "\u{2581}";

/// Text to tokens and back: byte-level BPE, or SentencePiece BPE with a token for every byte; from GGUF metadata or a
/// `tokenizer.json`.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    continuation: Option<Continuation>,
    /// Each token's bytes; empty for special tokens.
    bytes: Vec<Vec<u8>>,
    special: Vec<bool>,
    begin_of_text: Option<u32>,
    adds_begin_of_text: bool,
    end_of_text: Vec<u32>,
    /// The first that was named, which templates write.
    end_of_text_name: String,
}

/// How a token's name spells its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// One character of GPT-2's alphabet per byte.
    ByteLevel,
    /// The text itself with [`SPACE`] for spaces, or `<0xE2>` for one byte.
    SentencePiece,
}

/// Where texts begin and end.
#[derive(Debug)]
struct Borders {
    begin: Option<u32>,
    /// Whether a text without `begin` gets it.
    adds_begin: bool,
    ends: Vec<u32>,
}

/// For tokenizers that put a space before a text, as SentencePiece does: the same one without it, for text that goes
/// on where other text ended.
#[derive(Debug)]
struct Continuation {
    inner: tokenizers::Tokenizer,
    /// Whether the space is also put after special tokens.
    begins_after_special: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, for the end-of-turn tokens, `generation_config.json` or `config.json` of a Hugging
    /// Face folder.
    pub fn from_folder(folder: &Path) -> Result<Self, NnError> {
        let path = folder.join("tokenizer.json");
        let inner = tokenizers::Tokenizer::from_file(&path)
            .map_err(|error| NnError::Tokenizer { path: path.clone(), reason: error.to_string() })?;
        let spelling = Spelling::of(&inner).ok_or_else(|| NnError::Tokenizer {
            path: path.clone(),
            reason: "it is neither byte-level BPE nor BPE with `byte_fallback`; others are not implemented".into(),
        })?;
        let borders = folder_borders(folder, &inner);
        Self::finish(inner, spelling, borders, &path)
    }

    fn finish(
        inner: tokenizers::Tokenizer,
        spelling: Spelling,
        borders: Borders,
        path: &Path,
    ) -> Result<Self, NnError> {
        let fail = |reason: &str| NnError::Tokenizer { path: path.into(), reason: reason.to_owned() };
        let mut end_of_text = borders.ends;
        let Some(&first_end) = end_of_text.first() else {
            return Err(fail("no end-of-text token is named; generation could not stop"));
        };
        let size = inner.get_vocab_size(true);
        if end_of_text.iter().chain(&borders.begin).any(|&token| token as usize >= size) {
            return Err(fail("the begin-of-text or end-of-text token is outside the vocabulary"));
        }
        end_of_text.sort_unstable();
        end_of_text.dedup();
        let alphabet = byte_alphabet();
        let added = inner.get_added_tokens_decoder();
        let mut bytes = vec![Vec::new(); size];
        let mut special = vec![false; size];
        for id in 0..size as u32 {
            let Some(token) = inner.id_to_token(id) else { continue };
            match added.get(&id) {
                Some(added) if added.special => special[id as usize] = true,
                Some(_) => bytes[id as usize] = token.into_bytes(),
                None => bytes[id as usize] = spelling.bytes(&token, &alphabet),
            }
        }
        Ok(Self {
            continuation: Continuation::of(&inner).map_err(|error| fail(&error.to_string()))?,
            bytes,
            special,
            begin_of_text: borders.begin,
            adds_begin_of_text: borders.adds_begin,
            end_of_text_name: inner.id_to_token(first_end).unwrap_or_default(),
            end_of_text,
            inner,
        })
    }

    /// The tokens of `text` where it follows `previous`. A text that begins gets what its tokenizer puts there: the
    /// begin-of-text token, unless it is written out (chat templates do), and SentencePiece's space. One that goes on
    /// gets neither.
    pub fn encode_after(&self, previous: &[u32], text: &str) -> Vec<u32> {
        let Some(last) = previous.last() else {
            let begin = self.begin_of_text.filter(|_| self.adds_begin_of_text);
            let begin = begin.filter(|&begin| !text.starts_with(&self.token_name(begin)));
            return begin.into_iter().chain(self.encode(text)).collect();
        };
        match &self.continuation {
            Some(continuation) if !(continuation.begins_after_special && self.is_special(*last)) => {
                let (first, rest) = text.split_at(self.first_special(text));
                let mut tokens = encode(&continuation.inner, first);
                tokens.extend(encode(if rest.is_empty() { &continuation.inner } else { &self.inner }, rest));
                tokens
            }
            _ => self.encode(text),
        }
    }

    /// The tokens of `text` as a document of its own. An empty one is what stands between documents: the token that
    /// begins a text, or else one that ends one.
    pub fn encode_document(&self, text: &str) -> Vec<u32> {
        let tokens = self.encode_after(&[], text);
        if tokens.is_empty() {
            return self.begin_of_text.or(self.end_of_text.first().copied()).into_iter().collect();
        }
        tokens
    }

    /// Where the first special token begins in `text`, in bytes; its end where there is none.
    fn first_special(&self, text: &str) -> usize {
        let encoding = self.inner.encode(text, false).ok();
        let place = encoding.and_then(|encoding| {
            let place = encoding.get_ids().iter().position(|&token| self.is_special(token))?;
            encoding.get_offsets().get(place).map(|(start, _)| *start)
        });
        place.filter(|&place| text.is_char_boundary(place)).unwrap_or(text.len())
    }

    /// The tokens of `text`, which is a rendered chat template: names of special tokens become those tokens.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        encode(&self.inner, text)
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

    /// Tokens that end a turn.
    pub fn end_of_text(&self) -> &[u32] {
        &self.end_of_text
    }

    /// The name of the token that begins a text, for the chat template.
    pub fn begin_of_text_name(&self) -> String {
        self.begin_of_text.map(|token| self.token_name(token)).unwrap_or_default()
    }

    /// The library's form of it.
    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.inner
    }

    /// Whether it is SentencePiece rather than byte-level BPE.
    pub(crate) fn is_sentence_piece(&self) -> bool {
        Spelling::of(&self.inner) == Some(Spelling::SentencePiece)
    }

    /// Whether a text gets the token that begins it where that is not written out.
    pub(crate) fn adds_begin_of_text(&self) -> bool {
        self.adds_begin_of_text
    }

    /// The token that begins a text.
    pub(crate) fn begin_of_text(&self) -> Option<u32> {
        self.begin_of_text
    }

    /// The name of the token that ends a text, for the chat template.
    pub fn end_of_text_name(&self) -> String {
        self.end_of_text_name.clone()
    }

    /// Number of tokens, added ones included.
    pub fn vocabulary_size(&self) -> usize {
        self.bytes.len()
    }
}

fn encode(inner: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    // Both kinds have a token for every byte, so encoding cannot fail.
    inner.encode_fast(text, false).map(|encoding| encoding.get_ids().to_vec()).unwrap_or_default()
}

impl Spelling {
    /// The spelling of a `tokenizer.json`; nothing where it is another kind of tokenizer.
    fn of(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let ModelWrapper::BPE(bpe) = inner.get_model() else { return None };
        let decoder = serde_json::to_value(inner.get_decoder()).ok()?;
        if decoder["type"] == "ByteLevel" {
            return Some(Self::ByteLevel);
        }
        (bpe.byte_fallback && decoder.to_string().contains(SPACE)).then_some(Self::SentencePiece)
    }

    fn bytes(self, token: &str, alphabet: &HashMap<char, u8>) -> Vec<u8> {
        let byte = |token: &str| {
            let digits = token.strip_prefix("<0x")?.strip_suffix('>').filter(|digits| digits.len() == 2)?;
            u8::from_str_radix(digits, 16).ok()
        };
        match self {
            Self::ByteLevel => token.chars().filter_map(|character| alphabet.get(&character).copied()).collect(),
            Self::SentencePiece => {
                byte(token).map_or_else(|| token.replace(SPACE, " ").into_bytes(), |byte| vec![byte])
            }
        }
    }
}

impl Continuation {
    /// Nothing where the tokenizer adds no space.
    fn of(inner: &tokenizers::Tokenizer) -> tokenizers::Result<Option<Self>> {
        let steps = match inner.get_normalizer() {
            Some(NormalizerWrapper::Sequence(steps)) => steps.as_ref().to_vec(),
            step => step.cloned().into_iter().collect(),
        };
        let kept: Vec<_> =
            steps.iter().filter(|step| !matches!(step, NormalizerWrapper::Prepend(_))).cloned().collect();
        if kept.len() < steps.len() {
            let mut inner = inner.clone();
            inner.with_normalizer(Some(Sequence::new(kept)))?;
            return Ok(Some(Self { inner, begins_after_special: true }));
        }
        let Some(PreTokenizerWrapper::Metaspace(metaspace)) = inner.get_pre_tokenizer() else { return Ok(None) };
        let scheme = metaspace.get_prepend_scheme();
        let mut metaspace = metaspace.clone();
        metaspace.set_prepend_scheme(PrependScheme::Never);
        let mut inner = inner.clone();
        inner.with_pre_tokenizer(Some(metaspace));
        let begins_after_special = scheme == PrependScheme::Always;
        Ok((scheme != PrependScheme::Never).then_some(Self { inner, begins_after_special }))
    }
}

/// Begin and end of text as a Hugging Face folder has them, over several files.
fn folder_borders(folder: &Path, inner: &tokenizers::Tokenizer) -> Borders {
    let read =
        |name: &str| -> Option<Value> { serde_json::from_str(&std::fs::read_to_string(folder.join(name)).ok()?).ok() };
    let ids = |value: &Value| -> Vec<u32> {
        match value {
            Value::Array(ids) => ids.iter().filter_map(|id| id.as_u64().map(|id| id as u32)).collect(),
            other => other.as_u64().map(|id| id as u32).into_iter().collect(),
        }
    };
    let tokenizer_config = read("tokenizer_config.json");
    // A name, or an object that has it as its content.
    let named = |key: &str| {
        let value = &tokenizer_config.as_ref()?[key];
        inner.token_to_id(value.as_str().or_else(|| value["content"].as_str())?)
    };
    let config = read("config.json").unwrap_or_default();
    let mut ends: Vec<u32> = named("eos_token").into_iter().collect();
    ends.extend(ids(&config["eos_token_id"]));
    ends.extend(ids(&read("generation_config.json").unwrap_or_default()["eos_token_id"]));
    let begin = match &tokenizer_config {
        // Qwen's config.json names a token for padding here; its tokenizer_config.json says null.
        Some(settings) if settings.get("bos_token").is_some() => named("bos_token"),
        _ => ids(&config["bos_token_id"]).first().copied(),
    };
    // Where no setting says it, the post-processor in tokenizer.json does.
    let adds_begin = tokenizer_config.as_ref().and_then(|settings| settings["add_bos_token"].as_bool());
    let adds_begin = adds_begin.unwrap_or_else(|| {
        let empty = inner.encode_fast("", true).ok();
        begin.is_some() && empty.is_some_and(|empty| empty.get_ids().first().copied() == begin)
    });
    Borders { begin, adds_begin, ends }
}

/// GPT-2's alphabet: which byte each character of a token stands for.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut next = 256_u32;
    let mut alphabet = HashMap::new();
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

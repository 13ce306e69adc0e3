//! The tokenizer that a GGUF file describes.
//!
//! GGUF holds a vocabulary and, in place of rules, names: `tokenizer.ggml.model` for the kind and, for byte-level BPE,
//! `tokenizer.ggml.pre` for the expressions that cut text into words. What the names mean is llama.cpp's list.

use serde_json::Value;
use tokenizers::{
    AddedToken, DecoderWrapper, SplitDelimiterBehavior,
    decoders::{byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders, strip::Strip},
    models::bpe::{BPE, Vocab},
    normalizers::{NormalizerWrapper, Prepend, Replace, Sequence as Normalizers, unicode::NFC},
    pre_tokenizers::{
        PreTokenizerWrapper,
        byte_level::ByteLevel,
        sequence::Sequence as PreTokenizers,
        split::{Split, SplitPattern},
    },
};

use super::{Borders, SPACE, Spelling, Tokenizer, scores::merges_by_score};
use crate::{NnError, gguf::GgufFile};

/// GGUF token types: unknown and control tokens are never text.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const BYTE: i64 = 6;

/// GPT-2's words.
const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's words: contractions in any case, digits by threes, line ends with what is before them.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen2's words: Llama 3's, with digits one by one.
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How text is cut into words before byte-level BPE.
struct PreTokenizer {
    names: &'static [&'static str],
    /// Each cuts what the one before has left.
    patterns: &'static [&'static str],
    /// A word that is a token is not merged from its bytes, and texts begin with the begin-of-text token: Llama 3.
    llama_3: bool,
    /// Canonical composition first. llama.cpp leaves it out; the models were trained with it.
    composes: bool,
}

const PRE_TOKENIZERS: [PreTokenizer; 5] = [
    PreTokenizer { names: &["smollm"], patterns: &[r"\p{N}", GPT_2], llama_3: false, composes: false },
    PreTokenizer { names: &["llama-bpe", "llama3", "llama-v3"], patterns: &[LLAMA_3], llama_3: true, composes: false },
    PreTokenizer { names: &["qwen2"], patterns: &[QWEN_2], llama_3: false, composes: true },
    PreTokenizer { names: &["gpt-2"], patterns: &[GPT_2], llama_3: false, composes: false },
    PreTokenizer {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
        llama_3: false,
        composes: false,
    },
];

/// What both kinds of tokenizer are made from.
struct Vocabulary<'a> {
    file: &'a GgufFile,
    tokens: Vec<String>,
    types: Vec<i64>,
}

impl Tokenizer {
    /// Builds the tokenizer that a GGUF file describes.
    pub fn from_gguf(file: &GgufFile) -> Result<Self, NnError> {
        let model = file.string("tokenizer.ggml.model").ok_or_else(|| missing(file, "tokenizer.ggml.model"))?;
        let pre = file.string("tokenizer.ggml.pre").unwrap_or("(none)");
        let known = PRE_TOKENIZERS.iter().find(|known| known.names.contains(&pre));
        let (spelling, adds_begin) = match (model, known) {
            ("gpt2", Some(known)) => (Spelling::ByteLevel, known.llama_3),
            ("llama", _) => (Spelling::SentencePiece, true),
            _ => return Err(fail(file, unknown(model, pre))),
        };
        let vocabulary = Vocabulary::read(file)?;
        let mut inner = match known.filter(|_| spelling == Spelling::ByteLevel) {
            Some(known) => byte_level(&vocabulary, known)?,
            None => sentence_piece(&vocabulary)?,
        };
        inner.add_special_tokens(vocabulary.added()).map_err(|error| fail(file, error.to_string()))?;
        let id = |key: &str| file.integer(&format!("tokenizer.ggml.{key}")).map(|id| id as u32);
        // llama.cpp stops at these whatever the metadata says: files of base models leave the end of a turn out.
        let by_name = ["<|eot_id|>", "<|im_end|>"].into_iter().filter_map(|name| inner.token_to_id(name));
        let ends = [id("eos_token_id"), id("eot_token_id")].into_iter().flatten().chain(by_name).collect();
        let begin = id("bos_token_id").or((spelling == Spelling::SentencePiece).then_some(1));
        let adds_begin = file.boolean("tokenizer.ggml.add_bos_token").unwrap_or(adds_begin);
        Self::finish(inner, spelling, Borders { begin, adds_begin, ends }, file.path())
    }
}

/// What GGUF calls the way in which a `tokenizer.json` cuts text into words, if it has a name for it.
pub(crate) fn pre_tokenizer_name(tokenizer: &Value) -> Option<&'static str> {
    let part = &tokenizer["pre_tokenizer"];
    let parts = match part["pretokenizers"].as_array() {
        Some(parts) => parts.as_slice(),
        None => std::slice::from_ref(part),
    };
    let (bytes, words) = parts.split_last()?;
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] == true {
        return None;
    }
    let composes = match &tokenizer["normalizer"] {
        Value::Null => false,
        normalizer if normalizer["type"] == "NFC" => true,
        _ => return None,
    };
    let pattern = |word: &Value| {
        let isolates = word["type"] == "Split" && word["behavior"] == "Isolated" && word["invert"] == false;
        // Digits one by one, as Hugging Face spells `smollm`.
        let digits = word["type"] == "Digits" && word["individual_digits"] == true;
        let pattern = word["pattern"]["Regex"].as_str().filter(|_| isolates);
        pattern.map(str::to_owned).or_else(|| digits.then(|| r"\p{N}".to_owned()))
    };
    let mut patterns = words.iter().map(pattern).collect::<Option<Vec<_>>>()?;
    // The step's own expression, where it is not switched off, is GPT-2's.
    if bytes["use_regex"] != false {
        patterns.push(GPT_2.to_owned());
    }
    // Where a whole word may be a token that no merges lead to, the name must say so.
    let whole_words = tokenizer["model"]["ignore_merges"] == true;
    let known = PRE_TOKENIZERS
        .iter()
        .find(|known| known.composes == composes && known.llama_3 == whole_words && patterns == known.patterns)?;
    known.names.first().copied()
}

fn fail(file: &GgufFile, reason: String) -> NnError {
    NnError::Tokenizer { path: file.path().into(), reason }
}

fn missing(file: &GgufFile, key: &str) -> NnError {
    fail(file, format!("metadata `{key}` is missing; use a GGUF that carries its tokenizer"))
}

fn unknown(model: &str, pre: &str) -> String {
    let known: Vec<String> =
        PRE_TOKENIZERS.iter().flat_map(|known| known.names).map(|name| format!("`{name}`")).collect();
    format!(
        "tokenizer `{model}` with pre-tokenizer `{pre}` is not implemented; known: `llama` (SentencePiece), and `gpt2` \
         with {}; use the model's safetensors folder, whose tokenizer.json carries the rules",
        known.join(", ")
    )
}

impl<'a> Vocabulary<'a> {
    fn read(file: &'a GgufFile) -> Result<Self, NnError> {
        let key = "tokenizer.ggml.tokens";
        let tokens = file.strings(key).ok_or_else(|| missing(file, key))?;
        let types = file.integers("tokenizer.ggml.token_type").unwrap_or_default();
        Ok(Self { file, tokens, types })
    }

    fn vocab(&self) -> Vocab {
        self.tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect()
    }

    /// Tokens that are found in text before everything else.
    fn added(&self) -> Vec<AddedToken> {
        let typed = self.tokens.iter().zip(&self.types);
        typed
            .filter(|(_, kind)| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED))
            .map(|(token, kind)| AddedToken::from(token.clone(), *kind != USER_DEFINED).normalized(false))
            .collect()
    }

    fn is_mergeable(&self, id: usize) -> bool {
        !self.types.get(id).is_some_and(|kind| matches!(*kind, UNKNOWN | CONTROL | USER_DEFINED | BYTE))
    }
}

/// Byte-level BPE, as GPT-2 brought it.
fn byte_level(vocabulary: &Vocabulary<'_>, known: &PreTokenizer) -> Result<tokenizers::Tokenizer, NnError> {
    let file = vocabulary.file;
    let fail = |reason: String| fail(file, reason);
    let merges = file.strings("tokenizer.ggml.merges").ok_or_else(|| missing(file, "tokenizer.ggml.merges"))?;
    let pair = |merge: &String| {
        let halves = merge.split_once(' ').map(|(left, right)| (left.to_owned(), right.to_owned()));
        halves.ok_or_else(|| fail(format!("merge `{merge}` is not two tokens")))
    };
    let merges = merges.iter().map(pair).collect::<Result<Vec<_>, _>>()?;
    let bpe = BPE::builder().vocab_and_merges(vocabulary.vocab(), merges).ignore_merges(known.llama_3);
    let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(|error| fail(error.to_string()))?);
    let mut steps = Vec::new();
    for pattern in known.patterns {
        let pattern = SplitPattern::Regex((*pattern).to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        steps.push(PreTokenizerWrapper::Split(split.map_err(|error| fail(error.to_string()))?));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false)));
    inner.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    // Decoding is our own; an exported `tokenizer.json` needs it said.
    inner.with_decoder(Some(ByteLevel::default()));
    inner.with_normalizer(known.composes.then_some(NFC)).map_err(|error| fail(error.to_string()))?;
    Ok(inner)
}

/// SentencePiece BPE, which has scores in place of merges.
fn sentence_piece(vocabulary: &Vocabulary<'_>) -> Result<tokenizers::Tokenizer, NnError> {
    let file = vocabulary.file;
    let fail = |reason: String| fail(file, reason);
    let key = "tokenizer.ggml.scores";
    let scores = file.floats(key).filter(|scores| scores.len() == vocabulary.tokens.len());
    let scores = scores.ok_or_else(|| fail(format!("metadata `{key}` is missing or has another length")))?;
    let merges = merges_by_score(&vocabulary.tokens, &scores, |id| vocabulary.is_mergeable(id));
    let merges = merges.into_iter().map(|(left, right)| (left.to_owned(), right.to_owned())).collect::<Vec<_>>();
    let unknown = file.integer("tokenizer.ggml.unknown_token_id").unwrap_or(0);
    let mut bpe = BPE::builder().vocab_and_merges(vocabulary.vocab(), merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = vocabulary.tokens.get(unknown) {
        bpe = bpe.unk_token(unknown.clone());
    }
    let mut inner = tokenizers::Tokenizer::new(bpe.build().map_err(|error| fail(error.to_string()))?);
    let spaces = Replace::new(" ", SPACE).map_err(|error| fail(error.to_string()))?;
    let mut steps = vec![NormalizerWrapper::Replace(spaces)];
    if file.boolean("tokenizer.ggml.add_space_prefix").unwrap_or(true) {
        steps.insert(0, NormalizerWrapper::Prepend(Prepend::new(SPACE.to_owned())));
    }
    inner.with_normalizer(Some(Normalizers::new(steps))).map_err(|error| fail(error.to_string()))?;
    // Decoding is our own; an exported `tokenizer.json` needs it said.
    let words = Replace::new(SPACE, " ").map_err(|error| fail(error.to_string()))?;
    inner.with_decoder(Some(Decoders::new(vec![
        DecoderWrapper::Replace(words),
        DecoderWrapper::ByteFallback(ByteFallback::default()),
        DecoderWrapper::Fuse(Fuse::default()),
        DecoderWrapper::Strip(Strip::new(' ', 1, 0)),
    ])));
    Ok(inner)
}

//! Tokenizers against Hugging Face `tokenizers` and llama.cpp, on fixtures made by `cargo xtask golden`.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use opencharacter_core::Message;
use opencharacter_fixtures::fixture;
use opencharacter_nn::{ChatTemplate, GgufFile, Tokenizer};
use sha2::{Digest, Sha256};

const NAMES: [&str; 5] = ["default", "gpt-2", "llama-bpe", "qwen2", "sentencepiece"];
const BEGIN: u32 = 1;
const END: u32 = 2;

fn from_gguf(name: &str) -> Tokenizer {
    Tokenizer::from_gguf(&GgufFile::open(&fixture("tokenizers").join(format!("{name}.gguf"))).unwrap()).unwrap()
}

fn sentence_piece_folder() -> Tokenizer {
    Tokenizer::from_folder(&fixture("tokenizers/sentencepiece")).unwrap()
}

fn texts() -> Vec<String> {
    serde_json::from_str(&std::fs::read_to_string(fixture("mixed_text.json")).unwrap()).unwrap()
}

fn expected() -> BTreeMap<String, Vec<String>> {
    serde_json::from_str(&std::fs::read_to_string(fixture("tokenizers/text_hashes.json")).unwrap()).unwrap()
}

/// The first 12 digits of SHA-256 over the ids: a token list per text would be a long fixture.
fn hash(tokens: &[u32]) -> String {
    let ids: Vec<String> = tokens.iter().map(u32::to_string).collect();
    let mut digits = opencharacter_core::hex(&Sha256::digest(ids.join(",").as_bytes()));
    digits.truncate(12);
    digits
}

fn check_texts(name: &str, tokenizer: &Tokenizer) {
    let (texts, expected) = (texts(), &expected()[name]);
    assert_eq!((texts.len(), expected.len()), (260, 260));
    for (text, expected) in texts.iter().zip(expected) {
        let tokens = tokenizer.encode(text);
        assert_eq!(&hash(&tokens), expected, "{name}: {text:?} became {tokens:?}");
        let decoded = tokenizer.decode(&tokens);
        match name {
            "sentencepiece" => assert_eq!(decoded, format!(" {text}")),
            // Qwen2's tokenizer composes characters first; the texts' only decomposed ones have this accent.
            "qwen2" if text.contains('\u{301}') => assert!(decoded.len() <= text.len()),
            _ => assert_eq!(&decoded, text, "{name}"),
        }
    }
}

#[test]
fn tokens_are_those_of_hugging_face_and_llama_cpp() {
    assert_eq!(expected().keys().collect::<Vec<_>>(), NAMES.iter().collect::<Vec<_>>());
    for name in NAMES {
        check_texts(name, &from_gguf(name));
    }
}

#[test]
fn the_expressions_differ_on_the_test_text() {
    let hashes = expected();
    let distinct: BTreeSet<_> = NAMES.iter().map(|name| &hashes[*name]).collect();
    assert_eq!(distinct.len(), NAMES.len(), "a test that cannot tell the pre-tokenizers apart proves nothing");
}

#[test]
fn a_sentence_piece_tokenizer_json_gives_the_same_tokens_and_bytes() {
    let (folder, file) = (sentence_piece_folder(), from_gguf("sentencepiece"));
    check_texts("sentencepiece", &folder);
    assert_eq!(folder.vocabulary_size(), file.vocabulary_size());
    for token in 0..folder.vocabulary_size() as u32 {
        assert_eq!(folder.token_bytes(token), file.token_bytes(token), "{}", file.token_name(token));
        assert_eq!(folder.is_special(token), file.is_special(token), "{}", file.token_name(token));
    }
}

#[test]
fn token_bytes_are_exact() {
    for name in NAMES {
        let tokenizer = from_gguf(name);
        let tokens = 0..tokenizer.vocabulary_size() as u32;
        let single: BTreeSet<u8> = tokens
            .filter_map(|token| match tokenizer.token_bytes(token) {
                [byte] => Some(*byte),
                _ => None,
            })
            .collect();
        assert_eq!(single.len(), 256, "{name}: every byte has a token");
        for special in ["<unk>", "<s>", "</s>"] {
            let [token] = tokenizer.encode(special)[..] else { panic!("{name}: {special} is one token") };
            assert!(tokenizer.is_special(token) && tokenizer.token_bytes(token).is_empty(), "{name}: {special}");
        }
    }
    let tokenizer = from_gguf("sentencepiece");
    let first_bytes = 3;
    assert_eq!(tokenizer.token_name(first_bytes + 0xE2), "<0xE2>");
    assert_eq!(tokenizer.token_bytes(first_bytes + 0xE2), [0xE2]);
    // A character that the vocabulary lacks, byte by byte.
    let tokens = tokenizer.encode("€");
    let bytes: Vec<&[u8]> = tokens.iter().map(|&token| tokenizer.token_bytes(token)).collect();
    assert_eq!(bytes, [&b" "[..], &[0xE2], &[0x82], &[0xAC]]);
}

#[test]
fn the_begin_of_text_token_is_added_once_where_it_belongs() {
    for (name, adds) in [("llama-bpe", true), ("sentencepiece", true), ("gpt-2", false), ("qwen2", false)] {
        let tokenizer = from_gguf(name);
        let begins = |text: &str| tokenizer.encode_after(&[], text).iter().filter(|token| **token == BEGIN).count();
        assert_eq!(begins("harbour"), usize::from(adds), "{name}");
        assert_eq!(begins("<s>harbour"), 1, "{name}: the template has written it");
    }
    assert_eq!(sentence_piece_folder().encode_after(&[], "lamp")[0], BEGIN);
}

#[test]
fn a_document_without_text_begins() {
    for name in ["llama-bpe", "sentencepiece", "gpt-2", "qwen2"] {
        let tokenizer = from_gguf(name);
        assert_eq!(tokenizer.encode_document(""), [BEGIN], "{name}");
        assert_eq!(tokenizer.encode_document("lamp"), tokenizer.encode_after(&[], "lamp"), "{name}");
    }
}

#[test]
fn text_that_goes_on_gets_no_space_before_it() {
    for tokenizer in [from_gguf("sentencepiece"), sentence_piece_folder()] {
        let bytes = |tokens: &[u32]| tokenizer.decode(tokens);
        let before = tokenizer.encode("harbour");
        assert_eq!(bytes(&tokenizer.encode_after(&before, "lamp")), "lamp");
        assert_eq!(bytes(&tokenizer.encode_after(&before, "lamp</s>lamp")), "lamp lamp");
        assert_eq!(bytes(&tokenizer.encode_after(&[END], "lamp")), " lamp", "after a special token a text begins");
    }
}

#[test]
fn a_conversation_in_pieces_has_the_tokens_of_the_whole() {
    let tokenizer = from_gguf("sentencepiece");
    let template = ChatTemplate::new(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} \
         {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        &tokenizer,
    );
    let messages = [
        Message::user("Why the harbour?"),
        Message::assistant("The lamp, naïve café."),
        Message::user("Tuesday?"),
        Message::assistant("Seven."),
    ];
    let conversation = template.encode_conversation(&messages, &tokenizer).unwrap();
    let rendered = template.render(&messages, false).unwrap();
    assert_eq!(conversation.tokens, tokenizer.encode(&rendered));
    assert_eq!(conversation.tokens.iter().filter(|token| **token == BEGIN).count(), 1);
    let prompt = template.encode_prompt(&messages[..1], &tokenizer).unwrap();
    assert_eq!(conversation.tokens[..prompt.len()], prompt, "what is trained follows what generation starts from");
    assert!(conversation.trained[prompt.len()] && !conversation.trained[prompt.len() - 1]);
}

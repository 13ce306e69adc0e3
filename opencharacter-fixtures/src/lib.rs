//! Where tests find the models that PyTorch, transformers and llama.cpp have seen. A development dependency alone.

use std::path::PathBuf;

/// The fixtures with weights: one small random model of each family, and of what tells members of a family apart
/// (heads of 8 and 12 features, biases, a window, norms of heads, tied heads, scaled positions).
pub const FAMILIES: [&str; 7] = [
    "small_llama",
    "small_llama2",
    "small_llama3",
    "small_llama_biases",
    "small_mistral",
    "small_qwen2",
    "small_qwen3",
];

/// A file or folder that `cargo xtask golden` made, by its path in `opencharacter-nn/tests/data`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../opencharacter-nn/tests/data").join(name)
}

/// The embedded model's file: what `OPENCHARACTER_TEST_MODEL` names, or where the program keeps it.
///
/// # Panics
///
/// Where there is no such file.
pub fn embedded_model() -> PathBuf {
    let kept = || {
        let home = std::env::var("HOME").unwrap_or_default();
        PathBuf::from(home).join(".cache/opencharacter/models/SmolLM2-135M-Instruct.Q4_1.gguf")
    };
    let path = std::env::var("OPENCHARACTER_TEST_MODEL").map_or_else(|_| kept(), PathBuf::from);
    assert!(path.is_file(), "`{}` is missing; `cargo xtask test` fetches the model", path.display());
    path
}

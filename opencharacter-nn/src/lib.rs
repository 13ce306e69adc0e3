//! The decoder model: its operations with backward, adapters, weight files, tokenizer and chat template.
//!
//! ```no_run
//! use opencharacter_nn::Model;
//! let model = Model::load("SmolLM2-135M-Instruct.Q4_1.gguf".as_ref())?;
//! let tokens = model.tokenizer.encode("The sea is");
//! # Ok::<(), opencharacter_nn::NnError>(())
//! ```
//!
//! # Arithmetic
//!
//! Weights are laid out once, at load, for the one kernel that every product with a weight runs through
//! ([`PackedMatrix`]). Its every output element is one chain of f32 fused multiply-adds, which gives the same bits for
//! any batch, any number of threads and any instruction set: that is what lets the engine promise that a request's text
//! does not depend on its company, and what makes the trainer and the engine one model. Quantised weights keep their
//! few bits in memory; in training and in the export gate they become f32 in the cache, right before they are
//! multiplied.
//!
//! Generation rounds the activations that meet quantised weights ([`Activations`]): to 8 bits, and adds up
//! products of bytes, which are sums of integers, exact in any order, and one f32 operation per block of 32 inputs, in
//! their order; or, in batches on processors with tiles for it, to bfloat16, in a fixed order of f32 operations. The
//! promise about company and threads holds all the same; instruction sets give the same bits but for those tiles. The
//! trainer's numbers are others there, by far less than the weights' own rounding. Whoever needs them equal runs the
//! engine on weights that are not quantised.
//!
//! `unsafe` is allowed in the modules that need it (the kernel, strided products, memory-mapped weights) and nowhere
//! else in the workspace.

mod adapter;
mod architecture;
mod batch;
#[expect(unsafe_code, reason = "parallel tasks write to disjoint parts of one buffer")]
mod cache;
mod chat_template;
mod config;
mod config_json;
mod decoder;
mod error;
mod export;
mod gguf;
mod gguf_blocks;
mod gradient;
#[expect(unsafe_code, reason = "the matrix kernel is written with vector instructions")]
mod matrix;
#[expect(unsafe_code, reason = "calls the C library's allocator settings")]
mod memory;
mod model;
#[expect(unsafe_code, reason = "strided matrix products and calls of code compiled for newer processors")]
mod ops;
mod parameter;
mod random_weights;
mod rope_scaling;
#[expect(unsafe_code, reason = "maps weight files into memory")]
mod safetensors_folder;
#[expect(unsafe_code, reason = "calls code compiled for newer processors after asking for them")]
mod simd;
#[expect(unsafe_code, reason = "hands a borrowed loop body to threads that outlive it")]
pub mod team;
#[expect(unsafe_code, reason = "has instructions that the compiler offers no functions for")]
mod tile_registers;
mod tokenizer;
mod weights;

pub use adapter::{Adapter, LoraAdapter, LoraConfig, PackedAdapter};
pub use batch::PackedBatch;
pub use cache::{BLOCK_TOKENS, CacheBlock, CacheFormat, CachedAttend, SequenceCache};
pub use chat_template::{ChatTemplate, EncodedConversation};
pub use config::{DecoderConfig, LinearName};
pub use decoder::{Attend, Decoder, PackedAttend, WeightRef};
pub use error::NnError;
pub use export::{
    Destination, Export, GateReport, WeightType, export_adapter, export_gguf, export_ollama, save_model_folder,
};
pub use gguf::GgufFile;
pub use gradient::{
    PART_TOKENS, PassOptions, TokenWeights, Trainable, head_log_probs, loss_and_gradients, token_losses,
};
pub use matrix::{Activations, BlockFormat, PackedMatrix};
pub use memory::keep_freed_memory;
pub use model::{Model, file_hash};
pub use parameter::{Gradients, Parameter};
pub use random_weights::RandomWeights;
pub use safetensors_folder::SafetensorsFolder;
pub use tokenizer::Tokenizer;
pub use weights::{NormName, WeightData, WeightSource};

use std::{io, io::Write as _, path::Path};

/// Writes `bytes` to a temporary file beside `path` and renames it: the file appears whole or not at all.
pub fn atomic_write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // The first error is the one to report.
        let _ = std::fs::remove_file(&temporary);
    })
}

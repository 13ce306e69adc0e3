//! The decoder model: its operations with backward, adapters, weight files, tokenizer and chat template.
//!
//! ```no_run
//! use opencharacter_nn::Model;
//! let model = Model::load("SmolLM2-135M-Instruct.Q4_1.gguf".as_ref())?;
//! let tokens = model.tokenizer.encode("The sea is");
//! # Ok::<(), opencharacter_nn::NnError>(())
//! ```
//!
//! # Why packed f32 weights
//!
//! Weights are dequantised to f32 and laid out once, at load, for the one kernel that every product with a weight runs
//! through ([`PackedMatrix`]). Training on a CPU needs f32 anyway, and a kernel whose every output element is one chain
//! of fused multiply-adds gives the same bits for any batch, any number of threads and any instruction set: that is
//! what lets the engine promise that a request's text does not depend on its company. The price is memory traffic in
//! single-stream decoding, four bytes per weight.
//!
//! `unsafe` is allowed in the modules that need it (the kernel, strided products, memory-mapped weights) and nowhere
//! else in the workspace.

mod adapter;
mod batch;
#[expect(unsafe_code, reason = "parallel tasks write to disjoint parts of one buffer")]
mod cache;
mod chat_template;
mod config;
mod decoder;
mod error;
mod gguf;
mod gradient;
mod linear;
#[expect(unsafe_code, reason = "calls the C library's allocator settings")]
mod memory;
mod model;
#[expect(unsafe_code, reason = "strided matrix products and calls of code compiled for newer processors")]
mod ops;
#[expect(unsafe_code, reason = "the matrix kernel is written with vector instructions")]
mod packed;
#[expect(unsafe_code, reason = "maps weight files into memory")]
mod safetensors_folder;
#[expect(unsafe_code, reason = "calls code compiled for newer processors after asking for them")]
mod simd;
mod tokenizer;
mod weights;

pub use adapter::{Adapter, LoraAdapter, LoraConfig, PackedAdapter};
pub use batch::PackedBatch;
pub use cache::{BLOCK_TOKENS, CacheBlock, CachedAttend, SequenceCache};
pub use chat_template::{ChatTemplate, EncodedConversation};
pub use config::{DecoderConfig, LinearName};
pub use decoder::{Attend, Decoder, PackedAttend};
pub use error::NnError;
pub use gguf::GgufFile;
pub use gradient::{LossAndGradients, head_log_probs, loss_and_gradients, token_losses};
pub use linear::FrozenLinear;
pub use memory::keep_freed_memory;
pub use model::{Model, file_hash};
pub use ops::LoraFactors;
pub use packed::PackedMatrix;
pub use safetensors_folder::SafetensorsFolder;
pub use tokenizer::Tokenizer;
pub use weights::WeightSource;

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

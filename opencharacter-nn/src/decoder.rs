//! The decoder: one definition that trains, scores and speaks.
//!
//! A batch is a run of tokens without padding. What differs between training and generation is only where attention
//! finds its keys and values, so that is the one thing the forward pass is handed from outside ([`Attend`]).

use std::sync::Arc;

use candle_core::{Device, Result, Tensor};
use rayon::prelude::*;

use crate::{
    DecoderConfig, LinearName, NnError, PackedMatrix,
    adapter::{Adapter, LinearAdapter},
    linear::FrozenLinear,
    ops::{self, RotaryTable},
    weights::WeightSource,
};

/// Attention as the forward pass sees it.
pub trait Attend {
    /// Attention in block `layer`: `q` is `[tokens, query_size]`, `k` and `v` are `[tokens, key_value_size]`, all
    /// after rotary embedding; the result has the shape of `q`.
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor>;
}

/// Causal attention inside each of several packed sequences, for training and scoring without a cache.
#[derive(Debug, Clone)]
pub struct PackedAttend {
    /// Width of one head.
    pub head_dim: usize,
    /// Sequence borders: 0, the end of the first sequence, and so on.
    pub cumulative_lengths: Arc<Vec<usize>>,
}

impl Attend for PackedAttend {
    fn attend(&mut self, _: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        ops::packed_attention(q, k, v, self.head_dim, &self.cumulative_lengths)
    }
}

/// One transformer block.
#[derive(Debug)]
pub struct Block {
    input_norm: Tensor,
    post_attention_norm: Tensor,
    linears: [FrozenLinear; 7],
}

/// A decoder of the Llama family with frozen weights. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: DecoderConfig,
    embedding: FrozenLinear,
    head: FrozenLinear,
    blocks: Arc<Vec<Block>>,
    final_norm: Tensor,
    rotary: RotaryTable,
}

impl Decoder {
    /// Loads and packs all weights of `source`.
    pub fn load(config: DecoderConfig, source: &mut dyn WeightSource) -> std::result::Result<Self, NnError> {
        let norm = |values: Vec<f32>| Tensor::from_vec(values, config.hidden_size, &Device::Cpu);
        let pack = |values: &[f32], outputs, inputs| FrozenLinear::new(PackedMatrix::new(values, outputs, inputs));
        let embedding = pack(&source.embedding(&config)?, config.vocab_size, config.hidden_size);
        let head = if config.tie_word_embeddings {
            embedding.clone()
        } else {
            pack(&source.head(&config)?, config.vocab_size, config.hidden_size)
        };
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linears = Vec::with_capacity(LinearName::ALL.len());
            for name in LinearName::ALL {
                let (outputs, inputs) = name.shape(&config);
                linears.push(pack(&source.linear(layer, name, &config)?, outputs, inputs));
            }
            let Ok(linears) = <[FrozenLinear; 7]>::try_from(linears) else {
                unreachable!("one linear layer was pushed per name");
            };
            blocks.push(Block {
                input_norm: norm(source.input_norm(layer, &config)?)?,
                post_attention_norm: norm(source.post_attention_norm(layer, &config)?)?,
                linears,
            });
        }
        let final_norm = norm(source.final_norm(&config)?)?;
        let rotary = RotaryTable::new(config.head_dim, config.max_position_embeddings, config.rope_theta);
        Ok(Self { config, embedding, head, blocks: Arc::new(blocks), final_norm, rotary })
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The output head, `[vocab, hidden]`.
    pub fn head(&self) -> &FrozenLinear {
        &self.head
    }

    /// `[tokens, hidden]`: the embeddings of `tokens`.
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let mut values = vec![0.0; tokens.len() * width];
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.config.vocab_size) {
            candle_core::bail!("token {token} is outside the vocabulary of {}", self.config.vocab_size);
        }
        let rows = values.par_chunks_exact_mut(width).zip(tokens).with_min_len(16);
        rows.for_each(|(row, &token)| self.embedding.forward().copy_row(token as usize, row));
        ops::from_floats(values, &[tokens.len(), width])
    }

    /// One block: `hidden` is `[tokens, hidden]`, `positions` one per token.
    pub fn block(
        &self,
        layer: usize,
        hidden: &Tensor,
        positions: &Arc<Vec<u32>>,
        adapter: Adapter<'_>,
        attention: &mut dyn Attend,
    ) -> Result<Tensor> {
        let block = &self.blocks[layer];
        let epsilon = self.config.rms_norm_eps;
        let linear = |name: LinearName, x: &Tensor| {
            let weight = &block.linears[name.index()];
            match adapter.linear(layer, name) {
                LinearAdapter::Base => ops::frozen_linear(x, weight),
                LinearAdapter::Trainable(factors) => ops::lora_linear(x, weight, factors),
                LinearAdapter::Packed(factors) => ops::packed_lora_linear(x, weight, factors),
            }
        };
        let normed = ops::rms_norm(hidden, &block.input_norm, epsilon)?;
        let q = ops::rotary(&linear(LinearName::QProj, &normed)?, &self.rotary, positions)?;
        let k = ops::rotary(&linear(LinearName::KProj, &normed)?, &self.rotary, positions)?;
        let v = linear(LinearName::VProj, &normed)?;
        let attended = attention.attend(layer, &q, &k, &v)?;
        let hidden = ops::add(hidden, &linear(LinearName::OProj, &attended)?)?;
        let normed = ops::rms_norm(&hidden, &block.post_attention_norm, epsilon)?;
        let activated = ops::swiglu(&linear(LinearName::GateProj, &normed)?, &linear(LinearName::UpProj, &normed)?)?;
        ops::add(&hidden, &linear(LinearName::DownProj, &activated)?)
    }

    /// The last normalisation, after which [`Decoder::head`] gives logits.
    pub fn final_norm(&self, hidden: &Tensor) -> Result<Tensor> {
        ops::rms_norm(hidden, &self.final_norm, self.config.rms_norm_eps)
    }

    /// The hidden states after the last block and the last norm, `[tokens, hidden]`.
    pub fn forward(
        &self,
        tokens: &[u32],
        positions: &Arc<Vec<u32>>,
        adapter: Adapter<'_>,
        attention: &mut dyn Attend,
    ) -> Result<Tensor> {
        let mut hidden = self.embed(tokens)?;
        for layer in 0..self.config.num_hidden_layers {
            hidden = self.block(layer, &hidden, positions, adapter, attention)?;
        }
        self.final_norm(&hidden)
    }

    /// Logits of the given hidden states: `[rows * vocab]`, row after row.
    pub fn logits(&self, hidden: &Tensor) -> Result<Vec<f32>> {
        let rows = hidden.dim(0)?;
        ops::floats(hidden, |hidden| self.head.forward().multiply(hidden, rows))
    }
}

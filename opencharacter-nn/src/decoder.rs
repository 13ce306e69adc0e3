//! The decoder: one definition that trains, scores and speaks.
//!
//! A batch is a run of tokens without padding. Training and generation differ in where attention finds its keys and
//! values ([`Attend`]) and in whose results are looked at, so the forward pass is handed both from outside.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::{
    Activations, DecoderConfig, Gradients, LinearName, NnError, NormName, PackedMatrix, Parameter, WeightData,
    adapter::{Adapter, PackedAdapter},
    matrix::{OuterProduct, Target, add_outer_products},
    ops::{
        self, AttentionShape, Direction, Layer, LinearInput, LowRankPart, PackedLora, RotaryFrequencies, Rotation,
        Upstream,
    },
    team,
    weights::WeightSource,
};

/// Attention as the forward pass sees it.
pub trait Attend {
    /// Attention in block `layer`: `q` is `[tokens, query_size]`, `k` and `v` are `[tokens, key_value_size]`, all
    /// after rotary embedding. The result has the shape of `q`; with it come the normalisers that a backward pass
    /// needs, where this kind of attention has one.
    fn attend(&mut self, layer: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Vec<f32>)>;
}

/// Causal attention inside each of several packed sequences, for training and scoring without a cache.
#[derive(Debug, Clone)]
pub struct PackedAttend {
    head_dim: usize,
    window: Option<usize>,
    cumulative_lengths: Vec<usize>,
}

impl PackedAttend {
    /// `cumulative_lengths` are the sequences' borders: 0, the end of the first sequence, and so on.
    pub fn new(config: &DecoderConfig, cumulative_lengths: &[usize]) -> Self {
        Self {
            head_dim: config.head_dim,
            window: config.sliding_window,
            cumulative_lengths: cumulative_lengths.to_vec(),
        }
    }

    fn shape(&self) -> AttentionShape<'_> {
        AttentionShape { head_dim: self.head_dim, cumulative_lengths: &self.cumulative_lengths, window: self.window }
    }
}

impl Attend for PackedAttend {
    fn attend(&mut self, _: usize, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<(Tensor, Vec<f32>)> {
        ops::packed_attention(q, k, v, self.shape())
    }
}

/// A weight where it lies.
#[derive(Debug, Clone, Copy)]
pub enum WeightRef<'a> {
    /// A norm's weight or a bias.
    Vector(&'a [f32]),
    /// A linear layer's weight, the embedding or the head.
    Matrix(&'a PackedMatrix),
}

impl WeightRef<'_> {
    /// `[length]`, or `[outputs, inputs]`.
    pub fn shape(self) -> Vec<usize> {
        match self {
            Self::Vector(values) => vec![values.len()],
            Self::Matrix(matrix) => vec![matrix.outputs(), matrix.inputs()],
        }
    }

    /// Its values in f32, row-major.
    pub fn to_rows(self) -> Vec<f32> {
        match self {
            Self::Vector(values) => values.to_vec(),
            Self::Matrix(matrix) => matrix.to_rows(),
        }
    }
}

/// A linear layer.
#[derive(Debug)]
struct Linear {
    weight: PackedMatrix,
    bias: Option<Vec<f32>>,
}

/// One transformer block.
#[derive(Debug)]
struct Block {
    input_norm: Vec<f32>,
    query_norm: Option<Vec<f32>>,
    key_norm: Option<Vec<f32>>,
    post_attention_norm: Vec<f32>,
    linears: [Linear; 7],
}

impl Block {
    fn linear(&self, name: LinearName) -> &Linear {
        &self.linears[name.index()]
    }
}

/// What a block's first half gives: its attention, and what that was computed from.
struct Attended {
    /// Queries and keys before their own norm, where the model has one.
    raw: Option<(Tensor, Tensor)>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    values: Tensor,
    normalisers: Vec<f32>,
}

/// What its second half gives: the residual stream behind the block, and what that was computed from.
struct FedForward {
    middle: Tensor,
    gate: Tensor,
    up: Tensor,
    out: Tensor,
}

/// What a block's backward pass needs of its forward pass. Norms and the activation are computed again.
#[derive(Debug)]
pub(crate) struct BlockTape {
    input: Tensor,
    /// Queries and keys before their own norm, where the model has one.
    raw: Option<(Tensor, Tensor)>,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attended: Tensor,
    normalisers: Vec<f32>,
    gate: Tensor,
    /// The residual stream between the block's halves, and the factor of the activation that is no gate; computed again
    /// where they were not kept.
    middle_and_up: Option<(Tensor, Tensor)>,
}

impl BlockTape {
    /// Without what two products bring back.
    #[must_use]
    pub(crate) fn lightened(self) -> Self {
        Self { middle_and_up: None, ..self }
    }
}

/// A decoder of the Llama family. Cloning shares the weights.
#[derive(Debug, Clone)]
pub struct Decoder {
    config: DecoderConfig,
    embedding: Arc<PackedMatrix>,
    /// A head of its own, where it is not tied.
    head: Option<Arc<PackedMatrix>>,
    blocks: Arc<Vec<Block>>,
    final_norm: Arc<Vec<f32>>,
    frequencies: RotaryFrequencies,
}

impl Decoder {
    /// Loads and packs all weights of `source`. Quantised weights stay as they are.
    pub fn load(config: DecoderConfig, source: &mut dyn WeightSource) -> std::result::Result<Self, NnError> {
        source.check(&config)?;
        let path = source.path().to_path_buf();
        let pack = |weight: &WeightData, what: &dyn Fn() -> String, outputs, inputs| {
            weight.pack(outputs, inputs).ok_or_else(|| NnError::Malformed {
                path: path.clone(),
                reason: format!("{} is no matrix of {outputs} x {inputs}; fetch the file again", what()),
            })
        };
        let width = config.hidden_size;
        let embedding = source.embedding(&config)?;
        let embedding = Arc::new(pack(&embedding, &|| "the embedding".into(), config.vocab_size, width)?);
        let head = if config.tie_word_embeddings {
            None
        } else {
            let head = source.head(&config)?;
            Some(Arc::new(pack(&head, &|| "the output head".into(), config.vocab_size, width)?))
        };
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut linears = Vec::with_capacity(LinearName::ALL.len());
            for name in LinearName::ALL {
                let (outputs, inputs) = name.shape(&config);
                let weight = source.linear(layer, name, &config)?;
                let what = || format!("{} of block {layer}", name.as_str());
                let weight = pack(&weight, &what, outputs, inputs)?;
                linears.push(Linear { weight, bias: source.bias(layer, name, &config)? });
            }
            let Ok(linears) = <[Linear; 7]>::try_from(linears) else {
                unreachable!("one linear layer was pushed per name");
            };
            let mut norm = |name| source.norm(layer, name, &config);
            let needed = |norm: Option<Vec<f32>>| {
                let reason = format!("block {layer} lacks a norm; fetch the file again");
                norm.ok_or_else(|| NnError::Malformed { path: path.clone(), reason })
            };
            blocks.push(Block {
                input_norm: needed(norm(NormName::Input)?)?,
                query_norm: norm(NormName::Query)?,
                key_norm: norm(NormName::Key)?,
                post_attention_norm: needed(norm(NormName::PostAttention)?)?,
                linears,
            });
        }
        let final_norm = Arc::new(source.final_norm(&config)?);
        let frequencies = RotaryFrequencies::new(config.head_dim, config.rope_theta, &config.rope_factors);
        Ok(Self { config, embedding, head, blocks: Arc::new(blocks), final_norm, frequencies })
    }

    /// The model's shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Whether linear layers hold quantised blocks, as opposed to numbers that training can change.
    pub fn is_quantised(&self) -> bool {
        self.blocks.iter().flat_map(|block| &block.linears).any(|linear| linear.weight.quantised().is_some())
    }

    /// Whether a bias is added to keys.
    pub fn has_key_bias(&self) -> bool {
        self.blocks.iter().any(|block| block.linear(LinearName::KProj).bias.is_some())
    }

    /// The output head, `[vocab, hidden]`.
    pub fn head(&self) -> &PackedMatrix {
        self.head.as_deref().unwrap_or(&self.embedding)
    }

    /// The parameter that [`Decoder::head`] is.
    pub(crate) fn head_parameter(&self) -> Parameter {
        if self.head.is_some() { Parameter::Head } else { Parameter::Embedding }
    }

    /// The rotary embedding's radians per position, one for each pair of a head's features.
    pub fn rotary_frequencies(&self) -> &[f32] {
        self.frequencies.as_slice()
    }

    /// A decoder whose weights and shape are these, and whose logits are not.
    #[cfg(test)]
    pub(crate) fn rotated_otherwise(&self) -> Self {
        let DecoderConfig { head_dim, rope_theta, rope_factors, .. } = &self.config;
        Self { frequencies: RotaryFrequencies::new(*head_dim, 2.0 * rope_theta, rope_factors), ..self.clone() }
    }

    /// Cosines and sines of a batch's positions, for all its blocks.
    pub(crate) fn rotation(&self, positions: &[u32]) -> Rotation {
        self.frequencies.rotation(positions)
    }

    /// `[tokens, hidden]`: the embeddings of `tokens`.
    pub(crate) fn embed(&self, tokens: &[u32]) -> Result<Tensor> {
        let width = self.config.hidden_size;
        let mut values = vec![0.0; tokens.len() * width];
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= self.config.vocab_size) {
            candle_core::bail!("token {token} is outside the vocabulary of {}", self.config.vocab_size);
        }
        team::for_each_chunk(&mut values, 8 * width, |chunk, rows| {
            for (row, &token) in rows.chunks_exact_mut(width).zip(&tokens[chunk * 8..]) {
                self.embedding.copy_row(token as usize, row);
            }
        });
        ops::from_floats(values, &[tokens.len(), width])
    }

    /// One block: `hidden` is `[tokens, hidden]`. With the result comes what a backward pass needs.
    pub(crate) fn block(
        &self,
        layer: usize,
        hidden: &Tensor,
        rotation: &Rotation,
        adapter: Adapter<'_>,
        attention: &mut dyn Attend,
        activations: Activations,
    ) -> Result<(Tensor, BlockTape)> {
        let pass = self.block_forward(layer, adapter, activations);
        let Attended { raw, q, k, v, values, normalisers } = pass.attention_half(hidden, rotation, attention)?;
        let FedForward { middle, gate, up, out } = pass.feed_forward_half(hidden, &values)?;
        let (input, middle_and_up) = (hidden.clone(), Some((middle, up)));
        Ok((out, BlockTape { input, raw, q, k, v, attended: values, normalisers, gate, middle_and_up }))
    }

    fn block_forward<'a>(&'a self, layer: usize, adapter: Adapter<'a>, activations: Activations) -> BlockForward<'a> {
        BlockForward { layer, block: &self.blocks[layer], adapter, activations, epsilon: self.config.rms_norm_eps }
    }

    /// The gradient of a block's input, given that of its result; gradients of what is trained are added to
    /// `gradients`. Without `to_input` nobody wants the former, and the block's first products are left out.
    pub(crate) fn block_backward(
        &self,
        layer: usize,
        tape: &BlockTape,
        upstream: &Tensor,
        rotation: &Rotation,
        adapter: Option<&PackedAdapter>,
        attention: &PackedAttend,
        gradients: &mut Gradients,
        to_input: bool,
    ) -> Result<Option<Tensor>> {
        let epsilon = self.config.rms_norm_eps;
        // What the tape lacks is computed as the forward pass did it: the same bits.
        let again = self.block_forward(layer, adapter.map_or(Adapter::Base, Adapter::Packed), Activations::Floats);
        let mut pass = BlockBackward { layer, block: &self.blocks[layer], adapter, gradients };
        let kept = tape.middle_and_up.as_ref().map(|(middle, up)| (middle.clone(), Some(up.clone())));
        let (tape_middle, up) = match kept {
            Some(kept) => kept,
            None => (ops::add(&tape.input, &again.linear(LinearName::OProj, &tape.attended)?)?, None),
        };
        let normed_middle = ops::rms_norm(&tape_middle, &pass.block.post_attention_norm, epsilon)?;
        let up = up.map_or_else(|| again.linear(LinearName::UpProj, &normed_middle), Ok)?;
        let down = [(LinearName::DownProj, upstream)];
        let (gradient, inner) = ops::linear_input_gradient(&pass.upstream(&down))?;
        let ops::SwigluBackward { activated, gate, up } = ops::swiglu_backward(&tape.gate, &up, &gradient)?;
        pass.add(&activated, &down, &inner)?;
        let normed = pass.linears(&normed_middle, &[(LinearName::GateProj, &gate), (LinearName::UpProj, &up)])?;
        let middle = pass.norm(Parameter::PostAttentionNorm(layer), &tape_middle, &normed, epsilon)?;
        let middle = ops::add(&middle, upstream)?;

        let attended = pass.linears(&tape.attended, &[(LinearName::OProj, &middle)])?;
        let [q, k, v] = ops::packed_attention_backward(
            [&tape.q, &tape.k, &tape.v],
            &tape.attended,
            &tape.normalisers,
            &attended,
            attention.shape(),
        )?;
        let mut q = ops::rotate(&q, rotation, Direction::Backward)?;
        let mut k = ops::rotate(&k, rotation, Direction::Backward)?;
        if let Some((raw_q, raw_k)) = &tape.raw {
            q = pass.norm(Parameter::QueryNorm(layer), raw_q, &q, epsilon)?;
            k = pass.norm(Parameter::KeyNorm(layer), raw_k, &k, epsilon)?;
        }
        let normed = ops::rms_norm(&tape.input, &pass.block.input_norm, epsilon)?;
        let parts = [(LinearName::QProj, &q), (LinearName::KProj, &k), (LinearName::VProj, &v)];
        if !to_input && pass.gradients.get(Parameter::InputNorm(layer)).is_none() {
            pass.parameters(&normed, &parts)?;
            return Ok(None);
        }
        let normed = pass.linears(&normed, &parts)?;
        let input = pass.norm(Parameter::InputNorm(layer), &tape.input, &normed, epsilon)?;
        Ok(Some(ops::add(&input, &middle)?))
    }

    /// Adds the gradient of the embeddings of `tokens`.
    pub(crate) fn embed_backward(&self, tokens: &[u32], upstream: &Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some(panels) = gradients.get_mut(Parameter::Embedding) else { return Ok(()) };
        let width = self.config.hidden_size;
        for (&token, row) in tokens.iter().zip(ops::floats(upstream)?.chunks_exact(width)) {
            self.embedding.add_to_row(token as usize, row, panels);
        }
        Ok(())
    }

    /// The last normalisation, after which [`Decoder::head`] gives logits.
    pub(crate) fn final_norm(&self, hidden: &Tensor) -> Result<Tensor> {
        ops::rms_norm(hidden, &self.final_norm, self.config.rms_norm_eps)
    }

    /// The gradient of [`Decoder::final_norm`]'s argument.
    pub(crate) fn final_norm_backward(
        &self,
        hidden: &Tensor,
        upstream: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<Tensor> {
        if let Some(sums) = gradients.get_mut(Parameter::FinalNorm) {
            ops::rms_norm_weight_gradient(hidden, upstream, self.config.rms_norm_eps, sums)?;
        }
        ops::rms_norm_backward(hidden, &self.final_norm, upstream, self.config.rms_norm_eps)
    }

    /// The hidden states of `rows`, in ascending order, after the last block and the last norm: `[rows, hidden]`.
    /// `positions` has one per token.
    ///
    /// Nothing looks at the other rows behind the last block's attention, so they end there, which saves 84% of that
    /// block's multiplications for them (in a model of SmolLM2-135M's shapes).
    pub fn forward(
        &self,
        tokens: &[u32],
        positions: &[u32],
        adapter: Adapter<'_>,
        attention: &mut dyn Attend,
        activations: Activations,
        rows: &[u32],
    ) -> Result<Tensor> {
        if !rows.is_sorted() {
            candle_core::bail!("the rows of a pass are asked for in ascending order");
        }
        let rotation = self.rotation(positions);
        let left = adapter.ranges_among(rows);
        let mut hidden = self.embed(tokens)?;
        for layer in 0..self.config.num_hidden_layers {
            let pass = self.block_forward(layer, adapter, activations);
            let attended = pass.attention_half(&hidden, &rotation, attention)?.values;
            hidden = if layer + 1 == self.config.num_hidden_layers {
                let pass = BlockForward { adapter: Adapter::Rows(&left), ..pass };
                pass.fed_forward(&ops::select_rows(&hidden, rows)?, &ops::select_rows(&attended, rows)?)?
            } else {
                pass.fed_forward(&hidden, &attended)?
            };
        }
        self.final_norm(&hidden)
    }

    /// Logits of the given rows of hidden states: `[rows * vocab]`, row after row.
    pub fn logits(&self, hidden: &Tensor, rows: &[u32], activations: Activations) -> Result<Vec<f32>> {
        let selected = ops::select_rows(hidden, rows)?;
        Ok(self.head().multiply_in(activations, &ops::floats(&selected)?, rows.len()))
    }

    /// Makes every weight f32, as full fine-tuning needs it, and these weights nobody else's.
    pub fn thaw(&mut self) {
        self.embedding = Arc::new(self.embedding.to_floats());
        self.head = self.head.as_ref().map(|head| Arc::new(head.to_floats()));
        let linear = |Linear { weight, bias }: &Linear| Linear { weight: weight.to_floats(), bias: bias.clone() };
        let block = |block: &Block| Block {
            input_norm: block.input_norm.clone(),
            query_norm: block.query_norm.clone(),
            key_norm: block.key_norm.clone(),
            post_attention_norm: block.post_attention_norm.clone(),
            linears: block.linears.each_ref().map(linear),
        };
        self.blocks = Arc::new(self.blocks.iter().map(block).collect());
        self.final_norm = Arc::new(self.final_norm.to_vec());
    }

    /// All weights, for full fine-tuning: each as its own layout holds it (matrices in panels). Nothing when they are
    /// shared or quantised; [`Decoder::thaw`] them first.
    pub fn parameters_mut(&mut self) -> Option<Vec<(Parameter, &mut [f32])>> {
        let mut all = vec![(Parameter::Embedding, Arc::get_mut(&mut self.embedding)?.floats_mut()?)];
        for (layer, block) in Arc::get_mut(&mut self.blocks)?.iter_mut().enumerate() {
            all.push((Parameter::InputNorm(layer), &mut block.input_norm));
            all.extend(block.query_norm.as_mut().map(|norm| (Parameter::QueryNorm(layer), norm.as_mut_slice())));
            all.extend(block.key_norm.as_mut().map(|norm| (Parameter::KeyNorm(layer), norm.as_mut_slice())));
            all.push((Parameter::PostAttentionNorm(layer), &mut block.post_attention_norm));
            for (linear, name) in block.linears.iter_mut().zip(LinearName::ALL) {
                all.push((Parameter::Weight(layer, name), linear.weight.floats_mut()?));
                all.extend(linear.bias.as_mut().map(|bias| (Parameter::Bias(layer, name), bias.as_mut_slice())));
            }
        }
        all.push((Parameter::FinalNorm, Arc::get_mut(&mut self.final_norm)?));
        if let Some(head) = &mut self.head {
            all.push((Parameter::Head, Arc::get_mut(head)?.floats_mut()?));
        }
        Some(all)
    }

    /// Every weight by its name, in the order in which it is saved.
    pub fn weights(&self) -> Vec<(Parameter, WeightRef<'_>)> {
        let mut all = vec![(Parameter::Embedding, WeightRef::Matrix(&self.embedding))];
        for (layer, block) in self.blocks.iter().enumerate() {
            let norms = [
                (Parameter::InputNorm(layer), Some(&block.input_norm)),
                (Parameter::QueryNorm(layer), block.query_norm.as_ref()),
                (Parameter::KeyNorm(layer), block.key_norm.as_ref()),
                (Parameter::PostAttentionNorm(layer), Some(&block.post_attention_norm)),
            ];
            all.extend(norms.into_iter().filter_map(|(name, norm)| Some((name, WeightRef::Vector(norm?)))));
            for (linear, name) in block.linears.iter().zip(LinearName::ALL) {
                all.push((Parameter::Weight(layer, name), WeightRef::Matrix(&linear.weight)));
                all.extend(linear.bias.as_ref().map(|bias| (Parameter::Bias(layer, name), WeightRef::Vector(bias))));
            }
        }
        all.push((Parameter::FinalNorm, WeightRef::Vector(&self.final_norm)));
        all.extend(self.head.as_ref().map(|head| (Parameter::Head, WeightRef::Matrix(head))));
        all
    }
}

/// A block's forward pass.
struct BlockForward<'a> {
    layer: usize,
    block: &'a Block,
    adapter: Adapter<'a>,
    activations: Activations,
    epsilon: f32,
}

impl<'a> BlockForward<'a> {
    /// From the block's input to what attention gives. Here alone do tokens meet each other.
    fn attention_half(&self, hidden: &Tensor, rotation: &Rotation, attention: &mut dyn Attend) -> Result<Attended> {
        let qkv = self.layers([LinearName::QProj, LinearName::KProj, LinearName::VProj], hidden)?;
        let normed = ops::rms_norm_for(&qkv, self.activations, hidden, &self.block.input_norm, self.epsilon)?;
        let [mut q, mut k, v] = ops::linears(&normed, &qkv, self.activations)?;
        let mut raw = None;
        if let (Some(query_norm), Some(key_norm)) = (&self.block.query_norm, &self.block.key_norm) {
            let before = (q, k);
            q = ops::rms_norm(&before.0, query_norm, self.epsilon)?;
            k = ops::rms_norm(&before.1, key_norm, self.epsilon)?;
            raw = Some(before);
        }
        let q = ops::rotate(&q, rotation, Direction::Forward)?;
        let k = ops::rotate(&k, rotation, Direction::Forward)?;
        let (values, normalisers) = attention.attend(self.layer, &q, &k, &v)?;
        Ok(Attended { raw, q, k, v, values, normalisers })
    }

    /// From the block's input and what attention gave for it to the block's result, each row for itself.
    fn feed_forward_half(&self, hidden: &Tensor, attended: &Tensor) -> Result<FedForward> {
        let middle = self.middle(hidden, attended)?;
        let gate_up = self.layers([LinearName::GateProj, LinearName::UpProj], hidden)?;
        let [gate, up] = ops::linears(&self.normed_middle(&middle, &gate_up)?, &gate_up, self.activations)?;
        let down = self.layers([LinearName::DownProj], hidden)?;
        let activated = ops::swiglu(&down, self.activations, &gate, &up)?;
        let out = self.down(&middle, &activated, &down)?;
        Ok(FedForward { middle, gate, up, out })
    }

    /// [`FedForward::out`] alone, for passes that are not gone back.
    fn fed_forward(&self, hidden: &Tensor, attended: &Tensor) -> Result<Tensor> {
        let middle = self.middle(hidden, attended)?;
        let gate_up = self.layers([LinearName::GateProj, LinearName::UpProj], hidden)?;
        let down = self.layers([LinearName::DownProj], hidden)?;
        let activated = ops::gated(&self.normed_middle(&middle, &gate_up)?, &gate_up, &down, self.activations)?;
        self.down(&middle, &activated, &down)
    }

    /// The residual stream between the block's halves.
    fn middle(&self, hidden: &Tensor, attended: &Tensor) -> Result<Tensor> {
        ops::add(hidden, &self.linear(LinearName::OProj, attended)?)
    }

    /// The residual stream behind the block.
    fn down(&self, middle: &Tensor, activated: &LinearInput, layer: &[Layer<'_>; 1]) -> Result<Tensor> {
        let [down] = ops::linears(activated, layer, self.activations)?;
        ops::add(middle, &down)
    }

    fn normed_middle(&self, middle: &Tensor, layers: &[Layer<'_>]) -> Result<LinearInput> {
        ops::rms_norm_for(layers, self.activations, middle, &self.block.post_attention_norm, self.epsilon)
    }

    /// One layer's result.
    fn linear(&self, name: LinearName, x: &Tensor) -> Result<Tensor> {
        let [out] = ops::linears(&LinearInput::Floats(x.clone()), &self.layers([name], x)?, self.activations)?;
        Ok(out)
    }

    /// Linear layers with what the adapter adds to them, for as many rows as `hidden` has.
    fn layers<const COUNT: usize>(&self, names: [LinearName; COUNT], hidden: &Tensor) -> Result<[Layer<'a>; COUNT]> {
        let rows = hidden.dim(0)?;
        Ok(names.map(|name| {
            let Linear { weight, bias } = self.block.linear(name);
            Layer { weight, bias: bias.as_deref(), adapted: self.adapter.rows(self.layer, name, rows) }
        }))
    }
}

/// The parts of a block's backward pass that end in a parameter's gradient.
struct BlockBackward<'a> {
    layer: usize,
    block: &'a Block,
    adapter: Option<&'a PackedAdapter>,
    gradients: &'a mut Gradients,
}

impl<'a> BlockBackward<'a> {
    fn lora(&self, name: LinearName) -> Option<&'a PackedLora> {
        self.adapter.and_then(|adapter| adapter.linear(self.layer, name))
    }

    /// What layers send back, given the gradients of their results.
    fn upstream<'b>(&'b self, parts: &[(LinearName, &'b Tensor)]) -> Vec<Upstream<'b>> {
        let part =
            |&(name, gradient)| Upstream { gradient, weight: &self.block.linear(name).weight, lora: self.lora(name) };
        parts.iter().map(part).collect()
    }

    /// Gradients of the layers that share input `x`, each given the gradient of its result; returns that of `x`.
    fn linears(&mut self, x: &Tensor, parts: &[(LinearName, &Tensor)]) -> Result<Tensor> {
        let (gradient, inner) = ops::linear_input_gradient(&self.upstream(parts))?;
        self.add(x, parts, &inner)?;
        Ok(gradient)
    }

    /// As [`BlockBackward::linears`] where nobody wants the gradient of `x`.
    fn parameters(&mut self, x: &Tensor, parts: &[(LinearName, &Tensor)]) -> Result<()> {
        let inner = ops::inner_gradients(&self.upstream(parts))?;
        self.add(x, parts, &inner)
    }

    /// Adds the gradients of what is trained in layers that share input `x`.
    fn add(&mut self, x: &Tensor, parts: &[(LinearName, &Tensor)], inner: &[Option<Vec<f32>>]) -> Result<()> {
        self.add_factors(x, parts, inner)?;
        self.add_weights(x, parts)?;
        for &(name, gradient) in parts {
            if let Some(sums) = self.gradients.get_mut(Parameter::Bias(self.layer, name)) {
                ops::bias_gradient(gradient, sums)?;
            }
        }
        Ok(())
    }

    fn add_factors(&mut self, x: &Tensor, parts: &[(LinearName, &Tensor)], inner: &[Option<Vec<f32>>]) -> Result<()> {
        let adapters: Vec<Option<&PackedLora>> = parts.iter().map(|&(name, _)| self.lora(name)).collect();
        let factors =
            |&(name, _): &(LinearName, _)| [Parameter::LoraA(self.layer, name), Parameter::LoraB(self.layer, name)];
        let factors: Vec<Parameter> = parts.iter().flat_map(factors).collect();
        let mut sums = self.gradients.several_mut(&factors).into_iter();
        let mut low_rank = Vec::with_capacity(parts.len());
        for ((&(_, gradient), inner), lora) in parts.iter().zip(inner).zip(adapters) {
            if let (Some(lora), Some(inner), Some(Some(a)), Some(Some(b))) = (lora, inner, sums.next(), sums.next()) {
                low_rank.push(LowRankPart { lora, gradient, inner, a, b });
            }
        }
        if low_rank.is_empty() { Ok(()) } else { ops::low_rank_gradients(x, &mut low_rank) }
    }

    fn add_weights(&mut self, x: &Tensor, parts: &[(LinearName, &Tensor)]) -> Result<()> {
        let gradients = parts.iter().map(|(_, gradient)| ops::floats(gradient)).collect::<Result<Vec<_>>>()?;
        let names: Vec<Parameter> = parts.iter().map(|&(name, _)| Parameter::Weight(self.layer, name)).collect();
        let products: Vec<OuterProduct<'_>> = self
            .gradients
            .several_mut(&names)
            .into_iter()
            .zip(&gradients)
            .filter_map(|(panels, right)| Some(OuterProduct { right, target: Target::Panels(panels?) }))
            .collect();
        if !products.is_empty() {
            add_outer_products(&ops::floats(x)?, x.dim(0)?, products);
        }
        Ok(())
    }

    /// The gradient of a norm's argument `x`.
    fn norm(&mut self, parameter: Parameter, x: &Tensor, gradient: &Tensor, epsilon: f32) -> Result<Tensor> {
        if let Some(sums) = self.gradients.get_mut(parameter) {
            ops::rms_norm_weight_gradient(x, gradient, epsilon, sums)?;
        }
        let weight = match parameter {
            Parameter::QueryNorm(_) => self.block.query_norm.as_deref(),
            Parameter::KeyNorm(_) => self.block.key_norm.as_deref(),
            Parameter::InputNorm(_) => Some(&*self.block.input_norm),
            _ => Some(&*self.block.post_attention_norm),
        };
        match weight {
            Some(weight) => ops::rms_norm_backward(x, weight, gradient, epsilon),
            None => candle_core::bail!("this model has no such norm"),
        }
    }
}

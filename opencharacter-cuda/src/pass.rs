//! One pass of a batch through the model: forward block by block, and back.
//!
//! The same steps as `Decoder::block` and `Decoder::block_backward` of opencharacter-nn, on groups of linear layers.

use opencharacter_nn::{PackedBatch, Parameter, PassOptions, TokenWeights};

use crate::{
    DeviceError, DeviceModel,
    device::{Buffer, Matrix},
    operations::{Attention, AttentionGradients, Dropout, Parts, Tiles},
    trained::GroupGradients,
    weights::{Group, Part, Vector},
    workspace::{Tape, Workspace},
};

/// A batch with what follows from it.
#[derive(Debug)]
pub(crate) struct Batch<'a> {
    pub(crate) packed: &'a PackedBatch,
    /// The rows whose next token is trained, and those tokens.
    pub(crate) rows: &'a [u32],
    pub(crate) targets: &'a [u32],
    pub(crate) tiles: Tiles,
}

/// A pass in progress.
pub(crate) struct Pass<'a> {
    pub(crate) model: &'a DeviceModel,
    pub(crate) workspace: &'a Workspace,
    pub(crate) batch: &'a Batch<'a>,
    pub(crate) options: PassOptions,
}

/// How far a block is computed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Whole,
    /// What its tape holds.
    Tape,
}

fn integers(values: &[u32]) -> Vec<i32> {
    values.iter().map(|&value| value as i32).collect()
}

impl<'a> Pass<'a> {
    /// Each trained token's loss.
    pub(crate) fn losses(&self) -> Result<Vec<f32>, DeviceError> {
        self.forward()?;
        self.head(None)?;
        self.read_losses()
    }

    /// Waits for the device: asked for as late as possible.
    fn read_losses(&self) -> Result<Vec<f32>, DeviceError> {
        self.workspace.losses.read(0, self.batch.rows.len())
    }

    /// Each trained token's loss; gradients of their weighted sum are added up.
    pub(crate) fn losses_and_gradients(&self, weights: TokenWeights<'_>) -> Result<Vec<f32>, DeviceError> {
        self.forward()?;
        let weights = match weights {
            TokenWeights::Equal => vec![1.0; self.batch.rows.len()],
            TokenWeights::FromLosses(weigh) => {
                self.head(None)?;
                weigh(&self.read_losses()?)
            }
        };
        self.head(Some(&weights))?;
        for layer in (0..self.model.config.num_hidden_layers).rev() {
            if !self.workspace.keeps_tapes {
                self.block(layer, Extent::Tape)?;
            }
            self.block_backward(layer)?;
        }
        if self.model.trains_weights {
            self.embed_backward()?;
        }
        self.read_losses()
    }

    fn tokens(&self) -> usize {
        self.batch.packed.tokens.len()
    }

    /// `[tokens, hidden]` of a buffer of such rows.
    fn stream(&self, buffer: &'a Buffer) -> Matrix<'a> {
        buffer.rows(self.tokens(), self.model.config.hidden_size)
    }

    /// The gradient of the residual stream, in the rows of the group that reads it on the way back.
    fn stream_gradient(&self, group: Group) -> Matrix<'a> {
        self.gradient(group).columns(0, self.model.config.hidden_size)
    }

    /// `[tokens, gradient_width]`.
    fn gradient(&self, group: Group) -> Matrix<'a> {
        self.workspace.gradient(group, &self.model.weights, self.tokens())
    }

    /// `[tokens, input_width]` of a group.
    fn group_input(&self, group: Group, buffer: &'a Buffer) -> Matrix<'a> {
        buffer.rows(self.tokens(), self.model.weights.layout(group).input_width())
    }

    fn norm(&self, weight: &'a Vector) -> (Matrix<'a>, f32) {
        (weight.view(), self.model.config.rms_norm_eps)
    }

    fn forward(&self) -> Result<(), DeviceError> {
        self.embed()?;
        for layer in 0..self.model.config.num_hidden_layers {
            self.block(layer, Extent::Whole)?;
        }
        Ok(())
    }

    fn embed(&self) -> Result<(), DeviceError> {
        let Self { model, workspace, batch, options } = self;
        let tokens = self.tokens();
        workspace.tokens.write_integers(&integers(&batch.packed.tokens))?;
        workspace.positions.write_integers(&integers(&batch.packed.positions()))?;
        let noise = if options.neftune_alpha > 0.0 {
            workspace.noise.write(0, &self.noise_bounds())?;
            Some(workspace.noise.vector(tokens))
        } else {
            None
        };
        let frequencies = model.frequencies.vector(model.frequencies.length());
        let table = workspace.rotation.rows(tokens, model.config.head_dim);
        model.operations.rotation_table(workspace.positions.vector(tokens), frequencies, table)?;
        let embedding = model.weights.embedding.rows(model.config.vocab_size, model.config.hidden_size);
        let out = self.stream(&workspace.inputs[0]);
        model.operations.embed(embedding, workspace.tokens.vector(tokens), noise, options.key, out)
    }

    /// `NEFTune`: up to `alpha / sqrt(tokens * hidden)` of each sequence.
    fn noise_bounds(&self) -> Vec<f32> {
        let mut bounds = Vec::with_capacity(self.tokens());
        for borders in self.batch.packed.cumulative_lengths.windows(2) {
            let length = borders[1] - borders[0];
            let elements = (length * self.model.config.hidden_size) as f32;
            bounds.extend(std::iter::repeat_n(self.options.neftune_alpha / elements.sqrt(), length));
        }
        bounds
    }

    /// Runs a block, from `inputs[layer]` (which for later blocks is first made from what the one before left) to its
    /// tape and `update`.
    fn block(&self, layer: usize, extent: Extent) -> Result<(), DeviceError> {
        let Self { model, workspace, .. } = self;
        let block = &model.weights.blocks[layer];
        let tape = workspace.tape(layer);
        let input = self.stream(&workspace.inputs[layer]);
        let normed = self.normed_input();
        let (norm, parts) = (self.norm(&block.input_norm), model.hidden_parts());
        if layer > 0 && extent == Extent::Whole {
            let before = self.stream(&workspace.tape(layer - 1).middle);
            let update = Some(self.stream(&workspace.update));
            model.operations.rms_norm(before, update, None, norm, parts, Some(input), normed)?;
        } else {
            model.operations.rms_norm(input, None, None, norm, parts, None, normed)?;
        }
        self.project_heads(layer, tape)?;
        model.operations.attention(&self.attention(tape))?;
        self.linear(layer, Group::Output, &tape.attended, self.stream(&workspace.update))?;
        let middle = self.stream(&tape.middle);
        let update = Some(self.stream(&workspace.update));
        let normed = self.normed_middle();
        let norm = self.norm(&block.post_attention_norm);
        model.operations.rms_norm(input, update, None, norm, parts, Some(middle), normed)?;
        self.linear(layer, Group::GateUp, &workspace.gate_up_input, self.gate_up(tape))?;
        if extent == Extent::Whole {
            model.operations.swiglu(self.gate_up(tape), self.activated())?;
            self.linear(layer, Group::Down, &workspace.down_input, self.stream(&workspace.update))?;
        }
        Ok(())
    }

    fn normed_input(&self) -> Matrix<'a> {
        self.group_input(Group::QueryKeyValue, &self.workspace.qkv_input).columns(0, self.model.config.hidden_size)
    }

    fn normed_middle(&self) -> Matrix<'a> {
        self.group_input(Group::GateUp, &self.workspace.gate_up_input).columns(0, self.model.config.hidden_size)
    }

    fn activated(&self) -> Matrix<'a> {
        self.group_input(Group::Down, &self.workspace.down_input).columns(0, self.model.config.intermediate_size)
    }

    fn gate_up(&self, tape: &'a Tape) -> Matrix<'a> {
        tape.gate_up.rows(self.tokens(), 2 * self.model.config.intermediate_size)
    }

    /// Queries, keys and values: columns of a `[tokens, queries + keys + values]` matrix.
    fn head_columns(&self, matrix: Matrix<'a>) -> [Matrix<'a>; 3] {
        let (queries, keys) = (self.model.config.query_size(), self.model.config.key_value_size());
        [matrix.columns(0, queries), matrix.columns(queries, keys), matrix.columns(queries + keys, keys)]
    }

    fn qkv(&self, buffer: &'a Buffer) -> Matrix<'a> {
        buffer.rows(self.tokens(), self.model.weights.layout(Group::QueryKeyValue).outputs)
    }

    fn rotation(&self) -> Matrix<'a> {
        self.workspace.rotation.rows(self.tokens(), self.model.config.head_dim)
    }

    /// Queries, keys and values, normalised head by head where the model does so, and rotated.
    fn project_heads(&self, layer: usize, tape: &'a Tape) -> Result<(), DeviceError> {
        let model = self.model;
        let qkv = self.qkv(&tape.qkv);
        let projected = tape.raw.as_ref().map_or(qkv, |raw| self.qkv(raw));
        self.linear(layer, Group::QueryKeyValue, &self.workspace.qkv_input, projected)?;
        if let (Some(raw), Some(norms)) = (&tape.raw, &model.weights.blocks[layer].head_norms) {
            let (raw, normed) = (self.head_columns(self.qkv(raw)), self.head_columns(qkv));
            for ((raw, normed), norm) in raw.into_iter().zip(normed).zip(norms) {
                let parts = self.head_parts(raw);
                model.operations.rms_norm(raw, None, None, self.norm(norm), parts, None, normed)?;
            }
        }
        let heads = qkv.columns(0, model.config.query_size() + model.config.key_value_size());
        model.operations.rotate(heads, self.rotation(), true, heads)
    }

    fn head_parts(&self, heads: Matrix<'_>) -> Parts {
        let width = self.model.config.head_dim;
        Parts { count: heads.columns / width, width }
    }

    fn attention(&self, tape: &'a Tape) -> Attention<'a> {
        let config = &self.model.config;
        let [queries, keys, values] = self.head_columns(self.qkv(&tape.qkv));
        let values = tape.raw.as_ref().map_or(values, |raw| self.head_columns(self.qkv(raw))[2]);
        Attention {
            tiles: &self.batch.tiles,
            queries,
            keys,
            values,
            normalisers: tape.normalisers.vector(self.tokens() * config.num_attention_heads),
            out: self.group_input(Group::Output, &tape.attended).columns(0, config.query_size()),
            head_dim: config.head_dim,
            window: config.sliding_window,
        }
    }

    /// Fills in the columns of `input` that belong to the group's adapters.
    fn project_ranks(&self, layer: usize, group: Group, input: &'a Buffer) -> Result<(), DeviceError> {
        let weights = self.model.weights.group(layer, group);
        let layout = &weights.layout;
        if layout.ranks == 0 {
            return Ok(());
        }
        let rows = self.group_input(group, input);
        let x = rows.columns(0, layout.inputs);
        let ranks = rows.columns(layout.rank_column(), layout.ranks);
        if self.options.lora_dropout == 0.0 {
            return self.model.multiply_turned(ranks, x, weights.low_rank_inputs());
        }
        for part in &layout.parts {
            if let Some((first, dropout)) = self.dropout(layer, part) {
                let dropped = self.dropped(layout.inputs)?;
                self.model.operations.dropout(x, dropout, dropped, false)?;
                let factor = weights.low_rank_inputs().rows(first, layout.rank);
                self.model.multiply_turned(ranks.columns(first, layout.rank), dropped, factor)?;
            }
        }
        Ok(())
    }

    fn dropped(&self, width: usize) -> Result<Matrix<'a>, DeviceError> {
        let buffer = self.workspace.dropped.as_ref();
        let buffer = buffer.ok_or_else(|| DeviceError::Model("dropout without memory for it".into()))?;
        Ok(buffer.rows(self.tokens(), width))
    }

    /// An adapter's first rank and its dropout, where the layer has one. Keys are those of opencharacter-nn.
    fn dropout(&self, layer: usize, part: &Part) -> Option<(usize, Dropout)> {
        let first = part.first_rank?;
        let adapted = |part: &&Part| part.first_rank.is_some();
        let parts = || self.model.weights.layouts.iter().flat_map(|layout| &layout.parts).filter(adapted);
        let place = layer * parts().count() + parts().filter(|other| other.name < part.name).count();
        let key = self.options.key.wrapping_add((place as u64 + 1) << 40);
        Some((first, Dropout { probability: self.options.lora_dropout, key }))
    }

    /// A group's results from its input.
    fn linear(&self, layer: usize, group: Group, input: &'a Buffer, out: Matrix<'a>) -> Result<(), DeviceError> {
        self.project_ranks(layer, group, input)?;
        let weights = self.model.weights.group(layer, group);
        let matrix = weights.part(0, weights.layout.outputs, 0, weights.layout.input_width());
        self.model.multiply_turned(out, self.group_input(group, input), matrix)
    }

    /// Computes the losses of the trained rows, and with weights the gradient of the residual stream after the last block.
    fn head(&self, weights: Option<&[f32]>) -> Result<(), DeviceError> {
        let Self { model, workspace, batch, .. } = self;
        let (count, hidden, vocabulary) = (batch.rows.len(), model.config.hidden_size, model.config.vocab_size);
        workspace.rows.write_integers(&integers(batch.rows))?;
        workspace.targets.write_integers(&integers(batch.targets))?;
        if let Some(weights) = weights {
            workspace.loss_weights.write(0, weights)?;
        }
        let places = workspace.rows.vector(count);
        let [selected, normed, gradient] = [&workspace.selected, &workspace.normed, &workspace.normed_gradient]
            .map(|buffer| buffer.rows(count, hidden));
        let norm = self.norm(&model.weights.final_norm);
        let last = workspace.tape(model.config.num_hidden_layers - 1);
        let (middle, update) = (self.stream(&last.middle), Some(self.stream(&workspace.update)));
        let parts = model.hidden_parts();
        model.operations.rms_norm(middle, update, Some(places), norm, parts, Some(selected), normed)?;

        let head = model.weights.head().rows(vocabulary, hidden);
        let head_parameter = if model.weights.head.is_some() { Parameter::Head } else { Parameter::Embedding };
        for first in (0..count).step_by(workspace.logit_rows) {
            let rows = workspace.logit_rows.min(count - first);
            let logits = workspace.logits.rows(rows, vocabulary);
            let chunk = normed.rows(first, rows);
            model.multiply_turned(logits, chunk, head)?;
            let targets = workspace.targets.matrix(first, 1, rows, rows);
            let losses = workspace.losses.matrix(first, 1, rows, rows);
            let logit_gradient = workspace.logit_gradient.rows(rows, vocabulary);
            let weighted = weights.map(|_| (workspace.loss_weights.matrix(first, 1, rows, rows), logit_gradient));
            model.operations.cross_entropy(logits, targets, losses, weighted)?;
            if weights.is_some() {
                model.multiply(gradient.rows(first, rows), logit_gradient, head)?;
                if let Some(sums) = model.trained.dense_gradient(head_parameter) {
                    model.add_outer_product(sums, logit_gradient, chunk, 1.0)?;
                }
            }
        }
        if weights.is_some() {
            // The selected rows' gradient takes the place of the normed rows, which nobody needs any more.
            self.norm_backward(Parameter::FinalNorm, &model.weights.final_norm, selected, gradient, None, normed)?;
            let width = model.weights.layout(Group::Down).gradient_width();
            workspace.gradients[Group::Down as usize].zero_first(self.tokens() * width)?;
            model.operations.scatter_rows(normed, places, self.stream_gradient(Group::Down))?;
        }
        Ok(())
    }

    /// The gradient of a norm's argument, plus `residual`; that of its weight is added up where it is trained.
    fn norm_backward(
        &self,
        parameter: Parameter,
        weight: &'a Vector,
        input: Matrix<'a>,
        gradient: Matrix<'a>,
        residual: Option<Matrix<'a>>,
        out: Matrix<'a>,
    ) -> Result<(), DeviceError> {
        let operations = &self.model.operations;
        let parts = Parts { count: input.columns / weight.length, width: weight.length };
        let inverses = self.workspace.inverses.vector(input.rows * parts.count);
        operations.rms_norm_backward(input, self.norm(weight), parts, gradient, residual, out, inverses)?;
        match self.model.trained.dense_gradient(parameter) {
            Some(sums) => {
                operations.norm_weight_gradient(input, parts, gradient, inverses, &self.workspace.slices, sums)
            }
            None => Ok(()),
        }
    }

    /// From the gradient of a block's result to that of its input; both are the rows of [`Group::Down`].
    fn block_backward(&self, layer: usize) -> Result<(), DeviceError> {
        let Self { model, workspace, .. } = self;
        let (operations, block) = (&model.operations, &model.weights.blocks[layer]);
        let tape = workspace.tape(layer);
        let (tokens, hidden) = (self.tokens(), model.config.hidden_size);
        let normed_gradient = self.stream(&workspace.normed_gradient);

        let activated = workspace.activated_gradient.rows(tokens, model.config.intermediate_size);
        self.input_gradient(layer, Group::Down, activated)?;
        let gate_up = self.gradient(Group::GateUp).columns(0, 2 * model.config.intermediate_size);
        operations.swiglu_backward(self.gate_up(tape), activated, self.activated(), gate_up)?;
        self.project_ranks(layer, Group::Down, &workspace.down_input)?;
        self.parameter_gradients(layer, Group::Down, &workspace.down_input)?;

        let (norm, parts) = (self.norm(&block.post_attention_norm), model.hidden_parts());
        let middle = self.stream(&tape.middle);
        operations.rms_norm(middle, None, None, norm, parts, None, self.normed_middle())?;
        self.project_ranks(layer, Group::GateUp, &workspace.gate_up_input)?;
        self.input_gradient(layer, Group::GateUp, normed_gradient)?;
        self.parameter_gradients(layer, Group::GateUp, &workspace.gate_up_input)?;
        let (above, between) = (self.stream_gradient(Group::Down), self.stream_gradient(Group::Output));
        let parameter = Parameter::PostAttentionNorm(layer);
        self.norm_backward(parameter, &block.post_attention_norm, middle, normed_gradient, Some(above), between)?;

        let attended = workspace.attended_gradient.rows(tokens, model.config.query_size());
        self.input_gradient(layer, Group::Output, attended)?;
        self.parameter_gradients(layer, Group::Output, &tape.attended)?;
        self.heads_backward(layer, tape, attended)?;

        let input = self.stream(&workspace.inputs[layer]);
        let norm = self.norm(&block.input_norm);
        operations.rms_norm(input, None, None, norm, parts, None, self.normed_input())?;
        self.project_ranks(layer, Group::QueryKeyValue, &workspace.qkv_input)?;
        // Below the first block there is only the embedding.
        if layer == 0 && !model.trains_weights {
            self.rank_gradients(layer, Group::QueryKeyValue)?;
            return self.parameter_gradients(layer, Group::QueryKeyValue, &workspace.qkv_input);
        }
        self.input_gradient(layer, Group::QueryKeyValue, normed_gradient)?;
        self.parameter_gradients(layer, Group::QueryKeyValue, &workspace.qkv_input)?;
        let below = self.gradient(Group::Down).columns(0, hidden);
        let parameter = Parameter::InputNorm(layer);
        self.norm_backward(parameter, &block.input_norm, input, normed_gradient, Some(between), below)
    }

    /// From the gradient of attention's result to that of the projections of queries, keys and values.
    fn heads_backward(&self, layer: usize, tape: &'a Tape, attended: Matrix<'a>) -> Result<(), DeviceError> {
        let Self { model, workspace, .. } = self;
        let config = &model.config;
        let qkv = self.gradient(Group::QueryKeyValue).columns(0, config.query_size() + 2 * config.key_value_size());
        let [queries, keys, values] = self.head_columns(qkv);
        let deltas = workspace.deltas.vector(self.tokens() * config.num_attention_heads);
        let gradients = AttentionGradients { out: attended, deltas, queries, keys, values };
        model.operations.attention_backward(&self.attention(tape), &gradients)?;
        let width = config.query_size() + config.key_value_size();
        let heads = qkv.columns(0, width);
        match (&workspace.turned, &tape.raw, &model.weights.blocks[layer].head_norms) {
            (Some(turned), Some(raw), Some([query_norm, key_norm])) => {
                let turned = turned.rows(self.tokens(), width);
                model.operations.rotate(heads, self.rotation(), false, turned)?;
                let [raw_queries, raw_keys, _] = self.head_columns(self.qkv(raw));
                let turned_queries = turned.columns(0, config.query_size());
                let turned_keys = turned.columns(config.query_size(), config.key_value_size());
                let parameter = Parameter::QueryNorm(layer);
                self.norm_backward(parameter, query_norm, raw_queries, turned_queries, None, queries)?;
                self.norm_backward(Parameter::KeyNorm(layer), key_norm, raw_keys, turned_keys, None, keys)
            }
            _ => model.operations.rotate(heads, self.rotation(), false, heads),
        }
    }

    /// Fills in the columns of a group's gradients that belong to its adapters.
    fn rank_gradients(&self, layer: usize, group: Group) -> Result<(), DeviceError> {
        let weights = self.model.weights.group(layer, group);
        let layout = &weights.layout;
        if layout.ranks == 0 {
            return Ok(());
        }
        let gradient = self.gradient(group);
        let (outputs, ranks) = (gradient.columns(0, layout.outputs), gradient.columns(layout.outputs, layout.ranks));
        self.model.multiply(ranks, outputs, weights.low_rank_outputs())
    }

    /// The gradient of a group's input, and the adapters' columns of its gradients.
    fn input_gradient(&self, layer: usize, group: Group, out: Matrix<'a>) -> Result<(), DeviceError> {
        self.rank_gradients(layer, group)?;
        let weights = self.model.weights.group(layer, group);
        let layout = &weights.layout;
        let gradient = self.gradient(group);
        if self.options.lora_dropout == 0.0 || layout.ranks == 0 {
            let matrix = weights.part(0, layout.gradient_width(), 0, layout.inputs);
            return self.model.multiply(out, gradient, matrix);
        }
        let matrix = weights.part(0, layout.outputs, 0, layout.inputs);
        self.model.multiply(out, gradient.columns(0, layout.outputs), matrix)?;
        for part in &layout.parts {
            if let Some((first, dropout)) = self.dropout(layer, part) {
                let dropped = self.dropped(layout.inputs)?;
                let ranks = gradient.columns(layout.outputs + first, layout.rank);
                self.model.multiply(dropped, ranks, weights.low_rank_inputs().rows(first, layout.rank))?;
                self.model.operations.dropout(dropped, dropout, out, true)?;
            }
        }
        Ok(())
    }

    /// Adds up the gradients of a group's parameters; the columns of its ranks are filled in, in input and gradients.
    fn parameter_gradients(&self, layer: usize, group: Group, input: &'a Buffer) -> Result<(), DeviceError> {
        let layout = self.model.weights.layout(group);
        let (rows, gradient) = (self.group_input(group, input), self.gradient(group));
        let outputs = gradient.columns(0, layout.outputs);
        match self.model.trained.group_gradients(layer, layout) {
            None => Ok(()),
            Some(GroupGradients::Whole(sums)) => {
                self.model.add_outer_product(sums, outputs, rows.columns(0, layout.inputs + layout.bias_columns), 1.0)
            }
            Some(GroupGradients::LowRank { inputs: a, outputs: b }) => {
                let projected = rows.columns(layout.rank_column(), layout.ranks);
                self.model.add_outer_product(b, outputs, projected, self.model.adapter_scale)?;
                let ranks = gradient.columns(layout.outputs, layout.ranks);
                let x = rows.columns(0, layout.inputs);
                if self.options.lora_dropout == 0.0 {
                    return self.model.add_outer_product(a, ranks, x, 1.0);
                }
                for part in &layout.parts {
                    if let Some((first, dropout)) = self.dropout(layer, part) {
                        let dropped = self.dropped(layout.inputs)?;
                        self.model.operations.dropout(x, dropout, dropped, false)?;
                        let (a, ranks) = (a.rows(first, layout.rank), ranks.columns(first, layout.rank));
                        self.model.add_outer_product(a, ranks, dropped, 1.0)?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Adds up the gradients of the embeddings, token by token in a fixed order.
    fn embed_backward(&self) -> Result<(), DeviceError> {
        let Some(sums) = self.model.trained.dense_gradient(Parameter::Embedding) else { return Ok(()) };
        let mut places: Vec<(u32, i32)> = self.batch.packed.tokens.iter().copied().zip(0..).collect();
        places.sort_unstable();
        let (mut tokens, mut starts) = (Vec::new(), Vec::new());
        for (start, (token, _)) in places.iter().enumerate() {
            if tokens.last() != Some(&(*token as i32)) {
                tokens.push(*token as i32);
                starts.push(start as i32);
            }
        }
        starts.push(places.len() as i32);
        let places: Vec<i32> = places.into_iter().map(|(_, place)| place).collect();
        let buffers = [&tokens, &starts, &places].map(|values| self.upload_integers(values));
        let [tokens_buffer, starts_buffer, places_buffer] = buffers;
        let (tokens_buffer, starts_buffer, places_buffer) = (tokens_buffer?, starts_buffer?, places_buffer?);
        let lists = [
            tokens_buffer.vector(tokens.len()),
            starts_buffer.vector(starts.len()),
            places_buffer.vector(places.len()),
        ];
        self.model.operations.embed_backward(self.stream_gradient(Group::Down), lists, sums)
    }

    fn upload_integers(&self, values: &[i32]) -> Result<Buffer, DeviceError> {
        let buffer = Buffer::new(&self.model.operations.0, crate::device::Kind::Integer, values.len(), "tokens")?;
        buffer.write_integers(values)?;
        Ok(buffer)
    }
}

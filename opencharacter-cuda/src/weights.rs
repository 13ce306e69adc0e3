//! Weights on the device, in the layout that products read.
//!
//! Linear layers that share their input are one matrix, output after output: queries, keys and values; gate and up. To
//! that matrix come, where they exist, columns for the biases and for an adapter:
//!
//! ```text
//!            inputs   bias   ranks
//! outputs  [   W       b      s B  ]
//! ranks    [   A       0       0   ]
//! ```
//!
//! With rows `[x | 1 0 .. | x A']`, a layer with bias and adapter is one product, written once; with rows `[g | g s B]`
//! of gradients, so is the gradient of its input. Ranks are padded to whole 16 bytes with zeros.

use std::rc::Rc;

use opencharacter_nn::{Decoder, DecoderConfig, LinearName, LoraAdapter, Parameter};

use crate::{
    DeviceError,
    device::{Buffer, Device, Kind, Matrix},
};

/// Elements to whose multiples rows are padded: 16 bytes of bf16.
const ALIGNMENT: usize = 8;

/// Linear layers that share their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    QueryKeyValue,
    Output,
    GateUp,
    Down,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::QueryKeyValue, Self::Output, Self::GateUp, Self::Down];

    pub(crate) fn names(self) -> &'static [LinearName] {
        match self {
            Self::QueryKeyValue => &[LinearName::QProj, LinearName::KProj, LinearName::VProj],
            Self::Output => &[LinearName::OProj],
            Self::GateUp => &[LinearName::GateProj, LinearName::UpProj],
            Self::Down => &[LinearName::DownProj],
        }
    }
}

/// One linear layer inside its group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    pub(crate) name: LinearName,
    pub(crate) first_output: usize,
    pub(crate) outputs: usize,
    /// Its first rank, where it has an adapter.
    pub(crate) first_rank: Option<usize>,
}

/// How a group's matrix is laid out.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) parts: Vec<Part>,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// Columns for biases: none, or [`ALIGNMENT`] of which the first is used.
    pub(crate) bias_columns: usize,
    /// Of one adapter.
    pub(crate) rank: usize,
    /// Of all adapters of the group, padded.
    pub(crate) ranks: usize,
}

impl Layout {
    fn new(group: Group, config: &DecoderConfig, adapter: Option<&LoraAdapter>, has_bias: bool) -> Self {
        let mut parts = Vec::new();
        let (mut outputs, mut ranks, mut inputs) = (0, 0, 0);
        let rank = adapter.map_or(0, |adapter| adapter.config().rank);
        for &name in group.names() {
            let shape = name.shape(config);
            let adapted = adapter.is_some_and(|adapter| adapter.config().targets.contains(&name));
            parts.push(Part { name, first_output: outputs, outputs: shape.0, first_rank: adapted.then_some(ranks) });
            outputs += shape.0;
            inputs = shape.1;
            ranks += if adapted { rank } else { 0 };
        }
        let bias_columns = if has_bias { ALIGNMENT } else { 0 };
        Self { parts, inputs, outputs, bias_columns, rank, ranks: ranks.next_multiple_of(ALIGNMENT) }
    }

    /// Width of the rows that the group multiplies.
    pub(crate) fn input_width(&self) -> usize {
        self.inputs + self.bias_columns + self.ranks
    }

    /// Width of rows of gradients.
    pub(crate) fn gradient_width(&self) -> usize {
        self.outputs + self.ranks
    }

    /// Where the columns of ranks begin.
    pub(crate) fn rank_column(&self) -> usize {
        self.inputs + self.bias_columns
    }
}

/// A group's matrix.
#[derive(Debug)]
pub(crate) struct GroupWeights {
    pub(crate) layout: Rc<Layout>,
    pub(crate) matrix: Buffer,
}

impl GroupWeights {
    /// Rows `first_row..` and columns `first_column..` of the matrix.
    pub(crate) fn part(&self, first_row: usize, rows: usize, first_column: usize, columns: usize) -> Matrix<'_> {
        let stride = self.layout.input_width();
        self.matrix.matrix(first_row * stride + first_column, rows, columns, stride)
    }

    /// `A` of all adapters, `[ranks, inputs]`.
    pub(crate) fn low_rank_inputs(&self) -> Matrix<'_> {
        self.part(self.layout.outputs, self.layout.ranks, 0, self.layout.inputs)
    }

    /// `s B` of all adapters, `[outputs, ranks]`.
    pub(crate) fn low_rank_outputs(&self) -> Matrix<'_> {
        self.part(0, self.layout.outputs, self.layout.rank_column(), self.layout.ranks)
    }
}

/// A vector of f32 inside a buffer that others may share.
#[derive(Debug, Clone)]
pub(crate) struct Vector {
    pub(crate) buffer: Rc<Buffer>,
    pub(crate) first: usize,
    pub(crate) length: usize,
}

impl Vector {
    pub(crate) fn view(&self) -> Matrix<'_> {
        self.buffer.matrix(self.first, 1, self.length, self.length)
    }

    fn upload(device: &Rc<dyn Device>, values: &[f32]) -> Result<Self, DeviceError> {
        let buffer = Buffer::new(device, Kind::Float, values.len(), "weights")?;
        buffer.write(0, values)?;
        Ok(Self { buffer: Rc::new(buffer), first: 0, length: values.len() })
    }
}

/// One block's weights.
#[derive(Debug)]
pub(crate) struct BlockWeights {
    pub(crate) input_norm: Vector,
    /// Of queries and of keys.
    pub(crate) head_norms: Option<[Vector; 2]>,
    pub(crate) post_attention_norm: Vector,
    pub(crate) groups: [GroupWeights; 4],
}

impl BlockWeights {
    pub(crate) fn group(&self, group: Group) -> &GroupWeights {
        &self.groups[group as usize]
    }
}

/// A decoder's weights.
#[derive(Debug)]
pub(crate) struct Weights {
    pub(crate) layouts: [Rc<Layout>; 4],
    /// `[vocabulary, hidden]`.
    pub(crate) embedding: Buffer,
    /// A head of its own, where it is not tied.
    pub(crate) head: Option<Buffer>,
    pub(crate) blocks: Vec<BlockWeights>,
    pub(crate) final_norm: Vector,
}

impl Weights {
    /// Uploads a decoder's weights, with room for `adapter`'s, whose factors are written later.
    pub(crate) fn upload(
        device: &Rc<dyn Device>,
        decoder: &Decoder,
        adapter: Option<&LoraAdapter>,
    ) -> Result<Self, DeviceError> {
        let config = decoder.config();
        let weights: std::collections::BTreeMap<Parameter, _> = decoder.weights().into_iter().collect();
        let rows = |parameter: Parameter| weights.get(&parameter).map(|weight| weight.to_rows());
        let needed = |parameter: Parameter| rows(parameter).ok_or_else(|| DeviceError::Parameter(parameter.name()));
        let table = |values: Vec<f32>| {
            let buffer = Buffer::new(device, Kind::Element, values.len(), "weights")?;
            buffer.write(0, &values)?;
            Ok::<_, DeviceError>(buffer)
        };
        let layouts = Group::ALL.map(|group| {
            // A group has a column for biases when one of its layers has one, in any block.
            let has_bias = weights
                .keys()
                .any(|parameter| matches!(parameter, Parameter::Bias(_, name) if group.names().contains(name)));
            Rc::new(Layout::new(group, config, adapter, has_bias))
        });
        let mut blocks = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let mut groups = Vec::with_capacity(layouts.len());
            for layout in &layouts {
                let stride = layout.input_width();
                let buffer = Buffer::zeros(device, Kind::Element, (layout.outputs + layout.ranks) * stride, "weights")?;
                for part in &layout.parts {
                    let mut wide = vec![0.0; part.outputs * stride];
                    let weight = needed(Parameter::Weight(layer, part.name))?;
                    for (wide, row) in wide.chunks_exact_mut(stride).zip(weight.chunks_exact(layout.inputs)) {
                        wide[..layout.inputs].copy_from_slice(row);
                    }
                    if let Some(bias) = rows(Parameter::Bias(layer, part.name)) {
                        for (wide, bias) in wide.chunks_exact_mut(stride).zip(bias) {
                            wide[layout.inputs] = bias;
                        }
                    }
                    buffer.write(part.first_output * stride, &wide)?;
                }
                groups.push(GroupWeights { layout: Rc::clone(layout), matrix: buffer });
            }
            let Ok(groups) = <[GroupWeights; 4]>::try_from(groups) else {
                unreachable!("one matrix was pushed per group");
            };
            let norm = |parameter| Vector::upload(device, &needed(parameter)?);
            let head_norms = match rows(Parameter::QueryNorm(layer)) {
                Some(_) => Some([norm(Parameter::QueryNorm(layer))?, norm(Parameter::KeyNorm(layer))?]),
                None => None,
            };
            blocks.push(BlockWeights {
                input_norm: norm(Parameter::InputNorm(layer))?,
                head_norms,
                post_attention_norm: norm(Parameter::PostAttentionNorm(layer))?,
                groups,
            });
        }
        Ok(Self {
            layouts,
            embedding: table(needed(Parameter::Embedding)?)?,
            head: rows(Parameter::Head).map(table).transpose()?,
            blocks,
            final_norm: Vector::upload(device, &needed(Parameter::FinalNorm)?)?,
        })
    }

    pub(crate) fn layout(&self, group: Group) -> &Layout {
        &self.layouts[group as usize]
    }

    /// The output head, `[vocabulary, hidden]`.
    pub(crate) fn head(&self) -> &Buffer {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

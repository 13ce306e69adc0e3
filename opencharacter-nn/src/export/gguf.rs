//! GGUF out, version 3, as llama.cpp's own converter lays it out.
//!
//! Not candle's writer: that holds all tensors in memory at once, and a model of 8 billion weights should need no second
//! copy of itself. The format is <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
};

use candle_core::quantized::gguf_file::Value;

use super::{
    Export, WeightType,
    gguf_metadata::{linear_factor, metadata},
    merge::MergedWeight,
};
use crate::{
    Decoder, LinearName, NnError, Parameter,
    architecture::Architecture,
    gguf::{ROPE_FACTORS, tensor_name},
};

/// Tensors begin at multiples of this, as they do where a file says nothing.
const ALIGNMENT: u64 = 32;

/// Writes the model to `path`.
pub(super) fn write_gguf(export: &Export<'_>, path: &Path) -> Result<(), NnError> {
    let metadata = metadata(export, path)?;
    let tensors = tensors(export)?;
    let io = |reason| NnError::Io { action: "write", path: path.into(), reason };
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
    let mut header = Vec::new();
    header.extend(b"GGUF");
    header.extend(3_u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in &metadata {
        put_string(&mut header, key);
        header.extend(type_number(value).to_le_bytes());
        put_value(&mut header, value);
    }
    let mut offset = 0;
    for tensor in &tensors {
        tensor.put_header(&mut header, offset);
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT as usize), 0);
    file.write_all(&header).map_err(io)?;
    for tensor in &tensors {
        let mut bytes = tensor.encode(export.decoder)?;
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
        file.write_all(&bytes).map_err(io)?;
    }
    let file = file.into_inner().map_err(io::IntoInnerError::into_error).map_err(io)?;
    file.sync_all().map_err(io)
}

/// A tensor of the file.
struct GgufTensor<'a> {
    name: String,
    /// As everywhere here, rows first; GGUF names the innermost dimension first.
    shape: Vec<usize>,
    weight_type: WeightType,
    source: Source<'a>,
}

enum Source<'a> {
    /// As it is.
    Weight(MergedWeight<'a>),
    /// With the rows of rotary pairs side by side.
    PairedRows(MergedWeight<'a>),
    /// What the rotary embedding's frequencies are divided by.
    RopeFactors,
}

fn tensors<'a>(export: &Export<'a>) -> Result<Vec<GgufTensor<'a>>, NnError> {
    let paired = matches!(export.architecture()?, Architecture::Llama | Architecture::Mistral);
    let mut tensors: Vec<GgufTensor<'a>> = export
        .weights()
        .map(|weight| {
            let shape = weight.shape();
            GgufTensor {
                name: tensor_name(weight.parameter),
                weight_type: export.weight_type.in_gguf(&shape),
                shape,
                source: match weight.parameter {
                    Parameter::Weight(_, LinearName::QProj | LinearName::KProj)
                    | Parameter::Bias(_, LinearName::QProj | LinearName::KProj)
                        if paired =>
                    {
                        Source::PairedRows(weight)
                    }
                    _ => Source::Weight(weight),
                },
            }
        })
        .collect();
    let factors = &export.decoder.config().rope_factors;
    if !factors.is_empty() && linear_factor(factors).is_none() {
        tensors.push(GgufTensor {
            name: ROPE_FACTORS.into(),
            shape: vec![factors.len()],
            weight_type: WeightType::F32,
            source: Source::RopeFactors,
        });
    }
    Ok(tensors)
}

impl GgufTensor<'_> {
    fn bytes(&self) -> u64 {
        self.weight_type.bytes(self.shape.iter().product()) as u64
    }

    fn put_header(&self, out: &mut Vec<u8>, offset: u64) {
        put_string(out, &self.name);
        out.extend((self.shape.len() as u32).to_le_bytes());
        self.shape.iter().rev().for_each(|&length| out.extend((length as u64).to_le_bytes()));
        out.extend(tensor_type_number(self.weight_type).to_le_bytes());
        out.extend(offset.to_le_bytes());
    }

    fn encode(&self, decoder: &Decoder) -> Result<Vec<u8>, NnError> {
        let config = decoder.config();
        let values = match &self.source {
            Source::Weight(weight) => weight.values(),
            Source::PairedRows(weight) => {
                let width = self.shape.get(1).copied().unwrap_or(1);
                join_rotary_pairs(&weight.values(), width, config.head_dim)
            }
            Source::RopeFactors => config.rope_factors.clone(),
        };
        Ok(self.weight_type.encode(values)?)
    }
}

/// Rows `i` and `head_dim / 2 + i` of each head become rows `2i` and `2i + 1`; a row is `width` values. The reader does
/// the opposite.
fn join_rotary_pairs(weight: &[f32], width: usize, head_dim: usize) -> Vec<f32> {
    let mut joined = Vec::with_capacity(weight.len());
    for head in weight.chunks_exact(head_dim * width) {
        let (first, second) = head.split_at(head.len() / 2);
        for (first, second) in first.chunks_exact(width).zip(second.chunks_exact(width)) {
            joined.extend_from_slice(first);
            joined.extend_from_slice(second);
        }
    }
    joined
}

fn tensor_type_number(weight_type: WeightType) -> u32 {
    match weight_type {
        WeightType::F32 => 0,
        WeightType::F16 => 1,
        WeightType::Q8_0 => 8,
        WeightType::Bf16 => 30,
    }
}

fn type_number(value: &Value) -> u32 {
    match value {
        Value::U8(_) => 0,
        Value::I8(_) => 1,
        Value::U16(_) => 2,
        Value::I16(_) => 3,
        Value::U32(_) => 4,
        Value::I32(_) => 5,
        Value::F32(_) => 6,
        Value::Bool(_) => 7,
        Value::String(_) => 8,
        Value::Array(_) => 9,
        Value::U64(_) => 10,
        Value::I64(_) => 11,
        Value::F64(_) => 12,
    }
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(value) => out.push(*value),
        Value::I8(value) => out.extend(value.to_le_bytes()),
        Value::U16(value) => out.extend(value.to_le_bytes()),
        Value::I16(value) => out.extend(value.to_le_bytes()),
        Value::U32(value) => out.extend(value.to_le_bytes()),
        Value::I32(value) => out.extend(value.to_le_bytes()),
        Value::F32(value) => out.extend(value.to_le_bytes()),
        Value::Bool(value) => out.push(u8::from(*value)),
        Value::String(text) => put_string(out, text),
        Value::U64(value) => out.extend(value.to_le_bytes()),
        Value::I64(value) => out.extend(value.to_le_bytes()),
        Value::F64(value) => out.extend(value.to_le_bytes()),
        Value::Array(values) => {
            out.extend(values.first().map_or(0, type_number).to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for value in values {
                put_value(out, value);
            }
        }
    }
}

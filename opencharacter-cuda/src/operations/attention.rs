//! Attention inside the sequences of a packed batch, and its backward.

use std::rc::Rc;

use super::{Operations, THREADS, no_memory};
use crate::{
    DeviceError,
    device::{Address, Buffer, Device, Kind, Matrix, Precision},
};

/// As in `kernels/attention.cuh`.
const QUERY_TILE: usize = 64;
const KEY_TILE: usize = 32;
const ATTENTION_THREADS: u32 = 128;
/// The widest head that the attention kernels take.
pub(crate) const WIDEST_HEAD: usize = 128;

/// The tiles of a batch's sequences.
#[derive(Debug)]
pub(crate) struct Tiles {
    queries: Buffer,
    query_count: usize,
    keys: Buffer,
    key_count: usize,
}

impl Tiles {
    pub(crate) fn new(device: &Rc<dyn Device>, cumulative_lengths: &[usize]) -> Result<Self, DeviceError> {
        let [queries, keys] = [QUERY_TILE, KEY_TILE].map(|length| {
            let mut places = Vec::new();
            for bounds in cumulative_lengths.windows(2) {
                for first in (bounds[0]..bounds[1]).step_by(length) {
                    places.extend([bounds[0] as i32, first as i32, bounds[1] as i32]);
                }
            }
            places
        });
        let upload = |places: &[i32]| {
            let buffer = Buffer::new(device, Kind::Integer, places.len(), "tiles")?;
            buffer.write_integers(places)?;
            Ok::<_, DeviceError>(buffer)
        };
        Ok(Self {
            query_count: queries.len() / 3,
            queries: upload(&queries)?,
            key_count: keys.len() / 3,
            keys: upload(&keys)?,
        })
    }
}

/// Shape of an attention and what it reads.
#[derive(Clone, Copy)]
pub(crate) struct Attention<'a> {
    pub(crate) tiles: &'a Tiles,
    /// `[tokens, heads * head_dim]`, after rotation.
    pub(crate) queries: Matrix<'a>,
    /// `[tokens, key_heads * head_dim]`, after rotation.
    pub(crate) keys: Matrix<'a>,
    pub(crate) values: Matrix<'a>,
    /// `[heads][tokens]`: each row's log of the sum of exponentials.
    pub(crate) normalisers: Matrix<'a>,
    /// `[tokens, heads * head_dim]`.
    pub(crate) out: Matrix<'a>,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
}

/// Gradients of an attention.
#[derive(Clone, Copy)]
pub(crate) struct AttentionGradients<'a> {
    pub(crate) out: Matrix<'a>,
    /// Space for `[heads][tokens]` floats.
    pub(crate) deltas: Matrix<'a>,
    pub(crate) queries: Matrix<'a>,
    pub(crate) keys: Matrix<'a>,
    pub(crate) values: Matrix<'a>,
}

impl Operations {
    /// Fills in `out` and `normalisers`.
    pub(crate) fn attention(&self, attention: &Attention<'_>) -> Result<(), DeviceError> {
        let arguments = AttentionArguments::new(attention, None);
        let heads = attention.queries.columns / attention.head_dim;
        let grid = [attention.tiles.query_count as u32, heads as u32, 1];
        // SAFETY: shapes were checked by `new`.
        unsafe { self.launch_attention("attention_forward", grid, attention.head_dim, 1, &arguments) }
    }

    /// Gradients of queries, keys and values.
    pub(crate) fn attention_backward(
        &self,
        attention: &Attention<'_>,
        gradients: &AttentionGradients<'_>,
    ) -> Result<(), DeviceError> {
        let mut arguments = AttentionArguments::new(attention, Some(gradients));
        let heads = attention.queries.columns / attention.head_dim;
        let key_heads = attention.keys.columns / attention.head_dim;
        let rows = (attention.queries.rows * heads).div_ceil(THREADS / 32) as u32;
        let query_grid = [attention.tiles.query_count as u32, heads as u32, 1];
        let key_grid = [attention.tiles.key_count as u32, key_heads as u32, 1];
        let dim = attention.head_dim;
        // SAFETY: shapes were checked by `new`.
        unsafe {
            self.launch("attention_deltas", [rows, 1, 1], THREADS as u32, 0, &arguments)?;
            self.launch_attention("attention_query_gradients", query_grid, dim, 2, &arguments)?;
            arguments.places = attention.tiles.keys.vector(3 * attention.tiles.key_count).address;
            self.launch_attention("attention_key_value_gradients", key_grid, dim, 2, &arguments)
        }
    }

    /// `pairs` is how many query tiles and how many score tiles the kernel holds.
    ///
    /// # Safety
    /// As [`Operations::launch`].
    unsafe fn launch_attention(
        &self,
        kernel: &str,
        grid: [u32; 3],
        head_dim: usize,
        pairs: usize,
        arguments: &AttentionArguments,
    ) -> Result<(), DeviceError> {
        let width = if head_dim <= 64 { 64 } else { WIDEST_HEAD };
        let bytes = attention_bytes(width, pairs, self.0.precision());
        // SAFETY: the caller's promise.
        unsafe { self.launch(&format!("{kernel}_{width}"), grid, ATTENTION_THREADS, bytes, arguments) }
    }
}

/// Dynamic shared memory of an attention kernel with `pairs` query tiles and score tiles; see `HeadTile`.
fn attention_bytes(width: usize, pairs: usize, precision: Precision) -> usize {
    let tile = |rows: usize, pitch: usize, bytes: usize| rows * pitch * bytes;
    let element = precision.bytes();
    pairs * tile(QUERY_TILE, width + 8, element)
        + 2 * tile(KEY_TILE, width + 8, element)
        + pairs * tile(QUERY_TILE, KEY_TILE + 4, 4)
        + pairs * tile(QUERY_TILE, KEY_TILE + 8, element)
}

/// `AttentionArguments` in `kernels/attention.cuh`.
#[repr(C)]
struct AttentionArguments {
    queries: Address,
    keys: Address,
    values: Address,
    normalisers: Address,
    out: Address,
    out_gradient: Address,
    deltas: Address,
    query_gradient: Address,
    key_gradient: Address,
    value_gradient: Address,
    places: Address,
    scale: f32,
    tokens: i32,
    query_stride: i32,
    key_stride: i32,
    value_stride: i32,
    out_stride: i32,
    out_gradient_stride: i32,
    gradient_stride: i32,
    head_dim: i32,
    heads: i32,
    group: i32,
    window: i32,
}

impl AttentionArguments {
    fn new(attention: &Attention<'_>, gradients: Option<&AttentionGradients<'_>>) -> Self {
        let Attention { tiles, queries, keys, values, normalisers, out, head_dim, window } = *attention;
        assert!(head_dim <= WIDEST_HEAD, "no wider heads");
        let (query_shape, key_shape) = ((queries.rows, queries.columns), (keys.rows, keys.columns));
        assert!(key_shape == (values.rows, values.columns) && query_shape == (out.rows, out.columns));
        assert!(query_shape.0 == key_shape.0);
        let heads = queries.columns / head_dim;
        assert!(normalisers.kind == Kind::Float && normalisers.columns >= heads * queries.rows);
        if let Some(gradients) = gradients {
            assert!([gradients.queries, gradients.out].iter().all(|one| (one.rows, one.columns) == query_shape));
            assert!([gradients.keys, gradients.values].iter().all(|one| (one.rows, one.columns) == key_shape));
            assert!(gradients.deltas.kind == Kind::Float && gradients.deltas.columns >= heads * queries.rows);
            let strides = [gradients.keys.stride, gradients.values.stride];
            assert_eq!(strides, [gradients.queries.stride; 2], "gradients lie in one matrix");
        }
        let of = |matrix: fn(&AttentionGradients<'_>) -> Address| gradients.map_or_else(no_memory, matrix);
        Self {
            queries: queries.address,
            keys: keys.address,
            values: values.address,
            normalisers: normalisers.address,
            out: out.address,
            out_gradient: of(|gradients| gradients.out.address),
            deltas: of(|gradients| gradients.deltas.address),
            query_gradient: of(|gradients| gradients.queries.address),
            key_gradient: of(|gradients| gradients.keys.address),
            value_gradient: of(|gradients| gradients.values.address),
            places: tiles.queries.vector(3 * tiles.query_count).address,
            scale: 1.0 / (head_dim as f32).sqrt(),
            tokens: queries.rows as i32,
            query_stride: queries.stride as i32,
            key_stride: keys.stride as i32,
            value_stride: values.stride as i32,
            out_stride: out.stride as i32,
            out_gradient_stride: gradients.map_or(0, |gradients| gradients.out.stride as i32),
            gradient_stride: gradients.map_or(0, |gradients| gradients.queries.stride as i32),
            head_dim: head_dim as i32,
            heads: heads as i32,
            group: (heads / (keys.columns / head_dim)) as i32,
            window: window.unwrap_or(0) as i32,
        }
    }
}

//! The kernels as functions on matrices: each checks that its operands fit, fills in the structure that the kernel
//! takes, and starts it.

use std::{ffi::c_void, rc::Rc};

use crate::{
    DeviceError,
    device::{Address, Buffer, Device, Kind, Launch, Matrix, Precision},
};

/// Threads of a block where nothing asks for another number.
const THREADS: usize = 256;
/// Blocks of a loop over elements: some for every multiprocessor of any GPU.
const MOST_BLOCKS: usize = 2_048;
/// Runs of rows into which a sum over rows is cut.
const SLICES: usize = 32;
/// Blocks that share a trained tensor.
const TENSOR_BLOCKS: usize = 64;
/// As in `kernels/attention.cuh`.
const QUERY_TILE: usize = 64;
const KEY_TILE: usize = 32;
const ATTENTION_THREADS: u32 = 128;
/// The widest head that the attention kernels take.
pub(crate) const WIDEST_HEAD: usize = 128;

/// Part of a wide row, as norms of single heads see it.
#[derive(Clone, Copy)]
pub(crate) struct Parts {
    pub(crate) count: usize,
    pub(crate) width: usize,
}

impl Parts {
    /// Rows as they are.
    pub(crate) fn whole(width: usize) -> Self {
        Self { count: 1, width }
    }
}

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

/// Dropout whose draws follow from a key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dropout {
    pub(crate) probability: f32,
    pub(crate) key: u64,
}

/// One update's scalars.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamwScalars {
    pub(crate) first_decay: f32,
    pub(crate) second_decay: f32,
    pub(crate) keep: f32,
    pub(crate) rate: f32,
    pub(crate) root: f32,
    pub(crate) gradient_scale: f32,
}

/// A trained matrix as the kernels see it; `TrainedTensor` in `kernels/optimizer.cuh`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TrainedTensor {
    pub(crate) master: Address,
    pub(crate) first: Address,
    pub(crate) second: Address,
    pub(crate) gradient: Address,
    /// 0 where there is no working copy.
    pub(crate) working: Address,
    pub(crate) rows: i64,
    pub(crate) columns: i64,
    pub(crate) gradient_stride: i64,
    pub(crate) working_stride: i64,
    pub(crate) working_scale: f32,
    pub(crate) decays: i32,
}

/// A table of trained matrices on the device.
#[derive(Debug)]
pub(crate) struct TrainedTable {
    table: Buffer,
    sums: Buffer,
    count: usize,
}

impl TrainedTable {
    pub(crate) fn new(device: &Rc<dyn Device>, tensors: &[TrainedTensor]) -> Result<Self, DeviceError> {
        let bytes = size_of_val(tensors);
        let table = Buffer::new(device, Kind::Float, bytes / 4, "the table of trained tensors")?;
        // SAFETY: a structure of plain numbers without gaps, read as bytes.
        table.write_bytes(unsafe { std::slice::from_raw_parts(tensors.as_ptr().cast(), bytes) })?;
        let sums = Buffer::zeros(device, Kind::Float, tensors.len() * TENSOR_BLOCKS, "gradient norms")?;
        Ok(Self { table, sums, count: tensors.len() })
    }
}

/// The kernels of one device.
#[derive(Debug, Clone)]
pub(crate) struct Operations(pub(crate) Rc<dyn Device>);

/// Blocks for a loop over `elements`.
fn blocks(elements: usize) -> [u32; 3] {
    [elements.div_ceil(THREADS).clamp(1, MOST_BLOCKS) as u32, 1, 1]
}

fn no_memory() -> Address {
    0
}

fn address(matrix: Option<Matrix<'_>>) -> Address {
    matrix.map_or_else(no_memory, |matrix| matrix.address)
}

fn stride(matrix: Option<Matrix<'_>>) -> i32 {
    matrix.map_or(0, |matrix| matrix.stride as i32)
}

impl Operations {
    /// Starts a kernel whose structure is `arguments`.
    ///
    /// # Safety
    /// The structure is the kernel's, and all that it names is allocated.
    unsafe fn launch<A>(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: usize,
        arguments: &A,
    ) -> Result<(), DeviceError> {
        if grid.contains(&0) {
            return Ok(());
        }
        let launch = Launch { kernel, grid, threads, shared_bytes };
        // SAFETY: the caller's promise.
        unsafe { self.0.launch(&launch, std::ptr::from_ref(arguments).cast::<c_void>()) }
    }

    /// A few threads for narrow rows, many for wide ones.
    fn row_threads(&self, width: usize, most: usize) -> u32 {
        let pack = 16 / self.0.precision().bytes();
        width.div_ceil(pack).next_multiple_of(32).clamp(32, most) as u32
    }

    /// Rows of `table` for `tokens`; `noise` has each token's greatest.
    pub(crate) fn embed(
        &self,
        table: Matrix<'_>,
        tokens: Matrix<'_>,
        noise: Option<Matrix<'_>>,
        key: u64,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            table: Address,
            tokens: Address,
            noise: Address,
            out: Address,
            key: u64,
            width: i32,
        }
        assert!(table.columns == out.columns && out.stride == out.columns && table.stride == table.columns);
        assert!(tokens.kind == Kind::Integer && tokens.columns == out.rows);
        assert!(noise.is_none_or(|noise| noise.kind == Kind::Float && noise.columns == out.rows));
        let arguments = Arguments {
            table: table.address,
            tokens: tokens.address,
            noise: address(noise),
            out: out.address,
            key,
            width: out.columns as i32,
        };
        // SAFETY: shapes were just checked; that tokens are inside the table is checked where the batch is made.
        unsafe { self.launch("embed", [out.rows as u32, 1, 1], self.row_threads(out.columns, 256), 0, &arguments) }
    }

    /// Adds rows of `gradient` to the rows of `sums` that their tokens are. `places` are the batch's rows, sorted by
    /// token; those of `tokens[i]` begin at `starts[i]`.
    pub(crate) fn embed_backward(
        &self,
        gradient: Matrix<'_>,
        [tokens, starts, places]: [Matrix<'_>; 3],
        sums: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            gradient: Address,
            tokens: Address,
            starts: Address,
            places: Address,
            sums: Address,
            width: i32,
            gradient_stride: i32,
        }
        assert!(gradient.columns == sums.columns && sums.stride == sums.columns && sums.kind == Kind::Float);
        assert!(starts.columns == tokens.columns + 1 && places.columns == gradient.rows);
        let arguments = Arguments {
            gradient: gradient.address,
            tokens: tokens.address,
            starts: starts.address,
            places: places.address,
            sums: sums.address,
            width: sums.columns as i32,
            gradient_stride: gradient.stride as i32,
        };
        let grid = [tokens.columns as u32, 1, 1];
        // SAFETY: shapes were just checked, and tokens where the batch was made.
        unsafe { self.launch("embed_backward", grid, self.row_threads(sums.columns, 256), 0, &arguments) }
    }

    /// Row `i` of `input` becomes row `places[i]` of `out`.
    pub(crate) fn scatter_rows(
        &self,
        input: Matrix<'_>,
        places: Matrix<'_>,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            places: Address,
            out: Address,
            width: i32,
            input_stride: i32,
            out_stride: i32,
        }
        assert!(input.columns == out.columns && places.columns == input.rows && input.rows <= out.rows);
        let arguments = Arguments {
            input: input.address,
            places: places.address,
            out: out.address,
            width: input.columns as i32,
            input_stride: input.stride as i32,
            out_stride: out.stride as i32,
        };
        let grid = [input.rows as u32, 1, 1];
        // SAFETY: shapes were just checked; places are rows of the batch.
        unsafe { self.launch("scatter_rows", grid, self.row_threads(input.columns, 256), 0, &arguments) }
    }

    /// Every row becomes 1, 0, 0, ...
    pub(crate) fn bias_columns(&self, out: Matrix<'_>) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            out: Address,
            rows: i32,
            stride: i32,
            first: i32,
            count: i32,
        }
        let arguments = Arguments {
            out: out.address,
            rows: out.rows as i32,
            stride: out.stride as i32,
            first: 0,
            count: out.columns as i32,
        };
        // SAFETY: a matrix lies inside its buffer.
        unsafe { self.launch("bias_columns", blocks(out.rows * out.columns), THREADS as u32, 0, &arguments) }
    }

    /// Drops a share of `input` into `out`, or adds what is left to it.
    pub(crate) fn dropout(
        &self,
        input: Matrix<'_>,
        dropout: Dropout,
        out: Matrix<'_>,
        accumulate: bool,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            out: Address,
            key: u64,
            probability: f32,
            rows: i32,
            width: i32,
            input_stride: i32,
            out_stride: i32,
            accumulate: i32,
        }
        assert_eq!((input.rows, input.columns), (out.rows, out.columns));
        let arguments = Arguments {
            input: input.address,
            out: out.address,
            key: dropout.key,
            probability: dropout.probability,
            rows: input.rows as i32,
            width: input.columns as i32,
            input_stride: input.stride as i32,
            out_stride: out.stride as i32,
            accumulate: i32::from(accumulate),
        };
        // SAFETY: shapes were just checked.
        unsafe { self.launch("dropout", blocks(input.rows * input.columns), THREADS as u32, 0, &arguments) }
    }

    /// `out = norm(input + update) * weight`; `places` picks rows of both, `sum` gets their sum.
    pub(crate) fn rms_norm(
        &self,
        input: Matrix<'_>,
        update: Option<Matrix<'_>>,
        places: Option<Matrix<'_>>,
        (weight, epsilon): (Matrix<'_>, f32),
        parts: Parts,
        sum: Option<Matrix<'_>>,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            update: Address,
            places: Address,
            weight: Address,
            sum: Address,
            out: Address,
            epsilon: f32,
            width: i32,
            parts: i32,
            input_stride: i32,
            update_stride: i32,
            sum_stride: i32,
            out_stride: i32,
        }
        let columns = parts.count * parts.width;
        assert!(input.columns == columns && out.columns == columns && weight.columns == parts.width);
        assert!(places.map_or(input.rows, |places| places.columns) == out.rows && weight.kind == Kind::Float);
        assert!(places.is_none() || parts.count == 1);
        assert!(update.is_none_or(|update| update.columns == columns && update.rows == input.rows));
        assert!(sum.is_none_or(|sum| sum.columns == columns && sum.rows == out.rows));
        let arguments = Arguments {
            input: input.address,
            update: address(update),
            places: address(places),
            weight: weight.address,
            sum: address(sum),
            out: out.address,
            epsilon,
            width: parts.width as i32,
            parts: parts.count as i32,
            input_stride: input.stride as i32,
            update_stride: stride(update),
            sum_stride: stride(sum),
            out_stride: out.stride as i32,
        };
        let grid = [(out.rows * parts.count) as u32, 1, 1];
        // SAFETY: shapes were just checked; places are rows of the batch.
        unsafe { self.launch("rms_norm", grid, self.row_threads(parts.width, 256), 0, &arguments) }
    }

    /// The gradient of a norm's argument, plus `residual`; each row's inverse root goes to `inverses`.
    pub(crate) fn rms_norm_backward(
        &self,
        input: Matrix<'_>,
        (weight, epsilon): (Matrix<'_>, f32),
        parts: Parts,
        gradient: Matrix<'_>,
        residual: Option<Matrix<'_>>,
        out: Matrix<'_>,
        inverses: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            weight: Address,
            gradient: Address,
            residual: Address,
            out: Address,
            inverses: Address,
            epsilon: f32,
            width: i32,
            parts: i32,
            input_stride: i32,
            gradient_stride: i32,
            residual_stride: i32,
            out_stride: i32,
        }
        let shape = (input.rows, parts.count * parts.width);
        assert!(weight.columns == parts.width && weight.kind == Kind::Float);
        for matrix in [Some(input), Some(gradient), residual, Some(out)].into_iter().flatten() {
            assert_eq!((matrix.rows, matrix.columns), shape);
        }
        assert!(inverses.kind == Kind::Float && inverses.columns >= input.rows * parts.count);
        let arguments = Arguments {
            input: input.address,
            weight: weight.address,
            gradient: gradient.address,
            residual: address(residual),
            out: out.address,
            inverses: inverses.address,
            epsilon,
            width: parts.width as i32,
            parts: parts.count as i32,
            input_stride: input.stride as i32,
            gradient_stride: gradient.stride as i32,
            residual_stride: stride(residual),
            out_stride: out.stride as i32,
        };
        let grid = [(input.rows * parts.count) as u32, 1, 1];
        // SAFETY: shapes were just checked.
        unsafe { self.launch("rms_norm_backward", grid, self.row_threads(parts.width, 256), 0, &arguments) }
    }

    /// Floats that [`Operations::norm_weight_gradient`] needs beside its operands.
    pub(crate) fn slice_floats(width: usize) -> usize {
        SLICES * width
    }

    /// Adds the gradient of a norm's weight to `sums`; `inverses` are [`Operations::rms_norm_backward`]'s.
    pub(crate) fn norm_weight_gradient(
        &self,
        input: Matrix<'_>,
        parts: Parts,
        gradient: Matrix<'_>,
        inverses: Matrix<'_>,
        slices: &Buffer,
        sums: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            gradient: Address,
            inverses: Address,
            sums: Address,
            rows: i32,
            width: i32,
            parts: i32,
            input_stride: i32,
            gradient_stride: i32,
        }
        #[repr(C)]
        struct AddArguments {
            slices: Address,
            sums: Address,
            count: i32,
            width: i32,
        }
        let rows = input.rows * parts.count;
        assert!(input.columns == parts.count * parts.width && gradient.columns == input.columns);
        assert!(gradient.rows == input.rows && inverses.columns >= rows && sums.columns == parts.width);
        assert!(sums.kind == Kind::Float);
        let count = rows.div_ceil(THREADS / 32).clamp(1, SLICES);
        let partial = slices.rows(count, parts.width);
        let arguments = Arguments {
            input: input.address,
            gradient: gradient.address,
            inverses: inverses.address,
            sums: partial.address,
            rows: rows as i32,
            width: parts.width as i32,
            parts: parts.count as i32,
            input_stride: input.stride as i32,
            gradient_stride: gradient.stride as i32,
        };
        let grid = [parts.width.div_ceil(32) as u32, count as u32, 1];
        let add = AddArguments {
            slices: partial.address,
            sums: sums.address,
            count: count as i32,
            width: parts.width as i32,
        };
        // SAFETY: shapes were just checked.
        unsafe {
            self.launch("norm_weight_gradient", grid, THREADS as u32, 0, &arguments)?;
            self.launch("add_slices", blocks(parts.width), THREADS as u32, 0, &add)
        }
    }

    /// Cosines and sines of each token's angles: `[tokens, head_dim]`.
    pub(crate) fn rotation_table(
        &self,
        positions: Matrix<'_>,
        frequencies: Matrix<'_>,
        table: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            positions: Address,
            frequencies: Address,
            table: Address,
            tokens: i32,
            half: i32,
        }
        assert!(positions.kind == Kind::Integer && positions.columns == table.rows && table.kind == Kind::Float);
        assert!(table.columns == 2 * frequencies.columns && table.stride == table.columns);
        let arguments = Arguments {
            positions: positions.address,
            frequencies: frequencies.address,
            table: table.address,
            tokens: table.rows as i32,
            half: frequencies.columns as i32,
        };
        let grid = blocks(table.rows * frequencies.columns);
        // SAFETY: shapes were just checked.
        unsafe { self.launch("rotation_table", grid, THREADS as u32, 0, &arguments) }
    }

    /// Rotates each head forward or back; `out` may be `input`.
    pub(crate) fn rotate(
        &self,
        input: Matrix<'_>,
        table: Matrix<'_>,
        forward: bool,
        out: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            input: Address,
            out: Address,
            table: Address,
            sign: f32,
            tokens: i32,
            heads: i32,
            half: i32,
            input_stride: i32,
            out_stride: i32,
        }
        assert_eq!((input.rows, input.columns), (out.rows, out.columns));
        assert!(table.rows == input.rows && input.columns.is_multiple_of(table.columns));
        let arguments = Arguments {
            input: input.address,
            out: out.address,
            table: table.address,
            sign: if forward { 1.0 } else { -1.0 },
            tokens: input.rows as i32,
            heads: (input.columns / table.columns) as i32,
            half: (table.columns / 2) as i32,
            input_stride: input.stride as i32,
            out_stride: out.stride as i32,
        };
        let grid = blocks(input.rows * input.columns / 2);
        // SAFETY: shapes were just checked.
        unsafe { self.launch("rotate", grid, THREADS as u32, 0, &arguments) }
    }

    /// `silu(gate) * up`; `gate_up` is `[rows, 2 * width]`.
    pub(crate) fn swiglu(&self, gate_up: Matrix<'_>, activated: Matrix<'_>) -> Result<(), DeviceError> {
        self.run_swiglu("swiglu", gate_up, None, activated, None)
    }

    /// The gradients of gate and up, and the activations once more.
    pub(crate) fn swiglu_backward(
        &self,
        gate_up: Matrix<'_>,
        gradient: Matrix<'_>,
        activated: Matrix<'_>,
        gate_up_gradient: Matrix<'_>,
    ) -> Result<(), DeviceError> {
        self.run_swiglu("swiglu_backward", gate_up, Some(gradient), activated, Some(gate_up_gradient))
    }

    fn run_swiglu(
        &self,
        kernel: &str,
        gate_up: Matrix<'_>,
        gradient: Option<Matrix<'_>>,
        activated: Matrix<'_>,
        gate_up_gradient: Option<Matrix<'_>>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            gate_up: Address,
            gradient: Address,
            activated: Address,
            gate_up_gradient: Address,
            rows: i32,
            width: i32,
            gate_up_stride: i32,
            gradient_stride: i32,
            activated_stride: i32,
            gate_up_gradient_stride: i32,
        }
        let (rows, width) = (activated.rows, activated.columns);
        assert_eq!((gate_up.rows, gate_up.columns), (rows, 2 * width));
        assert!(gradient.is_none_or(|gradient| (gradient.rows, gradient.columns) == (rows, width)));
        assert!(gate_up_gradient.is_none_or(|gradient| (gradient.rows, gradient.columns) == (rows, 2 * width)));
        let arguments = Arguments {
            gate_up: gate_up.address,
            gradient: address(gradient),
            activated: activated.address,
            gate_up_gradient: address(gate_up_gradient),
            rows: rows as i32,
            width: width as i32,
            gate_up_stride: gate_up.stride as i32,
            gradient_stride: stride(gradient),
            activated_stride: activated.stride as i32,
            gate_up_gradient_stride: stride(gate_up_gradient),
        };
        let pack = 16 / self.0.precision().bytes();
        // SAFETY: shapes were just checked.
        unsafe { self.launch(kernel, blocks((rows * width).div_ceil(pack)), THREADS as u32, 0, &arguments) }
    }

    /// Each row's loss; with weights and a place for it, the gradient of their weighted sum.
    pub(crate) fn cross_entropy(
        &self,
        logits: Matrix<'_>,
        targets: Matrix<'_>,
        losses: Matrix<'_>,
        gradient: Option<(Matrix<'_>, Matrix<'_>)>,
    ) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            logits: Address,
            targets: Address,
            weights: Address,
            losses: Address,
            gradient: Address,
            vocabulary: i32,
        }
        assert!(logits.kind == Kind::Float && logits.stride == logits.columns);
        assert!(targets.columns == logits.rows && losses.columns == logits.rows);
        if let Some((weights, gradient)) = gradient {
            assert!(weights.columns == logits.rows && gradient.stride == gradient.columns);
            assert_eq!((gradient.rows, gradient.columns), (logits.rows, logits.columns));
        }
        let arguments = Arguments {
            logits: logits.address,
            targets: targets.address,
            weights: address(gradient.map(|(weights, _)| weights)),
            losses: losses.address,
            gradient: address(gradient.map(|(_, gradient)| gradient)),
            vocabulary: logits.columns as i32,
        };
        let grid = [logits.rows as u32, 1, 1];
        // SAFETY: shapes were just checked, targets where the batch was made.
        unsafe { self.launch("cross_entropy", grid, self.row_threads(logits.columns, 512), 0, &arguments) }
    }

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

    /// Each tensor's sum of squared gradients.
    pub(crate) fn squared_norms(&self, table: &TrainedTable) -> Result<Vec<f64>, DeviceError> {
        #[repr(C)]
        struct Arguments {
            tensors: Address,
            sums: Address,
        }
        let arguments =
            Arguments { tensors: table.table.vector(1).address, sums: table.sums.vector(table.sums.length()).address };
        let grid = [TENSOR_BLOCKS as u32, table.count as u32, 1];
        // SAFETY: the table's addresses are allocated as long as the model.
        unsafe { self.launch("squared_norm", grid, THREADS as u32, 0, &arguments)? };
        let sums = table.sums.read(0, table.sums.length())?;
        Ok(sums.chunks_exact(TENSOR_BLOCKS).map(|sums| sums.iter().map(|&sum| f64::from(sum)).sum()).collect())
    }

    /// `AdamW` on all masters, and the working copies anew.
    pub(crate) fn adamw(&self, table: &TrainedTable, scalars: AdamwScalars) -> Result<(), DeviceError> {
        self.run_adamw("adamw", table, scalars)
    }

    /// The working copies anew.
    pub(crate) fn refresh_working(&self, table: &TrainedTable) -> Result<(), DeviceError> {
        let nothing =
            AdamwScalars { first_decay: 0.0, second_decay: 0.0, keep: 1.0, rate: 0.0, root: 1.0, gradient_scale: 0.0 };
        self.run_adamw("refresh_working", table, nothing)
    }

    fn run_adamw(&self, kernel: &str, table: &TrainedTable, scalars: AdamwScalars) -> Result<(), DeviceError> {
        #[repr(C)]
        struct Arguments {
            tensors: Address,
            first_decay: f32,
            second_decay: f32,
            keep: f32,
            rate: f32,
            root: f32,
            gradient_scale: f32,
            epsilon: f32,
        }
        let AdamwScalars { first_decay, second_decay, keep, rate, root, gradient_scale } = scalars;
        let tensors = table.table.vector(1).address;
        // As in the optimiser for the CPU.
        let epsilon = 1e-8;
        let arguments = Arguments { tensors, first_decay, second_decay, keep, rate, root, gradient_scale, epsilon };
        let grid = [TENSOR_BLOCKS as u32 * 4, table.count as u32, 1];
        // SAFETY: the table's addresses are allocated as long as the model.
        unsafe { self.launch(kernel, grid, THREADS as u32, 0, &arguments) }
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

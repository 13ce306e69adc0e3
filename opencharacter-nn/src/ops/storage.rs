use std::ops::{Deref, Range};

use candle_core::{DType, Device, Result, Storage, Tensor, bail};

/// The elements of a contiguous f32 tensor on the CPU.
struct Floats<Guard> {
    storage: Guard,
    range: Range<usize>,
}

impl<Guard: Deref<Target = Storage>> Deref for Floats<Guard> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(storage) => storage.as_slice::<f32>().map_or(&[], |values| &values[self.range.clone()]),
            // `floats` has refused every other storage.
            _ => &[],
        }
    }
}

/// Looks at the elements of `tensor`.
pub(crate) fn floats(tensor: &Tensor) -> Result<impl Deref<Target = [f32]> + '_> {
    if tensor.dtype() != DType::F32 {
        bail!("expected f32, got {:?}", tensor.dtype());
    }
    let (storage, layout) = tensor.storage_and_layout();
    if !matches!(&*storage, Storage::Cpu(_)) {
        bail!("operation is implemented for the CPU only");
    }
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(Floats { storage, range: start..end }),
        None => bail!("operation needs a contiguous argument"),
    }
}

/// A tensor of `shape` that owns `values`.
pub(crate) fn from_floats(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

/// Some rows of `[rows, width]`, in the order asked for.
pub(crate) fn select_rows(tensor: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let (count, width) = tensor.dims2()?;
    let values = floats(tensor)?;
    let mut selected = Vec::with_capacity(rows.len() * width);
    for &row in rows {
        if row as usize >= count {
            bail!("row {row} of {count} was asked for");
        }
        selected.extend_from_slice(&values[row as usize * width..(row as usize + 1) * width]);
    }
    from_floats(selected, &[rows.len(), width])
}

use candle_core::{CpuStorage, DType, Device, Layout, Result, Tensor, bail};

/// The elements of a contiguous f32 argument of a custom operation.
pub(super) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let values = storage.as_slice::<f32>()?;
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&values[start..end]),
        None => bail!("operation needs a contiguous argument"),
    }
}

/// Calls `f` with the elements of a contiguous f32 tensor.
pub(crate) fn floats<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    if tensor.dtype() != DType::F32 {
        bail!("expected f32, got {:?}", tensor.dtype());
    }
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => bail!("operation is implemented for the CPU only"),
    }
}

/// A tensor of `shape` that owns `values`.
pub(crate) fn from_floats(values: Vec<f32>, shape: &[usize]) -> Result<Tensor> {
    Tensor::from_vec(values, shape, &Device::Cpu)
}

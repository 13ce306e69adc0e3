use opencharacter_nn::NnError;

/// Why a GPU could not be used, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The driver's library is not there.
    #[error(
        "no NVIDIA driver found: `libcuda.so.1` cannot be loaded. Install the driver of this machine's NVIDIA GPU, or \
         train with `--device cpu`"
    )]
    NoDriver,
    /// The driver knows no device.
    #[error("the NVIDIA driver finds no GPU ({0}); look at `nvidia-smi`, or train with `--device cpu`")]
    NoDevice(String),
    /// cuBLAS is not there.
    #[error(
        "cuBLAS not found: `libcublas.so.13` (or `.so.12`) cannot be loaded. Install the CUDA toolkit's libraries or \
         `pip install nvidia-cublas`, and name their folder in LD_LIBRARY_PATH"
    )]
    NoBlas,
    /// The program was built without it.
    #[error("this program was built without CUDA; `cargo xtask cuda` builds one that has it")]
    NotBuilt,
    /// The device has no memory left.
    #[error(
        "the GPU has no {bytes} bytes left for {what}; fewer tokens in a batch (`--pack-tokens`) or `--recompute` need \
         less"
    )]
    OutOfMemory {
        /// What was asked for.
        bytes: usize,
        /// What for.
        what: &'static str,
    },
    /// A call of the driver or of cuBLAS failed.
    #[error("the GPU failed in {call}: {reason}")]
    Call {
        /// What was called.
        call: String,
        /// What it answered.
        reason: String,
    },
    /// A model that the kernels cannot take.
    #[error("this model cannot run on a GPU: {0}; train with `--device cpu`")]
    Model(String),
    /// A parameter that is not trained here, or has another shape.
    #[error("the model on the GPU has no parameter `{0}` of this shape")]
    Parameter(String),
    /// The model's own files and batches.
    #[error(transparent)]
    Nn(#[from] NnError),
}

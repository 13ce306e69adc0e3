//! Where training runs.

use std::rc::Rc;

use anyhow::Result;
use clap::ValueEnum;
use opencharacter_cuda::Device;

/// What trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DeviceArgument {
    /// This machine's processor, in f32
    Cpu,
    /// The first NVIDIA GPU (`CUDA_VISIBLE_DEVICES` chooses another), in bf16 with f32 masters; needs a build with CUDA
    Cuda,
}

impl DeviceArgument {
    /// The device, or nothing for the processor.
    pub fn open(self) -> Result<Option<Rc<dyn Device>>> {
        Ok(match self {
            Self::Cpu => None,
            Self::Cuda => Some(opencharacter_cuda::open(0)?),
        })
    }
}

/// Dense bf16 products with f32 sums that a GPU can do at most, in floating-point operations per second, from NVIDIA's
/// data sheets; nothing for a GPU that is not listed.
pub fn peak_flops(name: &str) -> Option<f64> {
    // The first match counts: the H100's other forms are slower than the SXM module.
    const PEAKS: [(&str, f64); 8] = [
        ("H100 PCIe", 756e12),
        ("H100 NVL", 835e12),
        ("H100", 989e12),
        ("H200", 989e12),
        ("A100", 312e12),
        ("L40S", 362e12),
        ("RTX 4090", 165e12),
        ("RTX 3090", 71e12),
    ];
    PEAKS.iter().find(|(known, _)| name.contains(known)).map(|(_, peak)| *peak)
}

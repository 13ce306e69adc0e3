//! `export`.

use std::path::Path;

use anyhow::Result;
use opencharacter_nn::{
    Destination, Export, GateReport, LoraAdapter, WeightType, export_adapter, export_gguf, export_ollama,
    save_model_folder,
};

use crate::{
    cli::{ExportArguments, ModelTarget},
    failure::Usage,
    models, output,
};

/// `opencharacter export`
pub fn export(arguments: &ExportArguments, target: ModelTarget) -> Result<()> {
    match target {
        ModelTarget::Peft => adapter(arguments)?,
        target => merged(arguments, target)?,
    }
    output::line(&arguments.out.display().to_string())
}

/// The adapter by itself.
fn adapter(arguments: &ExportArguments) -> Result<()> {
    let Some(adapter) = &arguments.model.adapter else {
        return Err(Usage("`export --to peft` needs `--adapter DIR`: an adapter is what it writes".into()).into());
    };
    if arguments.weight_type.is_some() {
        return Err(Usage("`export --to peft` copies the adapter as it is; leave out `--type`".into()).into());
    }
    let destination = Destination::folder(&arguments.out)?;
    let model = models::load(&arguments.model.model)?;
    Ok(export_adapter(destination, adapter, model.decoder.config())?)
}

/// The whole model, with the adapter merged into it where there is one.
fn merged(arguments: &ExportArguments, target: ModelTarget) -> Result<()> {
    let weight_type = arguments.weight_type.map_or(WeightType::F16, WeightType::from);
    fits(target, weight_type)?;
    // Before the model is loaded: what cannot be written should be said at once.
    let destination = destination(target, &arguments.out)?;
    let model = models::load(&arguments.model.model)?;
    let config = model.decoder.config();
    let adapter = arguments.model.adapter.as_deref().map(|folder| LoraAdapter::load(folder, config)).transpose()?;
    let export = Export { model: &model, decoder: &model.decoder, adapter: adapter.as_ref(), weight_type };
    let report = match target {
        ModelTarget::Gguf => export_gguf(destination, &export)?,
        ModelTarget::Ollama => export_ollama(destination, &export)?,
        ModelTarget::Safetensors | ModelTarget::Peft => save_model_folder(destination, &export)?,
    };
    eprintln!("{}", passed(report, weight_type));
    if let (ModelTarget::Gguf | ModelTarget::Ollama, Some(window)) = (target, config.sliding_window) {
        eprintln!(
            "note: the file names the model's sliding window of {window} tokens, which llama.cpp does not apply to this \
             family; its answers are this model's up to {window} tokens of context"
        );
    }
    Ok(())
}

fn destination(target: ModelTarget, out: &Path) -> Result<Destination> {
    Ok(match target {
        ModelTarget::Gguf => Destination::file(out)?,
        ModelTarget::Peft | ModelTarget::Safetensors | ModelTarget::Ollama => Destination::folder(out)?,
    })
}

/// Whether the target can hold weights of this type.
fn fits(target: ModelTarget, weight_type: WeightType) -> Result<()> {
    let (name, known): (_, &[WeightType]) = match target {
        ModelTarget::Gguf => ("gguf", &[WeightType::F32, WeightType::F16, WeightType::Q8_0]),
        ModelTarget::Ollama => ("ollama", &[WeightType::F32, WeightType::F16, WeightType::Q8_0]),
        ModelTarget::Safetensors | ModelTarget::Peft => {
            ("safetensors", &[WeightType::F32, WeightType::F16, WeightType::Bf16])
        }
    };
    if known.contains(&weight_type) {
        return Ok(());
    }
    let known: Vec<&str> = known.iter().map(|known| known.as_str()).collect();
    let message =
        format!("`--to {name}` cannot hold `--type {}`; it can hold {}", weight_type.as_str(), known.join(", "));
    Err(Usage(message).into())
}

fn passed(report: GateReport, weight_type: WeightType) -> String {
    format!(
        "read back and compared: {} weights equal within the rounding of {}, logits of {} tokens within a relative \
         error of {:.1e} (mean KL {:.1e} nats), tokens and chat template equal",
        report.weights,
        weight_type.as_str(),
        report.positions,
        report.relative_error,
        report.mean_divergence
    )
}

//! On the small Llama of the golden tests, which PyTorch made, with a tokenizer that is made here.

use std::{fs, path::PathBuf};

use candle_core::{Device, Tensor};
use opencharacter_fixtures::fixture;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::{Activations, PackedAttend, Parameter};

fn data(name: &str) -> PathBuf {
    fixture("small_llama").join(name)
}

/// The small model's folder with a tokenizer of fewer tokens than the embedding has rows, and its adapter.
fn small_model() -> (TempDir, Model, LoraAdapter) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["config.json", "generation_config.json", "model.safetensors"] {
        fs::copy(data(name), folder.path().join(name)).unwrap();
    }
    let template = "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] + eos_token }}\n\
         {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
    fs::write(folder.path().join("tokenizer.json"), small_tokenizer().to_string()).unwrap();
    fs::write(folder.path().join("chat_template.jinja"), template).unwrap();
    let model = Model::load(folder.path()).unwrap();
    let adapter = LoraAdapter::load(&data("adapter"), model.decoder.config()).unwrap();
    (folder, model, adapter)
}

fn small_tokenizer() -> serde_json::Value {
    let characters = "abcdefghijklmnopqrstuvwxyz.,ĠĊTHW'\"<>|0123456789";
    let named = ["<unk>", "<start>", "<end>"].map(str::to_owned).into_iter();
    let tokens = named.chain(characters.chars().map(String::from)).chain(["th", "the", "Ġthe"].map(str::to_owned));
    let vocabulary: serde_json::Map<_, _> = tokens.enumerate().map(|(id, token)| (token, json!(id))).collect();
    let added = ["<unk>", "<start>", "<end>"].into_iter().enumerate().map(|(id, content)| {
        json!({ "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    });
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    let digits = json!({ "type": "Digits", "individual_digits": true });
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "post_processor": null, "decoder": byte_level,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [digits, byte_level] },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                   "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                   "vocab": vocabulary, "merges": [["t", "h"], ["th", "e"], ["Ġ", "the"]] },
    })
}

fn export<'a>(model: &'a Model, adapter: Option<&'a LoraAdapter>, weight_type: WeightType) -> Export<'a> {
    Export { model, decoder: &model.decoder, adapter, weight_type }
}

fn logits(decoder: &Decoder, tokens: &[u32]) -> Vec<f32> {
    let positions: Vec<u32> = (0..tokens.len() as u32).collect();
    let mut attention = PackedAttend::new(decoder.config(), &[0, tokens.len()]);
    let base = crate::Adapter::Base;
    let hidden = decoder.forward(tokens, &positions, base, &mut attention, Activations::Floats, &positions).unwrap();
    decoder.logits(&hidden, &positions, Activations::Floats).unwrap()
}

/// Relative error of an exported model's logits, against those that PyTorch and peft gave for base and adapter.
fn difference_from_peft(exported: &Decoder) -> f64 {
    let golden = candle_core::safetensors::load(data("golden.safetensors"), &Device::Cpu).unwrap();
    let flat = |tensor: &Tensor| tensor.flatten_all().unwrap();
    let tokens = flat(&golden["tokens_0"]).to_vec1::<i64>().unwrap();
    let expected = flat(&golden["logits_0"]).to_vec1::<f32>().unwrap();
    let found = logits(exported, &tokens.into_iter().map(|token| token as u32).collect::<Vec<_>>());
    assert_eq!(found.len(), expected.len());
    gate::relative_error(&found, &expected)
}

#[test]
fn every_format_passes_the_gate_and_is_what_peft_merges() {
    let (_folder, model, adapter) = small_model();
    let out = tempfile::tempdir().unwrap();
    // Rows of 48 weights are no whole blocks, so that some of the `q8_0` file is f16.
    for (weight_type, bound) in [(WeightType::F32, 1e-5), (WeightType::F16, 1e-2), (WeightType::Q8_0, 0.15)] {
        let path = out.path().join(format!("{}.gguf", weight_type.as_str()));
        let export = export(&model, Some(&adapter), weight_type);
        let report = export_gguf(Destination::file(&path).unwrap(), &export).unwrap();
        assert_eq!(report.weights, model.decoder.weights().len());
        assert_eq!(report.positions, 64);
        let difference = difference_from_peft(&Model::load(&path).unwrap().decoder);
        assert!(difference < bound, "{weight_type:?}: {difference}");
    }
    for (weight_type, bound) in [(WeightType::F32, 1e-5), (WeightType::F16, 1e-2), (WeightType::Bf16, 5e-2)] {
        let path = out.path().join(weight_type.as_str());
        let export = export(&model, Some(&adapter), weight_type);
        save_model_folder(Destination::folder(&path).unwrap(), &export).unwrap();
        let difference = difference_from_peft(&Model::load(&path).unwrap().decoder);
        assert!(difference < bound, "{weight_type:?}: {difference}");
    }
}

#[test]
fn formats_convert_into_each_other_without_loss() {
    let (_folder, model, _) = small_model();
    let out = tempfile::tempdir().unwrap();
    let gguf = out.path().join("model.gguf");
    export_gguf(Destination::file(&gguf).unwrap(), &export(&model, None, WeightType::F32)).unwrap();
    let from_gguf = Model::load(&gguf).unwrap();
    let folder = out.path().join("folder");
    save_model_folder(Destination::folder(&folder).unwrap(), &export(&from_gguf, None, WeightType::F32)).unwrap();
    let from_folder = Model::load(&folder).unwrap();
    let again = out.path().join("again.gguf");
    export_gguf(Destination::file(&again).unwrap(), &export(&from_gguf, None, WeightType::F32)).unwrap();
    assert_eq!(fs::read(&gguf).unwrap(), fs::read(&again).unwrap());
    // A folder made from a GGUF names its tokenizer's rules well enough for the way back.
    let back = out.path().join("back.gguf");
    export_gguf(Destination::file(&back).unwrap(), &export(&from_folder, None, WeightType::F32)).unwrap();
    let back = Model::load(&back).unwrap();
    assert_eq!(back.tokenizer.encode("Don't 1234!"), from_gguf.tokenizer.encode("Don't 1234!"));

    assert_eq!(from_folder.decoder.config(), model.decoder.config());
    for ((parameter, weight), (_, original)) in from_folder.decoder.weights().iter().zip(model.decoder.weights()) {
        assert_eq!(weight.to_rows(), original.to_rows(), "{}", parameter.name());
    }
    // The rows beyond the tokenizer's last token got names of their own.
    assert_eq!(from_folder.tokenizer.token_name(63), "[PAD63]");
    assert!(from_folder.tokenizer.is_special(2) && !from_folder.tokenizer.is_special(3));
}

#[test]
fn a_trained_decoder_is_saved_with_its_sources_tokenizer() {
    let (_folder, model, _) = small_model();
    let mut trained = model.decoder.clone();
    trained.thaw();
    for (parameter, values) in trained.parameters_mut().unwrap() {
        if parameter == Parameter::FinalNorm {
            values[3] = 7.5;
        }
    }
    let out = tempfile::tempdir().unwrap();
    let folder = out.path().join("trained");
    let export = Export { model: &model, decoder: &trained, adapter: None, weight_type: WeightType::F32 };
    save_model_folder(Destination::folder(&folder).unwrap(), &export).unwrap();
    let found = Model::load(&folder).unwrap();
    let norm = found.decoder.weights().into_iter().find(|(parameter, _)| *parameter == Parameter::FinalNorm);
    assert_eq!(norm.unwrap().1.to_rows()[3], 7.5);
    assert_eq!(found.template.source(), model.template.source());
}

#[test]
fn large_models_are_cut_into_several_files() {
    let (_folder, model, adapter) = small_model();
    let out = tempfile::tempdir().unwrap();
    let destination = Destination::folder(&out.path().join("model")).unwrap();
    let export = export(&model, Some(&adapter), WeightType::F32);
    write_and_check(&destination, &export, Format::Folder, |path| {
        folder::write_folder(&export, path)?;
        fs::remove_file(path.join("model.safetensors")).unwrap();
        folder::write_weights(&export, path, 20_000)
    })
    .unwrap();
    let index = folder::read_json(&destination.staging().join("model.safetensors.index.json")).unwrap();
    let places = index["weight_map"].as_object().unwrap();
    assert_eq!(places.len(), model.decoder.weights().len());
    let first = destination.staging().join(places["model.embed_tokens.weight"].as_str().unwrap());
    assert!(fs::metadata(first).unwrap().len() < 24_000);
    let total: usize = model.decoder.weights().iter().map(|(_, weight)| weight.to_rows().len() * 4).sum();
    assert_eq!(index["metadata"]["total_size"], total);
}

/// What the gate says to a GGUF file that `spoil` changed before it was read back.
fn refusal_of_gguf(weight_type: WeightType, spoil: impl FnOnce(&mut Vec<u8>)) -> String {
    let (_folder, model, adapter) = small_model();
    let out = tempfile::tempdir().unwrap();
    let destination = Destination::file(&out.path().join("model.gguf")).unwrap();
    let export = export(&model, Some(&adapter), weight_type);
    let result = write_and_check(&destination, &export, Format::Gguf, |path| {
        gguf::write_gguf(&export, path)?;
        let mut bytes = fs::read(path).unwrap();
        spoil(&mut bytes);
        fs::write(path, bytes).unwrap();
        Ok(())
    });
    drop(destination);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0, "nothing may be left");
    let error = result.unwrap_err();
    assert!(matches!(error, NnError::ExportGate { .. }), "{error}");
    error.to_string()
}

/// Where the values of a merged weight lie in a file of f32 weights.
fn place_of(bytes: &[u8], values: &[f32]) -> usize {
    let wanted: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    bytes.windows(wanted.len()).position(|window| window == wanted).unwrap()
}

fn merged_row(parameter: Parameter, row: usize) -> Vec<f32> {
    let (_folder, model, adapter) = small_model();
    let weight = merge::merged(&model.decoder, Some(&adapter)).find(|weight| weight.parameter == parameter).unwrap();
    let width = weight.shape()[1];
    weight.values()[row * width..(row + 1) * width].to_vec()
}

#[test]
fn the_gate_refuses_a_wrong_order_of_rotary_rows() {
    let query = Parameter::Weight(1, crate::LinearName::QProj);
    // In the file, rows 0 and 4 of a head of width 8 lie side by side.
    let (first, second) = (merged_row(query, 0), merged_row(query, 4));
    let text = refusal_of_gguf(WeightType::F32, |bytes| {
        let (first, second) = (place_of(bytes, &first), place_of(bytes, &second));
        assert_eq!(second - first, 32 * 4);
        let (left, right) = bytes.split_at_mut(second);
        left[first..].swap_with_slice(&mut right[..32 * 4]);
    });
    assert!(text.contains("`model.layers.1.self_attn.q_proj.weight`") && text.contains("element 0"), "{text}");
}

#[test]
fn the_gate_refuses_a_single_changed_weight() {
    let row = merged_row(Parameter::Weight(2, crate::LinearName::DownProj), 5);
    let text = refusal_of_gguf(WeightType::F32, |bytes| {
        let place = place_of(bytes, &row) + 4 * 7;
        bytes[place] ^= 1;
    });
    assert!(text.contains("layers.2.mlp.down_proj") && text.contains("row 5"), "{text}");
    // The last block of quantised weights is that of the output head.
    let text = refusal_of_gguf(WeightType::Q8_0, |bytes| {
        let last = bytes.len() - 32;
        bytes[last] = bytes[last].wrapping_add(4);
    });
    assert!(text.contains("`lm_head.weight`") && text.contains("row 63"), "{text}");
}

/// What the gate says to a folder in which `spoil` changed files.
fn refusal_of_folder(spoil: impl FnOnce(&Path)) -> String {
    let (_folder, model, _) = small_model();
    let out = tempfile::tempdir().unwrap();
    let destination = Destination::folder(&out.path().join("model")).unwrap();
    let export = export(&model, None, WeightType::F32);
    let result = write_and_check(&destination, &export, Format::Folder, |path| {
        folder::write_folder(&export, path)?;
        spoil(path);
        Ok(())
    });
    result.unwrap_err().to_string()
}

#[test]
fn the_gate_refuses_other_tokens_templates_and_shapes() {
    let text = refusal_of_folder(|path| {
        let mut tokenizer = small_tokenizer();
        tokenizer["model"]["merges"].as_array_mut().unwrap().pop();
        fs::write(path.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    });
    assert!(text.contains("token ") && text.contains("`Ġthe`"), "{text}");
    let text = refusal_of_folder(|path| {
        fs::write(path.join("chat_template.jinja"), "{{ messages[0]['content'] }}").unwrap();
    });
    assert!(text.contains("chat template renders"), "{text}");
    let text = refusal_of_folder(|path| {
        let mut config = folder::read_json(&path.join("config.json")).unwrap();
        config["rope_parameters"]["rope_theta"] = json!(20_000.0);
        fs::write(path.join("config.json"), config.to_string()).unwrap();
    });
    assert!(text.contains("`rope_theta` is 20000.0, expected 10000.0"), "{text}");
    let text = refusal_of_folder(|path| {
        fs::write(path.join("generation_config.json"), r#"{ "eos_token_id": [2, 5] }"#).unwrap();
    });
    assert!(text.contains("ends a text, and did not before"), "{text}");
}

#[test]
fn the_gate_refuses_logits_of_another_model() {
    let (_folder, model, adapter) = small_model();
    // As if the update had been forgotten in writing and in the comparison of weights.
    let export = export(&model, Some(&adapter), WeightType::F32);
    for weight_type in [WeightType::F32, WeightType::F16, WeightType::Bf16, WeightType::Q8_0] {
        let report = gate::compare_logits(&export, &model.decoder).unwrap();
        let text = gate::within(report, weight_type).unwrap_err().to_string();
        assert!(text.contains("logits") || text.contains("KL divergence"), "{text}");
        let broken = GateReport { relative_error: f64::NAN, mean_divergence: f64::NAN, ..report };
        assert!(gate::within(broken, weight_type).is_err(), "what is not a number is refused");
    }
    // All that comes before the logits is right.
    let (folder, mut exported, _) = small_model();
    let plain = Export { adapter: None, ..export };
    gate::check(&plain, Format::Folder, &exported).unwrap();
    exported.decoder = exported.decoder.rotated_otherwise();
    let text = gate::check(&plain, Format::Folder, &exported).unwrap_err().to_string();
    assert!(text.contains("the logits' relative error"), "{text}");
    drop(folder);
}

#[test]
fn weights_too_large_for_the_type_are_refused() {
    let (_folder, model, _) = small_model();
    let mut trained = model.decoder.clone();
    trained.thaw();
    for (parameter, values) in trained.parameters_mut().unwrap() {
        if parameter == Parameter::Weight(0, crate::LinearName::VProj) {
            values[0] = 1.0e6;
        }
    }
    let out = tempfile::tempdir().unwrap();
    let export = Export { model: &model, decoder: &trained, adapter: None, weight_type: WeightType::F16 };
    let destination = Destination::file(&out.path().join("model.gguf")).unwrap();
    let text = export_gguf(destination, &export).unwrap_err().to_string();
    assert!(text.contains("v_proj") && text.contains("is inf") && text.contains("f16"), "{text}");
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 0);
}

#[test]
fn an_adapter_is_copied_only_where_it_fits() {
    let (_folder, model, adapter) = small_model();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("adapter");
    let config = model.decoder.config();
    export_adapter(Destination::folder(&path).unwrap(), &data("adapter"), config).unwrap();
    assert_eq!(LoraAdapter::load(&path, config).unwrap(), adapter);

    let other = DecoderConfig { intermediate_size: 64, ..config.clone() };
    let elsewhere = out.path().join("elsewhere");
    let error = export_adapter(Destination::folder(&elsewhere).unwrap(), &data("adapter"), &other).unwrap_err();
    assert!(error.to_string().contains("does not fit the model"), "{error}");
    assert!(!elsewhere.exists());
}

#[test]
fn a_modelfile_stops_where_the_model_does() {
    let (_folder, model, _) = small_model();
    let out = tempfile::tempdir().unwrap();
    let path = out.path().join("ollama");
    export_ollama(Destination::folder(&path).unwrap(), &export(&model, None, WeightType::F16)).unwrap();
    let text = fs::read_to_string(path.join("Modelfile")).unwrap();
    assert_eq!(text, "FROM ./model.gguf\nPARAMETER temperature 0.7\nPARAMETER stop \"<end>\"\n");
    assert!(path.join("model.gguf").is_file());
}

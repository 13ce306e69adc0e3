use super::Export;

/// Ollama's recipe for the GGUF file beside it: <https://docs.ollama.com/modelfile>.
///
/// There is no `TEMPLATE`: the GGUF file carries the model's own, which Ollama recognises when it imports the file.
pub(super) fn modelfile(export: &Export<'_>, gguf: &str) -> String {
    let tokenizer = &export.model.tokenizer;
    let stops =
        tokenizer.end_of_text().iter().map(|&token| format!("PARAMETER stop {:?}\n", tokenizer.token_name(token)));
    format!("FROM ./{gguf}\nPARAMETER temperature {TEMPERATURE}\n{}", stops.collect::<String>())
}

/// That of `opencharacter chat`.
const TEMPERATURE: f32 = 0.7;

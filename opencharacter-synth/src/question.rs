//! Persona-driven instructions: what a person might ask (the paper's third source of questions, 50,000 of them).

use futures_util::{Stream, StreamExt as _};
use opencharacter_core::{
    Completion, FinishReason, GenerateRequest, Instruction, KeyedRandom, Message, Persona, Provenance, Sampling,
    SourceNote, Turn,
};
use opencharacter_ledger::{CallError, LedgeredModel};
use serde::Serialize;

use crate::{
    Sink, Summary, SynthError, Templates, Work, WorkError, Worked,
    text::{has_phrase, nearly_equal, normalise, repeats_itself},
    work::refused_or,
    work_unordered,
};

/// The stage's name in the ledger and in [`crate::ProgressEvent`]s.
pub const QUESTIONS: &str = "questions";

/// How questions are made.
#[derive(Debug, Clone, PartialEq)]
pub struct QuestionOptions {
    /// Questions per persona, each different from those before it.
    pub per_persona: usize,
    /// Attempts per persona and question, each with a seed of its own.
    pub attempts: usize,
    /// How tokens are drawn; its seed is replaced by each attempt's.
    pub sampling: Sampling,
    /// The recipe's seed.
    pub seed: u64,
}

impl Default for QuestionOptions {
    fn default() -> Self {
        let sampling = Sampling {
            temperature: 0.9,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.05,
            max_tokens: 120,
            ..Sampling::default()
        };
        Self { per_persona: 1, attempts: 4, sampling, seed: 0 }
    }
}

/// Shortest and longest question, in characters.
const LENGTH: (usize, usize) = (12, 600);

/// Has a question written that each persona might ask an assistant.
///
/// What `sink` receives is in the order of `personas`. The instruction's source is the persona's with `persona-driven`
/// before it, and its licence the persona's.
///
/// # Errors
/// [`SynthError::Stopped`] when the model is gone, a ledger's error, [`SynthError::Prompt`] for a broken template,
/// [`SynthError::Option`] for a count of 0.
pub async fn synthesize_questions(
    personas: impl Stream<Item = Result<Persona, SynthError>>,
    options: &QuestionOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Instruction>,
) -> Result<Summary, SynthError> {
    for (option, count) in [("`attempts`", options.attempts), ("`--per-persona`", options.per_persona)] {
        if count == 0 {
            return Err(SynthError::Option { option, reason: "expected at least 1".into() });
        }
    }
    let items = personas.flat_map(|persona| {
        let tasks: Vec<_> = match persona {
            Ok(persona) => (0..options.per_persona)
                .map(|number| Ok((format!("{}/{number}", persona.character_id), (persona.clone(), number))))
                .collect(),
            Err(error) => vec![Err(error)],
        };
        futures_util::stream::iter(tasks)
    });
    work_unordered(QUESTIONS, work, items, sink, |model, id, (persona, number)| async move {
        one_question(&id, persona, number, options, templates, model).await
    })
    .await
}

async fn one_question(
    id: &str,
    persona: Persona,
    number: usize,
    options: &QuestionOptions,
    templates: &Templates,
    model: LedgeredModel<'_>,
) -> Result<Worked<Instruction>, WorkError> {
    #[derive(Serialize)]
    struct Placeholders<'a> {
        persona: &'a str,
        number: usize,
    }
    let prompt = templates.question.render(Placeholders { persona: &persona.persona, number: number + 1 })?;
    let mut reasons = Vec::new();
    for attempt in 0..options.attempts {
        let seed = KeyedRandom::new(options.seed, &["question", id, &attempt.to_string()]).next_u64();
        let request = GenerateRequest {
            messages: vec![Message::user(prompt.clone())],
            sampling: Sampling { seed, ..options.sampling.clone() },
            schema: None,
            log_probs: None,
        };
        match model.complete(QUESTIONS, id, request, |completion| judge(completion, &persona.persona, &prompt)).await {
            Ok((user, key)) => {
                let source = format!("persona-driven, {}", persona.source);
                let mut instruction = Instruction::new(vec![Turn { user, answer: None }], source, &persona.license);
                instruction.provenance = Some(Provenance {
                    teacher: model.model.fingerprint().to_owned(),
                    templates: [(templates.question.name().to_owned(), templates.question.hash())].into(),
                    ledger_keys: vec![key.to_string()],
                    seed: options.seed,
                    sources: vec![SourceNote { source: persona.source, license: persona.license }],
                    ..Provenance::default()
                });
                return Ok(Worked::row(instruction, reasons));
            }
            Err(CallError::Rejected { reason, .. }) => reasons.push(reason),
            Err(error) => return refused_or(error.into(), reasons),
        }
    }
    Ok(Worked::rejected(reasons))
}

/// The question, tidied, or the reason against it; the reason's text before `: ` names the rule.
fn judge(completion: &Completion, persona: &str, prompt: &str) -> Result<String, String> {
    if completion.finish == FinishReason::Length {
        return Err("cut off: the question does not end within `max_tokens`".into());
    }
    let text = tidied(&completion.text);
    let length = text.chars().count();
    if length < LENGTH.0 || length > LENGTH.1 {
        return Err(format!("length: {length} characters, expected {} to {}", LENGTH.0, LENGTH.1));
    }
    let normal = normalise(text);
    // The models that see the question later know nothing of a persona.
    if let Some(word) =
        ["the persona", "this persona", "the person above", "as an ai"].iter().find(|word| has_phrase(&normal, word))
    {
        return Err(format!("speaks of its prompt: `{word}`"));
    }
    if nearly_equal(&normal, &normalise(persona)) {
        return Err("echoes the persona".into());
    }
    if normalise(prompt).contains(&normal) {
        return Err("echoes the prompt".into());
    }
    if repeats_itself(text) {
        return Err("degenerate repetition".into());
    }
    let asks = text.contains('?') || REQUESTS.iter().any(|word| normal.split(' ').any(|found| found == *word));
    if !asks {
        return Err("asks for nothing".into());
    }
    Ok(text.to_owned())
}

/// Words by which a text without a question mark asks for something.
const REQUESTS: [&str; 24] = [
    "please",
    "write",
    "explain",
    "help",
    "give",
    "tell",
    "describe",
    "suggest",
    "list",
    "create",
    "design",
    "plan",
    "compare",
    "draft",
    "recommend",
    "show",
    "summarize",
    "find",
    "translate",
    "calculate",
    "advise",
    "teach",
    "outline",
    "compose",
];

/// Without the label and the quotation marks that models like to put around a question.
fn tidied(text: &str) -> &str {
    let mut text = text.trim();
    for label in ["Question:", "User:", "Prompt:", "Request:"] {
        text = text.strip_prefix(label).map_or(text, str::trim_start);
    }
    let quoted = text.strip_prefix(['"', '“']).and_then(|text| text.strip_suffix(['"', '”']));
    quoted.filter(|inner| !inner.contains(['"', '“', '”'])).map_or(text, str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(text: &str) -> Result<String, String> {
        let completion = Completion {
            text: text.into(),
            finish: FinishReason::Stop,
            prompt_tokens: 0,
            cached_tokens: 0,
            completion_tokens: 0,
            log_probs: Vec::new(),
        };
        judge(&completion, "A baker in Lyon who fears yeast", "Write one question that this person might ask.")
    }

    #[test]
    fn a_question_is_tidied_and_what_is_none_is_refused() {
        for (text, kept) in [
            ("\"Why does my dough collapse in the oven?\"", "Why does my dough collapse in the oven?"),
            ("Question: How long does rye keep?", "How long does rye keep?"),
            ("Write a price list for a small bakery.", "Write a price list for a small bakery."),
        ] {
            assert_eq!(judged(text).as_deref(), Ok(kept));
        }
        for (text, rule) in [
            ("Why?", "length"),
            ("What would the persona like to eat today?", "speaks of its prompt"),
            ("A baker in Lyon who fears yeast", "echoes the persona"),
            ("Write one question that this person might ask.", "echoes the prompt"),
            ("I bake bread in the morning and sell it.", "asks for nothing"),
        ] {
            let reason = judged(text).unwrap_err();
            assert_eq!(reason.split(": ").next(), Some(rule), "{text}");
        }
    }
}

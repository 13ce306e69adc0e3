//! Dialogue synthesis: characters answer instructions (-G) or existing answers are put in their voice (-R).
//!
//! Both work turn by turn, each turn seeing the answers made before it. For -R the paper sends all turns at once and
//! reads JSON back; one turn at a time asks less of a small teacher and gives each turn attempts of its own.

use std::sync::Arc;

use futures_util::{Stream, StreamExt as _, stream::iter};
use opencharacter_core::{
    Character, Dialogue, GenerateRequest, Instruction, KeyedRandom, Message, Provenance, Sampling, ScoreRequest,
    SourceNote, Strategy, short_id,
};
use opencharacter_ledger::{CallError, LedgeredModel};
use serde::Serialize;

use crate::{
    Sink, Summary, SynthError, Templates, Work, WorkError, Worked, answer::AnswerCheck, work::refused_or,
    work_unordered,
};

/// The stage's name in the ledger and in [`crate::ProgressEvent`]s.
pub const DIALOGUES: &str = "dialogues";

/// How dialogues are made.
#[derive(Debug, Clone, PartialEq)]
pub struct DialogueOptions {
    /// Generate (-G) or rewrite (-R).
    pub strategy: Strategy,
    /// Random characters per instruction; 3 in the paper.
    pub characters_per_instruction: usize,
    /// Valid answers drawn per turn, of which the most specific to the character is kept; 1 keeps the first.
    pub candidates: usize,
    /// Other characters that specificity is measured against.
    pub comparisons: usize,
    /// Attempts per candidate, each with a seed of its own.
    pub attempts: usize,
    /// How tokens are drawn; its seed is replaced by each attempt's.
    pub sampling: Sampling,
    /// The recipe's seed.
    pub seed: u64,
}

impl Default for DialogueOptions {
    fn default() -> Self {
        let sampling = Sampling {
            temperature: 0.8,
            top_p: 0.95,
            min_p: 0.02,
            repetition_penalty: 1.05,
            max_tokens: 256,
            ..Sampling::default()
        };
        Self {
            strategy: Strategy::Generate,
            characters_per_instruction: 3,
            candidates: 1,
            comparisons: 2,
            attempts: 3,
            sampling,
            seed: 0,
        }
    }
}

/// The characters of a stage, in the order of their ids: draws do not depend on the order in which they were made.
#[derive(Debug, Clone)]
pub struct Cast<'a> {
    by_id: Vec<&'a Character>,
}

impl<'a> Cast<'a> {
    /// All of `characters`.
    pub fn new(characters: &'a [Character]) -> Self {
        let mut by_id: Vec<&Character> = characters.iter().collect();
        by_id.sort_by(|first, second| first.character_id.cmp(&second.character_id));
        Self { by_id }
    }

    /// Who is to answer an instruction: `count` different characters, drawn by its id and the seed.
    pub fn draw(&self, instruction: &Instruction, count: usize, seed: u64) -> Vec<&'a Character> {
        let drawn =
            KeyedRandom::new(seed, &["characters", &instruction.instruction_id]).sample(self.by_id.len(), count);
        drawn.into_iter().map(|index| self.by_id[index]).collect()
    }

    /// Others than `own` to compare an answer with: drawn once per dialogue, the same for all its candidates and turns.
    fn others(&self, own: &Character, dialogue_id: &str, count: usize, seed: u64) -> Vec<&'a Character> {
        // One more than needed is drawn, in case the character itself is among them.
        KeyedRandom::new(seed, &["comparisons", dialogue_id])
            .sample(self.by_id.len(), count + 1)
            .into_iter()
            .map(|index| self.by_id[index])
            .filter(|character| character.character_id != own.character_id)
            .take(count)
            .collect()
    }
}

/// One dialogue to be made.
#[derive(Clone)]
struct Pairing<'a> {
    character: &'a Character,
    instruction: Arc<Instruction>,
}

/// What one instruction asks for.
enum Task<'a> {
    Dialogue(Pairing<'a>),
    /// It is to be rewritten, and a turn of it has no answer.
    NothingToRewrite,
}

/// The rule by which an instruction without an answer is left out of rewriting.
const NO_ANSWER: &str = "no answer to rewrite";

/// Has `options.characters_per_instruction` characters of `cast` answer each instruction.
///
/// What `sink` receives is in the order of `instructions` whatever the concurrency, and who answers what depends on
/// ids and seed alone. [`Strategy::Rewrite`] rejects an instruction with a turn that has no answer, under its own id.
///
/// Messages are the user's and the assistant's; the system prompt is rendered from the character where it is needed.
/// With `candidates` above 1 each turn keeps the valid candidate with the greatest specificity, in nats:
/// log p(answers | this character) - mean over others of log p(answers | other). It is measured over all answers so
/// far; those before the turn are common to the candidates, and the last turn's figure is the dialogue's.
///
/// # Errors
/// [`SynthError::Stopped`] when the model is gone, a ledger's error, [`SynthError::Prompt`] for a broken template,
/// [`SynthError::Option`] when there is nothing to do or a count is 0.
pub async fn synthesize_dialogues(
    cast: &Cast<'_>,
    instructions: impl Stream<Item = Result<Instruction, SynthError>>,
    options: &DialogueOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Dialogue>,
) -> Result<Summary, SynthError> {
    check_options(options)?;
    if cast.by_id.is_empty() {
        return Err(SynthError::Option {
            option: "characters",
            reason: "there are none; expected at least one".into(),
        });
    }
    let items = instructions.flat_map(|instruction| iter(tasks(cast, instruction, options)));
    let made = work_unordered(DIALOGUES, work, items, sink, |model, id, task| async move {
        let stage = Stage { options, templates, model, cast };
        match task {
            Task::Dialogue(pairing) => stage.dialogue(&id, pairing).await,
            Task::NothingToRewrite => {
                Ok(Worked::rejected(vec![format!("{NO_ANSWER}: an answer to every turn is needed")]))
            }
        }
    })
    .await?;
    if made.accepted + made.rejected == 0 && made.stopped_by.is_none() {
        return Err(SynthError::Option {
            option: "instructions",
            reason: "there are none; expected at least one".into(),
        });
    }
    if made.accepted == 0 && made.reasons.get(NO_ANSWER) == Some(&made.rejected) {
        let count = made.rejected;
        let reason = format!(
            "rewriting needs an answer to every turn, and none of the {count} instructions has that; use `--strategy generate`"
        );
        return Err(SynthError::Option { option: "`--strategy rewrite`", reason });
    }
    Ok(made)
}

/// The dialogues of one instruction, each with its id.
fn tasks<'a>(
    cast: &Cast<'a>,
    instruction: Result<Instruction, SynthError>,
    options: &DialogueOptions,
) -> Vec<Result<(String, Task<'a>), SynthError>> {
    let instruction = match instruction {
        Ok(instruction) => Arc::new(instruction),
        Err(error) => return vec![Err(error)],
    };
    let answered = !instruction.turns.is_empty() && instruction.turns.iter().all(|turn| turn.answer.is_some());
    if options.strategy == Strategy::Rewrite && !answered {
        return vec![Ok((instruction.instruction_id.clone(), Task::NothingToRewrite))];
    }
    let drawn = cast.draw(&instruction, options.characters_per_instruction, options.seed).into_iter();
    drawn
        .map(|character| {
            let pairing = Pairing { character, instruction: Arc::clone(&instruction) };
            Ok((pairing.dialogue_id(options.strategy), Task::Dialogue(pairing)))
        })
        .collect()
}

fn check_options(options: &DialogueOptions) -> Result<(), SynthError> {
    let counts = [
        ("`characters_per_instruction`", options.characters_per_instruction),
        ("`candidates`", options.candidates),
        ("`attempts`", options.attempts),
        ("`comparisons`", options.comparisons),
    ];
    match counts.into_iter().find(|&(_, count)| count == 0) {
        Some((option, _)) => Err(SynthError::Option { option, reason: "expected at least 1".into() }),
        None => Ok(()),
    }
}

impl Pairing<'_> {
    fn dialogue_id(&self, strategy: Strategy) -> String {
        let parts = [&self.character.character_id, &self.instruction.instruction_id, strategy.as_str()];
        short_id("dialogue", &parts)
    }

    /// Of the persona and of the instruction.
    fn sources(&self) -> Vec<SourceNote> {
        let of = |source: &String, license: &String| SourceNote { source: source.clone(), license: license.clone() };
        let mut sources = vec![
            of(&self.character.source, &self.character.license),
            of(&self.instruction.source, &self.instruction.license),
        ];
        sources.dedup();
        sources
    }
}

/// What all dialogues of a stage share.
#[derive(Clone, Copy)]
struct Stage<'a> {
    options: &'a DialogueOptions,
    templates: &'a Templates,
    model: LedgeredModel<'a>,
    cast: &'a Cast<'a>,
}

/// A valid answer to one turn.
struct Candidate {
    text: String,
    keys: Vec<String>,
    specificity: Option<f64>,
}

/// One turn of one dialogue.
#[derive(Clone, Copy)]
struct TurnTask<'a> {
    id: &'a str,
    pairing: &'a Pairing<'a>,
    system: &'a str,
    /// User and assistant messages of the turns before.
    history: &'a [Message],
    turn: usize,
}

impl TurnTask<'_> {
    fn question(&self) -> &str {
        &self.pairing.instruction.turns[self.turn].user
    }

    fn source_answer(&self, strategy: Strategy) -> Option<&str> {
        let answer = self.pairing.instruction.turns[self.turn].answer.as_deref();
        answer.filter(|_| strategy == Strategy::Rewrite)
    }

    /// The conversation under `system`, with the question last.
    fn conversation(&self, system: &str) -> Vec<Message> {
        let mut messages = vec![Message::system(system)];
        messages.extend_from_slice(self.history);
        messages.push(Message::user(self.question()));
        messages
    }
}

impl Stage<'_> {
    async fn dialogue(self, id: &str, pairing: Pairing<'_>) -> Result<Worked<Dialogue>, WorkError> {
        let system = self.templates.system.render(pairing.character)?;
        let mut messages: Vec<Message> = Vec::new();
        let mut keys = Vec::new();
        let mut reasons = Vec::new();
        let mut specificity = None;
        for turn in 0..pairing.instruction.turns.len() {
            let task = TurnTask { id, pairing: &pairing, system: &system, history: &messages, turn };
            let answered = match self.answer(task, &mut reasons).await {
                Ok(Some(answered)) => answered,
                Ok(None) => return Ok(Worked::rejected(reasons)),
                Err(error) => return refused_or(error, reasons),
            };
            let question = Message::user(task.question());
            messages.extend([question, Message::assistant(answered.text)]);
            keys.extend(answered.keys);
            specificity = answered.specificity;
        }
        let row = Dialogue {
            dialogue_id: id.to_owned(),
            character_id: pairing.character.character_id.clone(),
            question_source: pairing.instruction.source.clone(),
            strategy: Some(self.options.strategy),
            messages,
            provenance: Some(self.provenance(&pairing, keys, specificity)),
        };
        Ok(Worked::row(row, reasons))
    }

    fn provenance(&self, pairing: &Pairing<'_>, ledger_keys: Vec<String>, specificity: Option<f64>) -> Provenance {
        let used = match self.options.strategy {
            Strategy::Generate => ["system"].as_slice(),
            Strategy::Rewrite => &["rewrite", "system"],
        };
        Provenance {
            teacher: self.model.model.fingerprint().to_owned(),
            templates: self.templates.hashes_of(used),
            ledger_keys,
            seed: self.options.seed,
            sources: pairing.sources(),
            instruction_id: Some(pairing.instruction.instruction_id.clone()),
            specificity,
        }
    }

    /// The answer to keep for one turn; `None` when no candidate was valid.
    async fn answer(self, task: TurnTask<'_>, reasons: &mut Vec<String>) -> Result<Option<Candidate>, WorkError> {
        let mut candidates = Vec::new();
        for number in 0..self.options.candidates {
            candidates.extend(self.candidate(task, number, reasons).await?);
        }
        if self.options.candidates > 1 && self.cast.by_id.len() > 1 {
            for candidate in &mut candidates {
                self.measure(task, candidate).await?;
            }
        }
        // The first of equals: the choice must not depend on anything but the candidates' order.
        Ok(candidates.into_iter().reduce(|best, other| {
            let better = other.specificity.unwrap_or(f64::NEG_INFINITY) > best.specificity.unwrap_or(f64::NEG_INFINITY);
            if better { other } else { best }
        }))
    }

    async fn candidate(
        self,
        task: TurnTask<'_>,
        number: usize,
        reasons: &mut Vec<String>,
    ) -> Result<Option<Candidate>, WorkError> {
        let source_answer = task.source_answer(self.options.strategy);
        let messages = match source_answer {
            Some(answer) => vec![Message::user(self.rewrite_prompt(task, answer)?)],
            None => task.conversation(task.system),
        };
        let check = AnswerCheck {
            character: task.pairing.character,
            system: task.system,
            question: task.question(),
            source_answer,
        };
        for attempt in 0..self.options.attempts {
            let place = [task.turn, number, attempt].map(|part| part.to_string());
            let key = ["dialogue", task.id, &place[0], &place[1], &place[2]];
            let seed = KeyedRandom::new(self.options.seed, &key).next_u64();
            let request = GenerateRequest {
                messages: messages.clone(),
                sampling: Sampling { seed, ..self.options.sampling.clone() },
                schema: None,
                log_probs: None,
            };
            match self.model.complete(DIALOGUES, task.id, request, |completion| check.judge(completion)).await {
                Ok((text, key)) => {
                    return Ok(Some(Candidate { text, keys: vec![key.to_string()], specificity: None }));
                }
                Err(CallError::Rejected { reason, .. }) => reasons.push(reason),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    fn rewrite_prompt(&self, task: TurnTask<'_>, answer: &str) -> Result<String, SynthError> {
        #[derive(Serialize)]
        struct Earlier<'a> {
            user: &'a str,
            answer: &'a str,
        }
        #[derive(Serialize)]
        struct Placeholders<'a> {
            persona: &'a str,
            profile: &'a str,
            name: &'a str,
            history: Vec<Earlier<'a>>,
            question: &'a str,
            answer: &'a str,
        }
        let history =
            task.history.chunks_exact(2).map(|turn| Earlier { user: &turn[0].content, answer: &turn[1].content });
        let character = task.pairing.character;
        Ok(self.templates.rewrite.render(Placeholders {
            persona: &character.persona,
            profile: &character.profile.to_text(),
            name: &character.profile.name,
            history: history.collect(),
            question: task.question(),
            answer,
        })?)
    }

    /// Measures how much likelier the answers are from this character than from others.
    async fn measure(self, task: TurnTask<'_>, candidate: &mut Candidate) -> Result<(), WorkError> {
        let own = self.log_prob(task, task.system, candidate).await?;
        let others = self.cast.others(task.pairing.character, task.id, self.options.comparisons, self.options.seed);
        let mut sum = 0.0;
        for other in &others {
            let system = self.templates.system.render(other)?;
            sum += self.log_prob(task, &system, candidate).await?;
        }
        candidate.specificity = Some(own - sum / others.len() as f64);
        Ok(())
    }

    async fn log_prob(self, task: TurnTask<'_>, system: &str, candidate: &mut Candidate) -> Result<f64, WorkError> {
        let mut messages = task.conversation(system);
        messages.push(Message::assistant(candidate.text.as_str()));
        let (score, key) = self.model.score(DIALOGUES, task.id, ScoreRequest { messages }).await?;
        candidate.keys.push(key.to_string());
        Ok(score.log_prob)
    }
}

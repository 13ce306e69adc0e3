//! Does a character stay who it is over many turns?
//!
//! A simulated user talks with the model under test. After so many turns, beside the conversation and without becoming
//! part of it, the model is asked about facts of its profile (retest), and told something false about itself
//! (contradiction). [`crate::BenchmarkScores::drift`] shows both by turn.
//!
//! It shows whether what the profile says survives a long context. It cannot show more than the simulated user brings
//! about: a tame user makes everybody look steady.

mod probe;

use std::collections::HashSet;

use opencharacter_core::{
    BoxFuture, Character, Generate, GenerateError, GenerateRequest, KeyedRandom, Message, Role, Sampling, SystemPrompt,
    short_id,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    EvalError, EvalItem, Judge, JudgeOptions, PromptKind, Reply, Verdict, VerdictOutcome, answer_items,
    calls::{Errand, Progress, run_all},
    judge::{Asking, ask, json_object, text_field, verdict},
};
use probe::{Finding, Probe, probes};

/// What simulated users want; each conversation has one.
const GOALS: [&str; 8] = [
    "to plan a day out together, step by step, with your own wishes and second thoughts",
    "to get advice on a quarrel with a neighbour, telling the story bit by bit",
    "to learn a skill that the other may have, asking about each detail",
    "to find out what the other thinks of the way the world is changing, and to disagree politely",
    "to tell about your own week and hear what the other makes of it",
    "to invent a short story together, taking turns, and to keep leading away from the other's own life",
    "to get the other to help with a letter of complaint, asking for several changes",
    "to compare both your childhoods and jobs, telling made-up details of your own",
];

/// How conversations are held.
#[derive(Debug, Clone)]
pub struct ConversationOptions {
    /// Keys goals, seeds and false facts.
    pub seed: u64,
    /// Turns: a message of the user and an answer each.
    pub turns: u32,
    /// After how many turns the probes are put; 0 is before the conversation.
    pub probe_after: Vec<u32>,
    /// What the model under test is told of its character; [`PromptKind::Persona`] has no facts to ask about.
    pub prompt: PromptKind,
    /// The prompt that makes it play.
    pub system_prompt: SystemPrompt,
    /// How it answers.
    pub sampling: Sampling,
    /// How the user's messages are drawn.
    pub user_sampling: Sampling,
}

impl Default for ConversationOptions {
    fn default() -> Self {
        let sampling = Sampling { temperature: 0.7, top_p: 0.95, max_tokens: 192, ..Sampling::default() };
        Self {
            seed: 0,
            turns: 8,
            probe_after: vec![0, 2, 4, 8],
            prompt: PromptKind::Both,
            system_prompt: SystemPrompt::default(),
            user_sampling: Sampling { max_tokens: 96, ..sampling.clone() },
            sampling,
        }
    }
}

/// A conversation as it was held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcript {
    /// Who was talked to.
    pub character_id: String,
    /// What the simulated user wanted.
    pub goal: String,
    /// System prompt and turns.
    pub messages: Vec<Message>,
    /// Why it ended before its time; a conversation too long for the model's context, for example.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broke_off: Option<String>,
}

/// Who takes part beside the model under test.
#[derive(Clone, Copy)]
pub struct ConversationParty<'a> {
    /// Plays the user.
    pub user: &'a dyn Generate,
    /// Decides what no rule can; without one those items have no value.
    pub judge: Option<Judge<'a>>,
}

/// Talks with every character and probes it on the way; items with values, and the conversations.
///
/// Literal facts (name, age, birth place) are checked by rule, others by the judge. After a conversation that broke off,
/// later probes are missing.
///
/// # Errors
/// [`EvalError::Model`], [`EvalError::Empty`] without characters, [`EvalError::Duplicate`], and
/// [`EvalError::NothingToPlay`] for a character without a profile.
pub async fn run_conversations(
    model: &dyn Generate,
    party: ConversationParty<'_>,
    characters: &[Character],
    options: &ConversationOptions,
    judge_options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<(Vec<EvalItem>, Vec<Transcript>), EvalError> {
    check(characters)?;
    let mut transcripts =
        characters.iter().map(|character| begin(character, options)).collect::<Result<Vec<Transcript>, EvalError>>()?;
    let mut found: Vec<(EvalItem, Probe)> = Vec::new();
    for turn in 0..=options.turns {
        if options.probe_after.contains(&turn) {
            found.extend(probe_all(model, characters, &transcripts, turn, options, progress).await?);
        }
        if turn < options.turns {
            let stage = format!("user, turn {}", turn + 1);
            speak(party.user, &stage, Role::User, &mut transcripts, options, progress).await?;
            let stage = format!("answers, turn {}", turn + 1);
            speak(model, &stage, Role::Assistant, &mut transcripts, options, progress).await?;
        }
    }
    decide(&mut found, party.judge, judge_options, progress).await?;
    Ok((found.into_iter().map(|(item, _)| item).collect(), transcripts))
}

fn check(characters: &[Character]) -> Result<(), EvalError> {
    if characters.is_empty() {
        return Err(EvalError::Empty { what: "characters" });
    }
    let mut seen = HashSet::new();
    match characters.iter().find(|character| !seen.insert(character.character_id.as_str())) {
        Some(twice) => Err(EvalError::Duplicate { what: "character", id: twice.character_id.clone() }),
        None => Ok(()),
    }
}

fn begin(character: &Character, options: &ConversationOptions) -> Result<Transcript, EvalError> {
    let goal = KeyedRandom::new(options.seed, &["eval", "goal", &character.character_id]).below(GOALS.len());
    Ok(Transcript {
        character_id: character.character_id.clone(),
        goal: GOALS[goal].to_owned(),
        messages: vec![Message::system(options.prompt.render(character, &options.system_prompt)?)],
        broke_off: None,
    })
}

/// One message more in every conversation that goes on.
async fn speak(
    speaker: &dyn Generate,
    stage: &str,
    role: Role,
    transcripts: &mut [Transcript],
    options: &ConversationOptions,
    progress: &Progress<'_>,
) -> Result<(), EvalError> {
    let going: Vec<usize> = (0..transcripts.len()).filter(|&at| transcripts[at].broke_off.is_none()).collect();
    let (view, transcripts_now) = (options, &*transcripts);
    let errands = going.iter().map(|&at| -> Errand<'_, String> {
        let transcript = &transcripts_now[at];
        let said: BoxFuture<'_, Result<String, GenerateError>> = Box::pin(async move {
            Ok(speaker.generate(next_message(transcript, role, view)).await?.text.trim().to_owned())
        });
        (transcript.character_id.clone(), said)
    });
    let errands = errands.collect();
    let outcomes = run_all(speaker.concurrency(), stage, errands, progress).await?;
    for (at, outcome) in going.into_iter().zip(outcomes) {
        match outcome {
            Ok(content) => transcripts[at].messages.push(Message { role, content }),
            Err(reason) => transcripts[at].broke_off = Some(format!("{stage}: {reason}")),
        }
    }
    Ok(())
}

fn next_message(transcript: &Transcript, role: Role, options: &ConversationOptions) -> GenerateRequest {
    let (messages, sampling) = match role {
        Role::User => (as_the_user_sees_it(transcript), &options.user_sampling),
        Role::Assistant | Role::System => (transcript.messages.clone(), &options.sampling),
    };
    let turn = transcript.messages.len().to_string();
    let key = ["eval", "conversation", role.as_str(), &transcript.character_id, &turn];
    let sampling = Sampling { seed: KeyedRandom::new(options.seed, &key).next_u64(), ..sampling.clone() };
    GenerateRequest { messages, sampling, schema: None, log_probs: None }
}

/// To the simulated user, the character is the one who speaks to it. It is not told who that is.
fn as_the_user_sees_it(transcript: &Transcript) -> Vec<Message> {
    let brief = format!(
        "You are a person in a chat with somebody you have just met. What you want: {}. Write your next message and \
         nothing else: one to three sentences, in plain everyday language, taking up what was said. Never speak for the \
         other.",
        transcript.goal
    );
    let mut messages = vec![Message::system(brief), Message::user("(The chat is open. Say the first thing.)")];
    messages.extend(transcript.messages.iter().filter_map(|message| match message.role {
        Role::System => None,
        Role::User => Some(Message::assistant(message.content.clone())),
        Role::Assistant => Some(Message::user(message.content.clone())),
    }));
    messages
}

async fn probe_all(
    model: &dyn Generate,
    characters: &[Character],
    transcripts: &[Transcript],
    turn: u32,
    options: &ConversationOptions,
    progress: &Progress<'_>,
) -> Result<Vec<(EvalItem, Probe)>, EvalError> {
    let (mut asked, mut probes_asked, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for (character, transcript) in characters.iter().zip(transcripts) {
        for probe in probes(character, characters, options.seed) {
            let mut item = probe_item(character, transcript, &probe, turn);
            if let Some(reason) = &transcript.broke_off {
                item.answer = Reply::Missing { reason: format!("the conversation broke off ({reason})") };
                item.note = format!("no answer: the conversation broke off ({reason})");
                broken.push((item, probe));
            } else {
                asked.push(item);
                probes_asked.push(probe);
            }
        }
    }
    let stage = format!("probes after {turn} turns");
    answer_items(model, &stage, &mut asked, &options.sampling, options.seed, progress).await?;
    Ok(asked.into_iter().zip(probes_asked).chain(broken).collect())
}

fn probe_item(character: &Character, transcript: &Transcript, probe: &Probe, turn: u32) -> EvalItem {
    let turn_name = turn.to_string();
    let item_id = short_id("conversation", &[&character.character_id, probe.task, probe.field.key(), &turn_name]);
    let item = EvalItem::new(item_id, probe.task, character, probe.description(), None, &probe.question);
    let mut messages = transcript.messages.clone();
    messages.extend(item.messages);
    let references = std::iter::once(probe.truth.clone()).chain(probe.lie.clone()).collect();
    EvalItem { messages, references, turn: Some(turn), ..item }
}

/// Sets the items' values: by rule where it decides, else by the judge where there is one.
async fn decide(
    found: &mut [(EvalItem, Probe)],
    judge: Option<Judge<'_>>,
    options: &JudgeOptions,
    progress: &Progress<'_>,
) -> Result<(), EvalError> {
    let mut open = Vec::new();
    for (at, (item, probe)) in found.iter_mut().enumerate() {
        let Some(answer) = item.answer_text() else { continue };
        match probe.by_rule(answer) {
            Finding::Holds(why) => (item.value, item.note) = (Some(1.0), format!("by rule: {why}")),
            Finding::Fails(why) => (item.value, item.note) = (Some(0.0), format!("by rule: {why}")),
            Finding::Undecided => open.push(at),
        }
    }
    let Some(judge) = judge else {
        for at in open {
            "no rule decides this, and there is no judge".clone_into(&mut found[at].0.note);
        }
        return Ok(());
    };
    let asked = &*found;
    let errands = open.iter().map(|&at| -> Errand<'_, _> {
        let (item, probe) = &asked[at];
        let asked = async move { ask(judge.model, asking(item, probe), options, parse).await };
        (item.item_id.clone(), Box::pin(asked))
    });
    let errands = errands.collect();
    let outcomes = run_all(judge.model.concurrency(), "verdicts on facts", errands, progress).await?;
    for (&at, outcome) in open.iter().zip(outcomes) {
        let item = &mut found[at].0;
        match outcome {
            Ok(asked) => item.verdicts = vec![verdict(judge.name, asked)],
            Err(reason) => {
                let (judge, outcome) = (judge.name.to_owned(), VerdictOutcome::Failed { reason });
                item.verdicts = vec![Verdict { judge, outcome, reply: String::new(), attempts: 1 }];
            }
        }
        item.average_verdicts();
    }
    Ok(())
}

fn asking(item: &EvalItem, probe: &Probe) -> Asking {
    let claim = match &probe.lie {
        Some(lie) => format!("It was told, falsely, that this is: {lie}"),
        None => "It was asked about it.".to_owned(),
    };
    let prompt = format!(
        "Does a character's answer agree with a fact about it? {claim}\n\n# {} of the character\n{}\n\n# Question\n{}\n\n\
         # Answer\n<answer>\n{}\n</answer>\n\nAn answer that goes along with something false disagrees; one that corrects or \
         denies it agrees; one that adds what is not in the fact agrees as long as nothing contradicts it. Reply with JSON: \
         an object with `reason`, one sentence, and `agrees`, true or false.",
        probe.field.label(),
        probe.truth,
        item.question(),
        item.answer_text().unwrap_or(""),
    );
    let schema = json!({
        "type": "object",
        "properties": {"reason": {"type": "string"}, "agrees": {"type": "boolean"}},
        "required": ["reason", "agrees"],
        "additionalProperties": false
    });
    let key = vec!["fact".to_owned(), item.item_id.clone()];
    Asking { key, messages: vec![Message::user(prompt)], schema: Some(schema) }
}

fn parse(reply: &str) -> Result<(u8, String), String> {
    let object = json_object(reply)?;
    let agrees = object.get("agrees").and_then(serde_json::Value::as_bool).ok_or("`agrees` must be true or false")?;
    Ok((u8::from(agrees), text_field(&object, "reason")?))
}

//! The evaluation against a scripted model whose answers and likelihoods are known.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where clippy only allows it in the tests themselves")]

use std::{sync::Mutex, time::Duration};

use opencharacter_core::{
    BoxFuture, Character, Completion, Dialogue, FinishReason, Generate, GenerateError, GenerateRequest, Instruction,
    KeyedRandom, Message, Profile, Role, Score, ScoreRequest, TextSink, Turn,
};
use opencharacter_eval::{EvalError, EvalOptions, HeldOutSet, MeasureKind, Scores, contrast_references, evaluate};

/// How the scripted model answers.
#[derive(Clone, Copy, PartialEq)]
enum Player {
    /// With the fact in its profile.
    Perfect,
    /// The same to everybody.
    Blind,
    /// With its name only.
    NameOnly,
    /// As an assistant.
    Assistant,
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// Refuses to answer this question.
    RefusesQuestion(&'static str),
    /// Refuses to score a conversation that holds this text.
    RefusesScore(&'static str),
    /// Its scores are no numbers.
    NotANumber,
    /// Breaks at this question.
    Unavailable(&'static str),
}

struct Scripted {
    player: Player,
    fault: Fault,
    /// Keys the time that each call takes; `None` answers at once.
    latency: Option<u64>,
    loss: f64,
}

impl Scripted {
    fn new(player: Player) -> Self {
        Self { player, fault: Fault::None, latency: None, loss: 2.0 }
    }

    fn with(player: Player, fault: Fault) -> Self {
        Self { fault, ..Self::new(player) }
    }

    async fn wait(&self, messages: &[Message]) {
        if let Some(seed) = self.latency {
            let key: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
            let milliseconds = KeyedRandom::new(seed, &key).below(8) as u64;
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        }
    }

    fn answer(&self, request: &GenerateRequest) -> Result<String, GenerateError> {
        let [system, question] = request.messages.as_slice() else { panic!("system and question expected") };
        match self.fault {
            Fault::RefusesQuestion(text) if question.content.contains(text) => {
                return Err(GenerateError::Refused { reason: "too long".into() });
            }
            Fault::Unavailable(text) if question.content.contains(text) => {
                return Err(GenerateError::Unavailable { model: "scripted".into(), reason: "gone".into() });
            }
            _ => {}
        }
        let word = |prefix: &str| {
            let found = system.content.split_whitespace().find(|word| word.starts_with(prefix));
            found.unwrap_or("nothing").to_owned()
        };
        Ok(match self.player {
            Player::Perfect => format!("I think of {} when you ask {}", word("fact"), question.content),
            Player::Blind => format!("A good question. About that: {}", question.content),
            Player::NameOnly => format!("I am {}. {}", word("Given"), question.content),
            Player::Assistant => format!("As an AI language model, {}", question.content),
        })
    }

    /// A small keyed noise, and 5 nats for every fact or name that system prompt and answer share.
    fn log_prob(&self, messages: &[Message]) -> f64 {
        let (system, answer) = (&messages[0].content, &messages[messages.len() - 1].content);
        let trim = |word: &str| word.trim_matches(|c: char| !c.is_alphanumeric()).to_owned();
        let known: Vec<String> = system.split_whitespace().map(trim).collect();
        let shared = answer
            .split_whitespace()
            .map(trim)
            .filter(|word| (word.starts_with("fact") || word.starts_with("Given")) && known.contains(word))
            .count();
        let noise = KeyedRandom::new(0, &[system, answer]).uniform();
        5.0 * shared as f64 + noise - self.loss * tokens(answer) as f64 - 10.0
    }
}

fn tokens(text: &str) -> usize {
    text.split_whitespace().count() + 1
}

impl Generate for Scripted {
    fn fingerprint(&self) -> &'static str {
        "scripted"
    }

    fn concurrency(&self) -> usize {
        16
    }

    fn generate(&self, request: GenerateRequest) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        Box::pin(async move {
            self.wait(&request.messages).await;
            let text = self.answer(&request)?;
            let completion_tokens = tokens(&text);
            Ok(Completion {
                text,
                finish: FinishReason::Stop,
                prompt_tokens: 1,
                cached_tokens: 0,
                completion_tokens,
                log_probs: Vec::new(),
            })
        })
    }

    fn stream(&self, request: GenerateRequest, _: TextSink) -> BoxFuture<'_, Result<Completion, GenerateError>> {
        self.generate(request)
    }

    fn score(&self, request: ScoreRequest) -> BoxFuture<'_, Result<Score, GenerateError>> {
        Box::pin(async move {
            self.wait(&request.messages).await;
            let text = &request.messages[request.messages.len() - 1].content;
            match self.fault {
                Fault::RefusesScore(word) if request.messages.iter().any(|message| message.content.contains(word)) => {
                    return Err(GenerateError::Refused { reason: "too long".into() });
                }
                Fault::NotANumber => return Ok(Score { tokens: 3, log_prob: f64::NAN, prompt_tokens: 3 }),
                _ => {}
            }
            Ok(Score { tokens: tokens(text), log_prob: self.log_prob(&request.messages), prompt_tokens: 1 })
        })
    }
}

fn character(index: usize) -> Character {
    let mut character = Character::from_name(&format!("Given{index}x Family{index}x"), "", "");
    character.persona = format!("Person number {index}");
    character.profile =
        Profile { general_experience: format!("Has always lived by fact{index}x in town"), ..character.profile };
    character
}

fn set(characters: usize, questions: usize) -> HeldOutSet {
    let characters: Vec<Character> = (0..characters).map(character).collect();
    let turn = |index| Turn { user: format!("what about topic{index}x?"), answer: None };
    let instructions = (0..questions).map(|index| Instruction::new(vec![turn(index)], "", "")).collect();
    let references = characters
        .iter()
        .enumerate()
        .map(|(index, character)| Dialogue {
            dialogue_id: format!("dialogue-{index}"),
            character_id: character.character_id.clone(),
            question_source: String::new(),
            strategy: None,
            messages: vec![Message::user("Who?"), Message::assistant(format!("fact{index}x and more"))],
            provenance: None,
        })
        .collect();
    HeldOutSet { characters, instructions, references }
}

fn quiet(_: &str, _: usize, _: usize) {}

async fn scores(base: &Scripted, tuned: &Scripted, set: &HeldOutSet) -> Scores {
    evaluate(base, tuned, set, &EvalOptions::default(), &quiet).await.unwrap()
}

fn means(scores: &Scores, kind: MeasureKind) -> (f64, f64) {
    let measure = scores.measure(kind).unwrap();
    (measure.base.unwrap().mean, measure.tuned.unwrap().mean)
}

#[tokio::test]
async fn a_perfect_player_is_identified_and_a_blind_one_is_at_chance() {
    let found = scores(&Scripted::new(Player::Blind), &Scripted::new(Player::Perfect), &set(40, 10)).await;
    let (base, tuned) = means(&found, MeasureKind::Identification);
    // 400 items at chance: a standard deviation of 0.022.
    assert!((0.18..=0.32).contains(&base), "{base}");
    assert!((tuned - 1.0).abs() < 1e-12, "{tuned}");
    let measure = found.measure(MeasureKind::Identification).unwrap();
    assert_eq!(measure.chance, Some(0.25));
    assert_eq!((measure.base.unwrap().n_items, measure.base.unwrap().n_characters), (400, 40));
    assert!(measure.difference.unwrap().excludes_zero());
    assert!(found.missing.is_empty());
}

#[tokio::test]
async fn a_name_alone_counts_only_until_it_is_masked() {
    let found = scores(&Scripted::new(Player::Blind), &Scripted::new(Player::NameOnly), &set(40, 10)).await;
    let (_, named) = means(&found, MeasureKind::Identification);
    let (_, masked) = means(&found, MeasureKind::IdentificationWithoutNames);
    assert!((named - 1.0).abs() < 1e-12, "{named}");
    assert!((0.18..=0.32).contains(&masked), "{masked}");
}

#[tokio::test]
async fn base_against_itself_differs_by_nothing() {
    let found = scores(&Scripted::new(Player::Perfect), &Scripted::new(Player::Perfect), &set(5, 2)).await;
    for measure in &found.measures {
        let difference = measure.difference.unwrap();
        assert_eq!((difference.mean, difference.low, difference.high), (0.0, Some(0.0), Some(0.0)), "{measure:?}");
    }
}

#[tokio::test]
async fn reference_loss_is_per_token_over_all_tokens() {
    let better = Scripted { loss: 1.0, ..Scripted::new(Player::Blind) };
    let found = scores(&Scripted::new(Player::Blind), &better, &set(6, 1)).await;
    let measure = found.measure(MeasureKind::ReferenceNll).unwrap();
    assert!((measure.difference.unwrap().mean + 1.0).abs() < 1e-9, "{measure:?}");
    assert_eq!(measure.higher_is_better, Some(false));
    assert_eq!(found.references.len(), 6);
}

#[tokio::test]
async fn references_are_likelier_as_the_right_character() {
    // Answers hold a fact of the profile, which is worth 5 nats; an answer has 4 tokens.
    let model = Scripted::new(Player::Perfect);
    let items = contrast_references(&model, &set(6, 1), &EvalOptions::default(), &quiet).await.unwrap();
    assert_eq!(items.len(), 6);
    for item in &items {
        let lead = item.value.unwrap();
        assert!((lead - 5.0 / 4.0).abs() < 1.0 / 4.0 + 1e-9 && item.weight == 4.0, "{item:?}");
    }
    let refusing = Scripted::with(Player::Perfect, Fault::RefusesScore("Person number 2"));
    let items = contrast_references(&refusing, &set(6, 1), &EvalOptions::default(), &quiet).await.unwrap();
    let (missing, scored): (Vec<_>, Vec<_>) = items.iter().partition(|item| item.value.is_none());
    assert!(!missing.is_empty() && missing.iter().all(|item| item.note.contains("too long")));
    assert!(!scored.is_empty() && scored.iter().all(|item| (item.value.unwrap() - 1.25).abs() < 0.26), "{scored:?}");
}

#[tokio::test]
async fn an_assistants_voice_is_counted() {
    let found = scores(&Scripted::new(Player::Assistant), &Scripted::new(Player::Perfect), &set(4, 2)).await;
    assert_eq!(means(&found, MeasureKind::BreakCharacter), (1.0, 0.0));
    assert!(found.answers[0].base.as_ref().unwrap().broken_character.contains(&"as an ai".to_owned()));
}

#[tokio::test]
async fn a_refused_answer_is_missing_and_never_zero() {
    let tuned = Scripted::with(Player::Perfect, Fault::RefusesQuestion("topic1x"));
    let found = scores(&Scripted::new(Player::Blind), &tuned, &set(5, 4)).await;
    for kind in
        [MeasureKind::Identification, MeasureKind::BreakCharacter, MeasureKind::AnswerWords, MeasureKind::Distinct1]
    {
        let measure = found.measure(kind).unwrap();
        assert_eq!(measure.missing_tuned, 5, "{kind:?}");
        assert_eq!(measure.tuned.unwrap().n_items, 15, "{kind:?}");
        assert_eq!(measure.difference.unwrap().n_items, 15, "{kind:?}");
    }
    assert!((means(&found, MeasureKind::Identification).1 - 1.0).abs() < 1e-12);
    assert_eq!(found.missing.len(), 5);
    assert!(found.missing.iter().all(|row| row.stage == "tuned answers" && row.reason == "too long"));
}

#[tokio::test]
async fn a_refused_score_leaves_no_verdict() {
    // The scorer refuses one profile: every choice with that profile in it is missing, not easier.
    let base = Scripted::with(Player::Blind, Fault::RefusesScore("Person number 2"));
    let found = scores(&base, &Scripted::new(Player::Perfect), &set(6, 3)).await;
    let measure = found.measure(MeasureKind::Identification).unwrap();
    assert!(measure.missing_tuned >= 3, "{measure:?}");
    assert_eq!(measure.tuned.unwrap().n_items + measure.missing_tuned, 18);
    assert!((measure.tuned.unwrap().mean - 1.0).abs() < 1e-12);
    assert_eq!(found.measure(MeasureKind::BreakCharacter).unwrap().missing_tuned, 0);
}

#[tokio::test]
async fn scores_that_are_no_numbers_are_missing() {
    let base = Scripted::with(Player::Blind, Fault::NotANumber);
    let found = scores(&base, &Scripted::new(Player::Perfect), &set(4, 1)).await;
    let measure = found.measure(MeasureKind::Identification).unwrap();
    assert_eq!((measure.base, measure.tuned, measure.missing_base), (None, None, 4));
    // JSON has no NaN: what is written can be read.
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Scores>(&json).unwrap(), found);
}

#[tokio::test]
async fn a_model_that_cannot_be_reached_ends_the_evaluation() {
    let tuned = Scripted::with(Player::Perfect, Fault::Unavailable("topic0x"));
    let base = Scripted::new(Player::Blind);
    let error = evaluate(&base, &tuned, &set(4, 2), &EvalOptions::default(), &quiet).await.unwrap_err();
    assert!(matches!(&error, EvalError::Model { stage, .. } if stage == "tuned answers"), "{error}");
    assert!(error.to_string().contains("run again"), "{error}");
}

#[tokio::test]
async fn latency_and_the_sets_order_change_no_score() {
    let mut reordered = set(6, 5);
    let expected = scores(&Scripted::new(Player::Blind), &Scripted::new(Player::Perfect), &reordered).await;
    let slow = |player, seed| Scripted { latency: Some(seed), ..Scripted::new(player) };
    assert_eq!(scores(&slow(Player::Blind, 1), &slow(Player::Perfect, 2), &reordered).await, expected);
    reordered.characters.reverse();
    reordered.instructions.reverse();
    let found = scores(&slow(Player::Blind, 3), &slow(Player::Perfect, 4), &reordered).await;
    assert_eq!(found.measures, expected.measures);
}

#[tokio::test]
async fn questions_are_drawn_for_each_character() {
    let options = EvalOptions { questions_per_character: 2, ..EvalOptions::default() };
    let set = set(5, 8);
    let items = set.items(&options);
    assert_eq!(items.len(), 10);
    assert_eq!(items, set.items(&options));
}

#[tokio::test]
async fn progress_reaches_its_total_at_every_stage() {
    let seen = Mutex::new(std::collections::BTreeMap::new());
    let progress = |stage: &str, done: usize, total: usize| {
        seen.lock().unwrap().insert(stage.to_owned(), (done, total));
    };
    let (base, tuned) = (Scripted::new(Player::Blind), Scripted::new(Player::NameOnly));
    evaluate(&base, &tuned, &set(5, 2), &EvalOptions::default(), &progress).await.unwrap();
    let seen = seen.into_inner().unwrap();
    assert_eq!(seen.len(), 8, "{seen:?}");
    assert!(seen.values().all(|(done, total)| done == total), "{seen:?}");
    assert_eq!(seen["tuned identification without names"], (40, 40));
}

#[tokio::test]
async fn impossible_sets_are_refused_before_any_call() {
    let model = Scripted::with(Player::Blind, Fault::Unavailable(""));
    let refuse = async |set: &HeldOutSet| {
        evaluate(&model, &model, set, &EvalOptions::default(), &quiet).await.unwrap_err().to_string()
    };
    assert!(refuse(&HeldOutSet::default()).await.contains("no characters"));
    assert!(refuse(&set(3, 1)).await.contains("needs 4 held-out characters, found 3"));
    let mut twice = set(4, 1);
    twice.characters.push(twice.characters[0].clone());
    assert!(refuse(&twice).await.contains("twice"));
    let mut stranger = set(4, 1);
    stranger.references[0].character_id = "character-of-training".into();
    assert!(refuse(&stranger).await.contains("not held out"));
    let mut mute = set(4, 1);
    mute.references[0].messages.retain(|message| message.role != Role::Assistant);
    assert!(refuse(&mute).await.contains("no assistant message"));
}

#[test]
fn the_evaluation_can_run_on_any_thread() {
    fn sendable<T: Send>(_: T) {}
    let (base, tuned) = (Scripted::new(Player::Blind), Scripted::new(Player::Blind));
    let (set, options) = (set(4, 1), EvalOptions::default());
    sendable(evaluate(&base, &tuned, &set, &options, &quiet));
}

use opencharacter_core::{Generate, Message, Score, ScoreRequest};

use crate::{
    Candidate, EvalError, EvalOptions, Identification, Item, Prompts,
    calls::{CallOutcome, Progress},
    distractors::Distractors,
    likelihood::score_all,
};

/// Who wrote it? For each answer, its log-probability under the right profile and under the distractors', by one
/// fixed `scorer`; outcomes in the order of `items`, `None` where there is no answer to identify.
///
/// The same answer is scored under every profile, so how likely it is in general cancels out. It shows how much of
/// the profile a reader as good as the scorer finds in the answer, whether in facts, in voice or in the name (see
/// [`crate::NameMask`]). It cannot show that the answer is good: one that recites its profile is found at once. A weak
/// scorer also misses what a careful reader would see. Distractors drawn at random are easier to tell apart than near
/// ones ([`crate::DistractorChoice`]).
pub async fn identify_authors(
    scorer: &dyn Generate,
    stage: &str,
    prompts: &Prompts<'_>,
    items: &[Item],
    answers: &[Option<&str>],
    options: &EvalOptions,
    progress: &Progress<'_>,
) -> Result<Vec<Option<CallOutcome<Identification>>>, EvalError> {
    let mut calls = planned_calls(prompts, items, answers, options);
    // Calls under one profile follow one another, so that an engine's prefix cache holds its system prompt.
    calls.sort_by_key(|call| call.profile);
    let jobs = calls
        .iter()
        .filter_map(|call| {
            let mut messages = prompts.ask(&items[call.item], call.profile);
            messages.push(Message::assistant(answers[call.item]?));
            Some((items[call.item].item_id.clone(), ScoreRequest { messages }))
        })
        .collect();
    let scores = score_all(scorer, stage, jobs, progress).await?;
    let mut by_item: Vec<Vec<(Call, CallOutcome<Score>)>> = items.iter().map(|_| Vec::new()).collect();
    for (call, score) in calls.into_iter().zip(scores) {
        by_item[call.item].push((call, score));
    }
    Ok(by_item.into_iter().map(|calls| (!calls.is_empty()).then(|| verdict(prompts, calls))).collect())
}

/// One answer under one profile. Place 0 is the right profile.
struct Call {
    item: usize,
    place: usize,
    profile: usize,
}

fn planned_calls(prompts: &Prompts<'_>, items: &[Item], answers: &[Option<&str>], options: &EvalOptions) -> Vec<Call> {
    let mut calls = Vec::new();
    let distractors = Distractors::new(&prompts.set().characters, options);
    for (index, (item, _)) in items.iter().zip(answers).enumerate().filter(|(_, (_, answer))| answer.is_some()) {
        let profiles = std::iter::once(item.character).chain(distractors.of(&item.item_id, item.character));
        calls.extend(profiles.enumerate().map(|(place, profile)| Call { item: index, place, profile }));
    }
    calls
}

/// One refused score leaves the item without a verdict: a choice among fewer profiles would be an easier one.
fn verdict(prompts: &Prompts<'_>, mut calls: Vec<(Call, CallOutcome<Score>)>) -> CallOutcome<Identification> {
    calls.sort_by_key(|(call, _)| call.place);
    let mut candidates = Vec::with_capacity(calls.len());
    let mut tokens = 0;
    for (call, score) in calls {
        let score = score?;
        if call.place == 0 {
            tokens = score.tokens;
        }
        let character_id = prompts.set().characters[call.profile].character_id.clone();
        candidates.push(Candidate { character_id, log_prob: score.log_prob });
    }
    Ok(Identification::new(candidates, tokens))
}

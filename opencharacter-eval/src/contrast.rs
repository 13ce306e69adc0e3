use opencharacter_core::{Dialogue, Generate, Message, Role, Score, ScoreRequest, short_id};

use crate::{
    EvalError, EvalItem, EvalOptions, HeldOutSet, PromptKind, Prompts, Reply,
    calls::{CallOutcome, Progress},
    distractors::Distractors,
    likelihood::score_all,
};

/// How much likelier `model` finds the set's reference answers as the right character than as wrong ones: items whose
/// value is the lead, in nats per token, of the right profile over the mean of `options.distractors` wrong ones.
///
/// What is likely of an answer in general cancels out, so it shows whether the model ties what is said to who says it. It
/// cannot show that the model's own answers do: it is given the teacher's. References without a held-out character are
/// left out.
///
/// # Errors
/// As [`crate::evaluate`].
pub async fn contrast_references(
    model: &dyn Generate,
    set: &HeldOutSet,
    options: &EvalOptions,
    progress: &Progress<'_>,
) -> Result<Vec<EvalItem>, EvalError> {
    set.check(options)?;
    let prompts = Prompts::new(set, &options.system_prompt)?;
    let distractors = Distractors::new(&set.characters, options);
    let mut jobs = Vec::new();
    let mut planned: Vec<(&Dialogue, usize, Vec<usize>)> = Vec::new();
    for dialogue in &set.references {
        let Some(character) = prompts.place(&dialogue.character_id) else { continue };
        let wrong = distractors.of(&dialogue.dialogue_id, character);
        let right = prompts.reference(dialogue)?;
        jobs.push((dialogue.dialogue_id.clone(), ScoreRequest { messages: right.clone() }));
        for &other in &wrong {
            let mut messages = vec![Message::system(prompts.text(other))];
            messages.extend(right.iter().filter(|message| message.role != Role::System).cloned());
            jobs.push((dialogue.dialogue_id.clone(), ScoreRequest { messages }));
        }
        planned.push((dialogue, character, wrong));
    }
    let mut scores = score_all(model, "likelihood contrast", jobs, progress).await?.into_iter();
    let items = planned.into_iter().map(|(dialogue, character, wrong)| {
        // All of them are taken before the first failure counts, or the next dialogue would get what is left.
        let own: Vec<CallOutcome<Score>> = scores.by_ref().take(wrong.len() + 1).collect();
        item(set, dialogue, character, &own.into_iter().collect())
    });
    Ok(items.collect())
}

fn item(set: &HeldOutSet, dialogue: &Dialogue, character: usize, scored: &CallOutcome<Vec<Score>>) -> EvalItem {
    let character = &set.characters[character];
    let item_id = short_id("contrast", &[&dialogue.dialogue_id]);
    let said = |role: Role| dialogue.messages.iter().rev().find(|message| message.role == role);
    let text = |role: Role| said(role).map_or("", |message| message.content.as_str());
    let description = PromptKind::Both.describe(character);
    let mut item = EvalItem::new(item_id, "likelihood contrast", character, description, None, text(Role::User));
    item.answer = Reply::Answered { text: text(Role::Assistant).to_owned(), cut_off: false };
    match scored.as_ref().map(Vec::as_slice) {
        Ok([right, wrong @ ..]) if !wrong.is_empty() => {
            let mean = wrong.iter().map(|score| score.log_prob).sum::<f64>() / wrong.len() as f64;
            let tokens = right.tokens.max(1) as f64;
            (item.value, item.weight) = (Some((right.log_prob - mean) / tokens), tokens);
            item.note =
                format!("log-probability {:.2} as the right character, {mean:.2} as wrong ones", right.log_prob);
        }
        Ok(_) => "no wrong character to compare with".clone_into(&mut item.note),
        Err(reason) => item.note = format!("no likelihood: {reason}"),
    }
    item
}

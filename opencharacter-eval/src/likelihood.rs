use opencharacter_core::{Generate, Score, ScoreRequest};

use crate::{
    EvalError, Prompts,
    calls::{CallOutcome, Job, Progress, call_all},
};

/// How likely the model finds every reference dialogue of the set; outcomes in the set's order.
///
/// A lower likelihood loss shows that the model has come nearer to the teacher's way of answering as these
/// characters. It cannot show that its own answers are good: a model that learnt only the teacher's style falls too.
pub async fn score_references(
    model: &dyn Generate,
    stage: &str,
    prompts: &Prompts<'_>,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<Score>>, EvalError> {
    let jobs = prompts
        .set()
        .references
        .iter()
        .map(|dialogue| Ok((dialogue.dialogue_id.clone(), ScoreRequest { messages: prompts.reference(dialogue)? })))
        .collect::<Result<Vec<_>, EvalError>>()?;
    score_all(model, stage, jobs, progress).await
}

/// Scores all `jobs`; a score that is no number is a missing one.
pub(crate) async fn score_all(
    model: &dyn Generate,
    stage: &str,
    jobs: Vec<Job<ScoreRequest>>,
    progress: &Progress<'_>,
) -> Result<Vec<CallOutcome<Score>>, EvalError> {
    let outcomes = call_all(model, stage, jobs, |model, request| model.score(request), progress).await?;
    Ok(outcomes.into_iter().map(|outcome| outcome.and_then(usable)).collect())
}

fn usable(score: Score) -> CallOutcome<Score> {
    if score.tokens == 0 {
        return Err("the model scored no token".to_owned());
    }
    if !score.log_prob.is_finite() {
        return Err(format!("the model's log-probability is not finite: {}", score.log_prob));
    }
    Ok(score)
}

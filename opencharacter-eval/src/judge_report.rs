use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    EvalItem, JudgeTrial, PlantedKind, Unit, Verdict, VerdictOutcome,
    statistics::{Estimate, Ratings, Ratio, Resampling, estimate, krippendorff_alpha},
};

/// What a judge is worth.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeReport {
    /// The judge.
    pub judge: String,
    /// Verdicts asked for.
    pub asked: usize,
    /// Of them, answered in a way that could not be read.
    pub unreadable: usize,
    /// Of them, not to be had.
    pub failed: usize,
    /// The mean of its scores.
    pub mean: Option<Estimate>,
    /// Krippendorff's alpha between its first and its second verdict on the same answers; `None` where it was not
    /// tried, or gave one score only.
    pub retest: Option<Estimate>,
    /// How often it ranked planted answers below real ones, by kind.
    pub planted: Vec<PlantedScore>,
    /// What follows.
    pub fitness: Fitness,
}

/// How a judge did on one kind of planted answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlantedScore {
    /// The kind.
    pub kind: PlantedKind,
    /// The share of planted answers that it scored below the real one in their place, a tie being half; chance is 0.5.
    pub below: Option<Estimate>,
    /// Planted answers that it was asked about.
    pub cases: usize,
    /// Of them, without a verdict on either answer.
    pub missing: usize,
}

/// Whether a judge's scores mean anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case")]
pub enum Fitness {
    /// It was not tried on planted answers, or on too few characters.
    Untested,
    /// It ranked planted answers of each kind below real ones: at least three times in four, and more often than chance.
    Fit,
    /// It did not.
    Unfit {
        /// In what it failed.
        reasons: Vec<String>,
    },
}

/// A judge must rank planted answers below real ones this often.
const LEAST_BELOW: f64 = 0.75;

impl JudgeReport {
    /// What to say beside every score that the judge gave; nothing where it is fit.
    pub fn warning(&self) -> Option<String> {
        match &self.fitness {
            Fitness::Fit => None,
            Fitness::Untested => Some(format!(
                "The judge {} was not tried on planted bad answers: its scores may mean nothing.",
                self.judge
            )),
            Fitness::Unfit { reasons } => Some(format!(
                "The judge {} is UNFIT: {}. Scores it gave do not tell good answers from bad ones.",
                self.judge,
                reasons.join("; ")
            )),
        }
    }

    /// The share of verdicts that could not be had or read.
    pub fn missing_rate(&self) -> f64 {
        (self.unreadable + self.failed) as f64 / self.asked.max(1) as f64
    }
}

/// A report on every judge that gave verdicts on `items`, and the agreement among them where there are several.
pub fn judge_reports(
    items: &[EvalItem],
    trial: Option<&JudgeTrial>,
    resampling: &Resampling,
) -> (Vec<JudgeReport>, Option<Estimate>) {
    let mut names: Vec<&str> = Vec::new();
    for verdict in items.iter().flat_map(|item| &item.verdicts) {
        if !names.contains(&verdict.judge.as_str()) {
            names.push(&verdict.judge);
        }
    }
    let agreement = (names.len() > 1).then(|| {
        let ratings = |item: &EvalItem| Ratings {
            cluster: item.cluster.clone(),
            ratings: names.iter().map(|name| score_of(&item.verdicts, name)).collect(),
        };
        krippendorff_alpha(&items.iter().map(ratings).collect::<Vec<_>>(), resampling)
    });
    let reports = names.iter().map(|name| report(name, items, trial, resampling)).collect();
    (reports, agreement.flatten())
}

fn score_of(verdicts: &[Verdict], judge: &str) -> Option<u8> {
    verdicts.iter().find(|verdict| verdict.judge == judge)?.score()
}

fn report(judge: &str, items: &[EvalItem], trial: Option<&JudgeTrial>, resampling: &Resampling) -> JudgeReport {
    let verdicts: Vec<(&str, &Verdict)> = items
        .iter()
        .flat_map(|item| item.verdicts.iter().map(|verdict| (item.cluster.as_str(), verdict)))
        .filter(|(_, verdict)| verdict.judge == judge)
        .collect();
    let count =
        |test: fn(&VerdictOutcome) -> bool| verdicts.iter().filter(|(_, verdict)| test(&verdict.outcome)).count();
    let scores =
        verdicts.iter().filter_map(|(cluster, verdict)| Some((*cluster, Ratio::value(verdict.score()?.into()))));
    let planted = trial.map_or_else(Vec::new, |trial| planted_scores(judge, trial, resampling));
    JudgeReport {
        judge: judge.to_owned(),
        asked: verdicts.len(),
        unreadable: count(|outcome| matches!(outcome, VerdictOutcome::Unreadable { .. })),
        failed: count(|outcome| matches!(outcome, VerdictOutcome::Failed { .. })),
        mean: estimate(scores, resampling).map(|estimate| Unit::Grade.within_range(estimate)),
        retest: trial.and_then(|trial| retest(judge, trial, resampling)),
        fitness: fitness(&planted),
        planted,
    }
}

fn retest(judge: &str, trial: &JudgeTrial, resampling: &Resampling) -> Option<Estimate> {
    let ratings: Vec<Ratings> = trial
        .retests
        .iter()
        .map(|retest| Ratings {
            cluster: retest.cluster.clone(),
            ratings: vec![score_of(&retest.first, judge), score_of(&retest.second, judge)],
        })
        .collect();
    krippendorff_alpha(&ratings, resampling)
}

fn planted_scores(judge: &str, trial: &JudgeTrial, resampling: &Resampling) -> Vec<PlantedScore> {
    let score = |kind| {
        let cases: Vec<_> = trial.planted.iter().filter(|case| case.kind == kind).collect();
        let credits: Vec<(&str, Ratio)> = cases
            .iter()
            .filter_map(|case| {
                let (real, planted) = (score_of(&case.real, judge)?, score_of(&case.planted, judge)?);
                let credit = match planted.cmp(&real) {
                    Ordering::Less => 1.0,
                    Ordering::Equal => 0.5,
                    Ordering::Greater => 0.0,
                };
                Some((case.cluster.as_str(), Ratio::value(credit)))
            })
            .collect();
        let missing = cases.len() - credits.len();
        let below = estimate(credits, resampling).map(|estimate| Unit::Share.within_range(estimate));
        PlantedScore { kind, below, cases: cases.len(), missing }
    };
    PlantedKind::ALL.into_iter().map(score).filter(|score| score.cases > 0).collect()
}

fn fitness(planted: &[PlantedScore]) -> Fitness {
    let mut reasons = Vec::new();
    let mut is_untested = planted.is_empty();
    for score in planted {
        match &score.below {
            None => reasons.push(format!("no readable verdicts on {}", score.kind.title())),
            Some(Estimate { low: None, .. }) => is_untested = true,
            Some(Estimate { mean, low: Some(low), .. }) if *mean < LEAST_BELOW || *low <= 0.5 => reasons.push(format!(
                "it ranked {} below the real one in {:.0}% of {} cases (chance is 50%)",
                score.kind.title(),
                100.0 * mean,
                score.cases - score.missing
            )),
            Some(_) => {}
        }
    }
    match (reasons.is_empty(), is_untested) {
        (false, _) => Fitness::Unfit { reasons },
        (true, true) => Fitness::Untested,
        (true, false) => Fitness::Fit,
    }
}

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    EvalError, EvalItem, JudgeReport, OverlapReport, Reply, Unit,
    item::no_duplicate_items,
    statistics::{
        Difference, Estimate, Pair, Ratio, Resampling, difference, difference_of_tasks, estimate, holm, mean_of_tasks,
    },
};

/// Which benchmark a set of scores is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Benchmark {
    /// Five tasks, answers judged from 1 to 5.
    PersonaGym,
    /// Rouge-L against reference answers.
    RoleBench,
    /// Facts of the profile after many turns.
    Conversation,
    /// Plain questions whose instructions a rule can check.
    InstructionFollowing,
    /// Harmful and harmless requests in character.
    Refusal,
    /// Reference answers under right and wrong profiles.
    Contrast,
}

impl Benchmark {
    /// A name for readers.
    pub fn title(self) -> &'static str {
        match self {
            Self::PersonaGym => "PersonaGym",
            Self::RoleBench => "RoleBench",
            Self::Conversation => "Many turns",
            Self::InstructionFollowing => "Instruction following",
            Self::Refusal => "Refusal in character",
            Self::Contrast => "Likelihood contrast",
        }
    }

    /// What the values of its items count.
    pub fn unit(self) -> Unit {
        match self {
            Self::PersonaGym => Unit::Grade,
            Self::RoleBench => Unit::FMeasure,
            Self::Conversation | Self::InstructionFollowing | Self::Refusal => Unit::Share,
            Self::Contrast => Unit::NatsPerToken,
        }
    }

    /// Scores over several tasks: a name, and the tasks whose mean it is.
    fn composites(self, tasks: &[String]) -> Vec<(&'static str, Vec<usize>)> {
        let all: Vec<usize> = (0..tasks.len()).collect();
        if tasks.len() < 2 {
            return Vec::new();
        }
        match self {
            Self::PersonaGym => {
                let others = all.iter().copied().filter(|&task| tasks[task] != "Toxicity").collect();
                vec![("PersonaScore", all), ("PersonaScore without Toxicity", others)]
            }
            // Refusing everything is good at the one task and bad at the other: no mean of the two means anything.
            Self::Refusal => Vec::new(),
            Self::RoleBench | Self::Conversation | Self::InstructionFollowing | Self::Contrast => {
                vec![("Mean of the tasks", all)]
            }
        }
    }
}

/// What a run of a benchmark found: `scores.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchmarkScores {
    /// Version of this layout: 1.
    pub format: u32,
    /// Which one.
    pub benchmark: Benchmark,
    /// What the run was asked to do, by name: mode, prompt, seed, limit and the like.
    pub settings: BTreeMap<String, String>,
    /// Fingerprint of the model under test.
    pub model: String,
    /// One row per task, in the items' order.
    pub tasks: Vec<TaskScore>,
    /// Means over tasks, each task counting alike.
    pub composites: Vec<CompositeScore>,
    /// The value by turn, for items that have one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<CurvePoint>,
    /// What the judges are worth. One that is not fit makes every score above doubtful.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub judges: Vec<JudgeReport>,
    /// Krippendorff's alpha (ordinal) among the judges, where there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Estimate>,
    /// Whether the model was trained on what it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<OverlapReport>,
}

/// One task's score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskScore {
    /// The task.
    pub task: String,
    /// What its value counts.
    pub unit: Unit,
    /// The mean over items; `None` where no item has a value.
    pub estimate: Option<Estimate>,
    /// Items asked.
    pub items: usize,
    /// Of them, without an answer.
    pub without_answer: usize,
    /// Of those answered, without a value.
    pub without_value: usize,
    /// Answers ended by the token limit.
    pub cut_off: usize,
}

/// The mean over several tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompositeScore {
    /// Its name.
    pub name: String,
    /// The tasks behind it.
    pub tasks: Vec<String>,
    /// The mean; `None` where a task has no value.
    pub estimate: Option<Estimate>,
}

/// A task's value after so many turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The task.
    pub task: String,
    /// Turns of the conversation before the question.
    pub turn: u32,
    /// The value.
    pub estimate: Estimate,
}

impl BenchmarkScores {
    /// Scores `items`, whose values are set.
    ///
    /// # Errors
    /// [`EvalError::Duplicate`] where two items have the same id.
    pub fn new(
        benchmark: Benchmark,
        model: &str,
        settings: BTreeMap<String, String>,
        items: &[EvalItem],
        resampling: &Resampling,
    ) -> Result<Self, EvalError> {
        no_duplicate_items(items)?;
        let names = task_names(items);
        let tasks = names.iter().map(|task| task_score(benchmark.unit(), task, items, resampling)).collect();
        let composites = benchmark
            .composites(&names)
            .into_iter()
            .map(|(name, places)| {
                let tasks: Vec<String> = places.iter().map(|&place| names[place].clone()).collect();
                let values = values(items).filter_map(|(item, value)| Some((place(&tasks, item)?, item, value)));
                let values = values.map(|(task, item, value)| (task, item.cluster.as_str(), value));
                CompositeScore {
                    name: name.to_owned(),
                    estimate: mean_of_tasks(values, tasks.len(), resampling)
                        .map(|estimate| benchmark.unit().within_range(estimate)),
                    tasks,
                }
            })
            .collect();
        Ok(Self {
            format: 1,
            benchmark,
            settings,
            model: model.to_owned(),
            tasks,
            composites,
            drift: drift(benchmark.unit(), &names, items, resampling),
            judges: Vec::new(),
            agreement: None,
            overlap: None,
        })
    }

    /// What must be said beside every score: judges that are not fit, and items of which the model has seen part.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.judges.iter().filter_map(JudgeReport::warning).collect();
        warnings.extend(self.overlap.as_ref().and_then(OverlapReport::warning));
        warnings
    }
}

fn task_names(items: &[EvalItem]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for item in items {
        if !names.contains(&item.task) {
            names.push(item.task.clone());
        }
    }
    names
}

fn place(tasks: &[String], item: &EvalItem) -> Option<usize> {
    tasks.iter().position(|task| *task == item.task)
}

fn values(items: &[EvalItem]) -> impl Iterator<Item = (&EvalItem, Ratio)> {
    items.iter().filter_map(|item| Some((item, Ratio::weighted(item.value?, item.weight))))
}

fn task_score(unit: Unit, task: &str, items: &[EvalItem], resampling: &Resampling) -> TaskScore {
    let items: Vec<&EvalItem> = items.iter().filter(|item| item.task == task).collect();
    let count = |test: &dyn Fn(&EvalItem) -> bool| items.iter().filter(|item| test(item)).count();
    let answered = |item: &EvalItem| matches!(item.answer, Reply::Answered { .. });
    let weighted =
        items.iter().filter_map(|item| Some((item.cluster.as_str(), Ratio::weighted(item.value?, item.weight))));
    TaskScore {
        task: task.to_owned(),
        unit,
        estimate: estimate(weighted, resampling).map(|estimate| unit.within_range(estimate)),
        items: items.len(),
        without_answer: count(&|item| !answered(item)),
        without_value: count(&|item| answered(item) && item.value.is_none()),
        cut_off: count(&|item| matches!(item.answer, Reply::Answered { cut_off: true, .. })),
    }
}

fn drift(unit: Unit, tasks: &[String], items: &[EvalItem], resampling: &Resampling) -> Vec<CurvePoint> {
    let mut points: BTreeMap<(usize, u32), Vec<(&str, Ratio)>> = BTreeMap::new();
    for (item, value) in values(items) {
        if let (Some(task), Some(turn)) = (place(tasks, item), item.turn) {
            points.entry((task, turn)).or_default().push((&item.cluster, value));
        }
    }
    points
        .into_iter()
        .filter_map(|((task, turn), values)| {
            let estimate = unit.within_range(estimate(values, resampling)?);
            Some(CurvePoint { task: tasks[task].clone(), turn, estimate })
        })
        .collect()
}

/// Two runs on the same items, or two ways to score the same answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Version of this layout: 1.
    pub format: u32,
    /// Which benchmark.
    pub benchmark: Benchmark,
    /// What the first side is.
    pub first: String,
    /// What the second side is.
    pub second: String,
    /// One row per task.
    pub tasks: Vec<ComparisonRow>,
    /// Means over tasks.
    pub composites: Vec<ComparisonRow>,
    /// Items that only the first side has.
    pub only_first: usize,
    /// Items that only the second side has.
    pub only_second: usize,
}

/// One score of both sides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// The task, or the mean over tasks.
    pub name: String,
    /// What its value counts.
    pub unit: Unit,
    /// The first side, on the items that both have.
    pub first: Option<Estimate>,
    /// The second side, on the items that both have.
    pub second: Option<Estimate>,
    /// Second minus first.
    pub difference: Option<Difference>,
    /// The difference's p-value after Holm's correction over the tasks; means over tasks are not corrected.
    pub p_holm: Option<f64>,
}

/// Compares two lists of items, paired by id: two models, two prompts, or two modes of judging the same answers.
///
/// # Errors
/// [`EvalError::Duplicate`], or [`EvalError::NothingInCommon`] where no item of the one is in the other.
pub fn compare(
    benchmark: Benchmark,
    first: (&str, &[EvalItem]),
    second: (&str, &[EvalItem]),
    resampling: &Resampling,
) -> Result<Comparison, EvalError> {
    no_duplicate_items(first.1)?;
    no_duplicate_items(second.1)?;
    let by_id: HashMap<&str, &EvalItem> = second.1.iter().map(|item| (item.item_id.as_str(), item)).collect();
    let both: Vec<(&EvalItem, &EvalItem)> =
        first.1.iter().filter_map(|item| Some((item, *by_id.get(item.item_id.as_str())?))).collect();
    if both.is_empty() {
        return Err(EvalError::NothingInCommon { first: first.0.to_owned(), second: second.0.to_owned() });
    }
    let names = task_names(first.1);
    let pairs: Vec<(usize, Pair)> =
        both.iter().filter_map(|pair| Some((place(&names, pair.0)?, pair_of(pair)))).collect();
    let mut tasks: Vec<ComparisonRow> = names
        .iter()
        .enumerate()
        .map(|(task, name)| {
            let pairs: Vec<Pair> = pairs.iter().filter(|(of, _)| *of == task).map(|(_, pair)| pair.clone()).collect();
            let side = |value: fn(&Pair) -> Option<Ratio>| {
                let values = complete(&pairs).filter_map(|pair| Some((pair.cluster.as_str(), value(pair)?)));
                estimate(values, resampling).map(|estimate| benchmark.unit().within_range(estimate))
            };
            ComparisonRow {
                name: name.clone(),
                unit: benchmark.unit(),
                first: side(|pair| pair.base),
                second: side(|pair| pair.tuned),
                difference: difference(&pairs, resampling),
                p_holm: None,
            }
        })
        .collect();
    let p_values: Vec<Option<f64>> = tasks.iter().map(|row| row.difference?.p).collect();
    for (row, p) in tasks.iter_mut().zip(holm(&p_values)) {
        row.p_holm = p;
    }
    let composites = benchmark
        .composites(&names)
        .into_iter()
        .map(|(name, places)| composite_row(benchmark.unit(), name, &places, &pairs, resampling))
        .collect();
    Ok(Comparison {
        format: 1,
        benchmark,
        first: first.0.to_owned(),
        second: second.0.to_owned(),
        tasks,
        composites,
        only_first: first.1.len() - both.len(),
        only_second: second.1.len() - both.len(),
    })
}

fn composite_row(
    unit: Unit,
    name: &str,
    places: &[usize],
    pairs: &[(usize, Pair)],
    resampling: &Resampling,
) -> ComparisonRow {
    let chosen: Vec<(usize, &Pair)> = pairs
        .iter()
        .filter(|(_, pair)| pair.base.is_some() && pair.tuned.is_some())
        .filter_map(|(task, pair)| Some((places.iter().position(|place| place == task)?, pair)))
        .collect();
    let side = |value: fn(&Pair) -> Option<Ratio>| {
        let values = chosen.iter().filter_map(|(task, pair)| Some((*task, pair.cluster.as_str(), value(pair)?)));
        mean_of_tasks(values, places.len(), resampling).map(|estimate| unit.within_range(estimate))
    };
    ComparisonRow {
        name: name.to_owned(),
        unit,
        first: side(|pair| pair.base),
        second: side(|pair| pair.tuned),
        difference: difference_of_tasks(chosen.iter().copied(), places.len(), resampling),
        p_holm: None,
    }
}

fn complete(pairs: &[Pair]) -> impl Iterator<Item = &Pair> {
    pairs.iter().filter(|pair| pair.base.is_some() && pair.tuned.is_some())
}

fn pair_of((first, second): &(&EvalItem, &EvalItem)) -> Pair {
    let ratio = |item: &EvalItem| Some(Ratio::weighted(item.value?, item.weight));
    Pair { cluster: first.cluster.clone(), base: ratio(first), tuned: ratio(second) }
}

use opencharacter_core::{Character, Completion, FinishReason, Generate, Score};

use crate::{
    AnswerRow, EvalError, EvalOptions, HeldOutSet, Identification, Item, Measure, MeasureKind, Missing, ModelAnswer,
    NameMask, Prompts, ReferenceRow, Scores, broken_character_phrases,
    calls::{CallOutcome, Progress},
    diversity::{DistinctShare, WordPair, distinct_shares, equal_length},
    identify_authors, sample_answers, score_references,
    statistics::{Pair, Ratio, Resampling, difference, estimate},
    word_count,
};

/// Measures `base` and `tuned` on what neither was trained on; `base` is also the scorer of identification.
///
/// Both get the same prompts and the same seed per item. A refused item is missing in the scores; a model that cannot
/// be reached ends the evaluation with [`EvalError::Model`], and calling again goes on where it stopped if the models
/// given consult a ledger. The result does not depend on the order in which calls end.
pub async fn evaluate(
    base: &dyn Generate,
    tuned: &dyn Generate,
    set: &HeldOutSet,
    options: &EvalOptions,
    progress: &Progress<'_>,
) -> Result<Scores, EvalError> {
    set.check(options)?;
    let prompts = Prompts::new(set, &options.system_prompt)?;
    let items = set.items(options);
    let mut missing = Vec::new();

    let mut likelihoods = Vec::new();
    let mut answers = Vec::new();
    for (model, who) in [(base, "base"), (tuned, "tuned")] {
        let stage = format!("{who} references");
        let scores = score_references(model, &stage, &prompts, progress).await?;
        let ids = set.references.iter().map(|dialogue| dialogue.dialogue_id.as_str());
        likelihoods.push(split_missing(&stage, ids, scores, &mut missing));

        let stage = format!("{who} answers");
        let completions = sample_answers(model, &stage, &prompts, &items, options, progress).await?;
        let completions = split_missing(&stage, item_ids(&items), completions, &mut missing);
        let subject = Subject { who, scorer: base, prompts: &prompts, items: &items, options };
        answers.push(subject.measured(completions, &mut missing, progress).await?);
    }
    let tuned_answers = answers.pop().unwrap_or_default();
    let rows = answer_rows(set, &items, answers.pop().unwrap_or_default(), tuned_answers);
    let tuned_likelihoods = likelihoods.pop().unwrap_or_default();
    let references = Likelihoods { set, base: likelihoods.pop().unwrap_or_default(), tuned: tuned_likelihoods };

    Ok(Scores {
        format: 1,
        base_model: base.fingerprint().to_owned(),
        tuned_model: tuned.fingerprint().to_owned(),
        seed: options.seed,
        sampling: options.sampling.clone(),
        distractors: options.distractors,
        system_prompt_hash: options.system_prompt.template().hash(),
        resamples: options.resampling.resamples,
        characters: set.characters.len(),
        instructions: set.instructions.len(),
        measures: all_measures(&rows, &references, options),
        answers: rows,
        references: references.rows(),
        missing,
    })
}

fn item_ids(items: &[Item]) -> impl Iterator<Item = &str> {
    items.iter().map(|item| item.item_id.as_str())
}

/// Moves the reasons of failed outcomes to `missing` and leaves `None` in their place.
fn split_missing<'a, T>(
    stage: &str,
    ids: impl Iterator<Item = &'a str>,
    outcomes: Vec<CallOutcome<T>>,
    missing: &mut Vec<Missing>,
) -> Vec<Option<T>> {
    let mut values = Vec::with_capacity(outcomes.len());
    for (item_id, outcome) in ids.zip(outcomes) {
        values.push(match outcome {
            Ok(value) => Some(value),
            Err(reason) => {
                missing.push(Missing { stage: stage.to_owned(), item_id: item_id.to_owned(), reason });
                None
            }
        });
    }
    values
}

/// One model under test, with what its answers are measured by.
struct Subject<'a> {
    who: &'a str,
    scorer: &'a dyn Generate,
    prompts: &'a Prompts<'a>,
    items: &'a [Item],
    options: &'a EvalOptions,
}

impl Subject<'_> {
    async fn measured(
        &self,
        completions: Vec<Option<Completion>>,
        missing: &mut Vec<Missing>,
        progress: &Progress<'_>,
    ) -> Result<Vec<Option<ModelAnswer>>, EvalError> {
        let (with_names, without_names) = self.identified(&completions, missing, progress).await?;
        let identified = with_names.into_iter().zip(without_names);
        let characters = self.items.iter().map(|item| &self.prompts.set().characters[item.character]);
        Ok(completions
            .into_iter()
            .zip(characters)
            .zip(identified)
            .map(|((completion, character), (with_names, without_names))| {
                Some(model_answer(completion?, character, with_names, without_names))
            })
            .collect())
    }

    /// Identification of the answers as they are, and with names masked.
    async fn identified(
        &self,
        completions: &[Option<Completion>],
        missing: &mut Vec<Missing>,
        progress: &Progress<'_>,
    ) -> Result<(Vec<Option<Identification>>, Vec<Option<Identification>>), EvalError> {
        if self.options.distractors == 0 {
            let none = || completions.iter().map(|_| None).collect();
            return Ok((none(), none()));
        }
        let mask = NameMask::new(&self.prompts.set().characters);
        let texts: Vec<Option<&str>> = completions.iter().map(|answer| Some(answer.as_ref()?.text.as_str())).collect();
        // Most answers hold no name: their verdict is the same, and costs no second call.
        let masked: Vec<Option<String>> = texts
            .iter()
            .map(|text| text.map(|text| mask.apply(text)).filter(|masked| Some(masked.as_str()) != *text))
            .collect();
        let masked_texts: Vec<Option<&str>> = masked.iter().map(Option::as_deref).collect();

        let with_names = self.identify("identification", &texts, missing, progress).await?;
        let again = self.identify("identification without names", &masked_texts, missing, progress).await?;
        let without_names = masked_texts
            .iter()
            .zip(again)
            .zip(&with_names)
            .map(|((masked, again), first)| if masked.is_some() { again } else { first.clone() })
            .collect();
        Ok((with_names, without_names))
    }

    async fn identify(
        &self,
        what: &str,
        texts: &[Option<&str>],
        missing: &mut Vec<Missing>,
        progress: &Progress<'_>,
    ) -> Result<Vec<Option<Identification>>, EvalError> {
        let stage = format!("{} {what}", self.who);
        let verdicts =
            identify_authors(self.scorer, &stage, self.prompts, self.items, texts, self.options, progress).await?;
        Ok(verdicts
            .into_iter()
            .zip(item_ids(self.items))
            .map(|(verdict, id)| split_missing(&stage, std::iter::once(id), vec![verdict?], missing).pop().flatten())
            .collect())
    }
}

fn model_answer(
    completion: Completion,
    character: &Character,
    identification: Option<Identification>,
    identification_without_names: Option<Identification>,
) -> ModelAnswer {
    let phrases = broken_character_phrases(&completion.text, character);
    ModelAnswer {
        cut_off: completion.finish == FinishReason::Length,
        completion_tokens: completion.completion_tokens,
        words: word_count(&completion.text),
        broken_character: phrases.into_iter().map(str::to_owned).collect(),
        text: completion.text,
        identification,
        identification_without_names,
    }
}

fn answer_rows(
    set: &HeldOutSet,
    items: &[Item],
    base: Vec<Option<ModelAnswer>>,
    tuned: Vec<Option<ModelAnswer>>,
) -> Vec<AnswerRow> {
    let row = |((item, base), tuned): ((&Item, _), _)| {
        let character = &set.characters[item.character];
        AnswerRow {
            item_id: item.item_id.clone(),
            character_id: character.character_id.clone(),
            character_name: character.display_name().to_owned(),
            instruction_id: set.instructions[item.instruction].instruction_id.clone(),
            question: set.question(item).to_owned(),
            base,
            tuned,
        }
    };
    items.iter().zip(base).zip(tuned).map(row).collect()
}

/// The references' scores under both models, in the set's order.
struct Likelihoods<'a> {
    set: &'a HeldOutSet,
    base: Vec<Option<Score>>,
    tuned: Vec<Option<Score>>,
}

impl Likelihoods<'_> {
    fn rows(&self) -> Vec<ReferenceRow> {
        let row = |((dialogue, base), tuned): ((&opencharacter_core::Dialogue, &Option<Score>), &Option<Score>)| {
            ReferenceRow {
                dialogue_id: dialogue.dialogue_id.clone(),
                character_id: dialogue.character_id.clone(),
                tokens: base.map(|score| score.tokens),
                base_nll: base.map(|score| score.nll()),
                tuned_nll: tuned.map(|score| score.nll()),
            }
        };
        self.set.references.iter().zip(&self.base).zip(&self.tuned).map(row).collect()
    }

    fn pairs(&self) -> Vec<Pair> {
        let ratio = |score: &Score| Ratio { sum: -score.log_prob, weight: score.tokens as f64 };
        let pair = |((dialogue, base), tuned): ((&opencharacter_core::Dialogue, &Option<Score>), &Option<Score>)| {
            // A dialogue of nobody is a cluster of its own.
            let cluster = if dialogue.character_id.is_empty() { &dialogue.dialogue_id } else { &dialogue.character_id };
            Pair { cluster: cluster.clone(), base: base.as_ref().map(ratio), tuned: tuned.as_ref().map(ratio) }
        };
        self.set.references.iter().zip(&self.base).zip(&self.tuned).map(pair).collect()
    }
}

fn all_measures(rows: &[AnswerRow], references: &Likelihoods<'_>, options: &EvalOptions) -> Vec<Measure> {
    MeasureKind::ALL
        .into_iter()
        .filter_map(|kind| {
            let pairs = pairs(kind, rows, references, options)?;
            Some(measure(kind, &pairs, options))
        })
        .collect()
}

fn measure(kind: MeasureKind, pairs: &[Pair], options: &EvalOptions) -> Measure {
    let resampling = Resampling { seed: options.seed, ..options.resampling };
    let side = |value: fn(&Pair) -> Option<Ratio>| {
        let items = pairs.iter().filter_map(|pair| Some((pair.cluster.as_str(), value(pair)?)));
        let missing = pairs.iter().filter(|pair| value(pair).is_none()).count();
        (estimate(items, &resampling).map(|estimate| kind.unit().within_range(estimate)), missing)
    };
    let (base, missing_base) = side(|pair| pair.base);
    let (tuned, missing_tuned) = side(|pair| pair.tuned);
    let by_chance = matches!(kind, MeasureKind::Identification | MeasureKind::IdentificationWithoutNames);
    Measure {
        name: kind,
        unit: kind.unit(),
        higher_is_better: kind.higher_is_better(),
        chance: by_chance.then(|| 1.0 / (options.distractors + 1) as f64),
        base,
        tuned,
        difference: difference(pairs, &resampling),
        missing_base,
        missing_tuned,
    }
}

/// The items of one measure; `None` where nothing was to be measured.
fn pairs(
    kind: MeasureKind,
    rows: &[AnswerRow],
    references: &Likelihoods<'_>,
    options: &EvalOptions,
) -> Option<Vec<Pair>> {
    let share = |value: bool| Ratio::value(f64::from(u8::from(value)));
    let identified = options.distractors > 0;
    match kind {
        MeasureKind::ReferenceNll => (!references.set.references.is_empty()).then(|| references.pairs()),
        MeasureKind::Identification => {
            identified.then(|| of_answers(rows, |answer| Some(Ratio::value(answer.identification.as_ref()?.credit))))
        }
        MeasureKind::IdentificationWithoutNames => identified.then(|| {
            of_answers(rows, |answer| Some(Ratio::value(answer.identification_without_names.as_ref()?.credit)))
        }),
        MeasureKind::IdentificationMargin => {
            identified.then(|| of_answers(rows, |answer| Some(Ratio::value(answer.identification.as_ref()?.margin))))
        }
        MeasureKind::BreakCharacter => {
            Some(of_answers(rows, |answer| Some(share(!answer.broken_character.is_empty()))))
        }
        MeasureKind::Distinct1 => Some(distinct_pairs(rows, 1)),
        MeasureKind::Distinct2 => Some(distinct_pairs(rows, 2)),
        MeasureKind::AnswerWords => Some(of_answers(rows, |answer| Some(Ratio::value(answer.words as f64)))),
        MeasureKind::CutOff => Some(of_answers(rows, |answer| Some(share(answer.cut_off)))),
    }
}

fn of_answers(rows: &[AnswerRow], value: impl Fn(&ModelAnswer) -> Option<Ratio>) -> Vec<Pair> {
    let pair = |row: &AnswerRow| Pair {
        cluster: row.character_id.clone(),
        base: row.base.as_ref().and_then(&value),
        tuned: row.tuned.as_ref().and_then(&value),
    };
    rows.iter().map(pair).collect()
}

/// Distinct-n needs both answers, cut to equal length; an item that lacks one is missing on the side that lacks it,
/// and left out on the other.
fn distinct_pairs(rows: &[AnswerRow], n: usize) -> Vec<Pair> {
    let mut characters: Vec<&str> = rows.iter().map(|row| row.character_id.as_str()).collect();
    characters.sort_unstable();
    characters.dedup();
    let place = |id: &str| characters.binary_search(&id).unwrap_or_default();
    let both = |row: &AnswerRow| {
        Some(WordPair::new(place(&row.character_id), &row.base.as_ref()?.text, &row.tuned.as_ref()?.text))
    };
    let mut words: Vec<WordPair> = rows.iter().filter_map(both).collect();
    equal_length(&mut words);
    let base: Vec<&[String]> = words.iter().map(|pair| pair.base.as_slice()).collect();
    let tuned: Vec<&[String]> = words.iter().map(|pair| pair.tuned.as_slice()).collect();
    let mut shares = distinct_shares(&base, n).into_iter().zip(distinct_shares(&tuned, n));
    let ratio = |share: DistinctShare| Ratio { sum: share.unique, weight: share.total as f64 };
    let pair = |row: &AnswerRow| {
        let found = (row.base.is_some() && row.tuned.is_some()).then(|| shares.next()).flatten();
        let (base, tuned) = found.map_or((None, None), |(base, tuned)| (Some(ratio(base)), Some(ratio(tuned))));
        Pair { cluster: row.character_id.clone(), base, tuned }
    };
    rows.iter().map(pair).collect()
}

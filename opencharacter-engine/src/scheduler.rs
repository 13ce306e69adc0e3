use std::{collections::VecDeque, ops::Range, sync::Arc};

use candle_core::Tensor;
use opencharacter_core::{FinishReason, GenerateError};
use opencharacter_nn::{
    Activations, Adapter, BLOCK_TOKENS, CacheBlock, CachedAttend, Model, NnError, PackedAdapter, SequenceCache,
    head_log_probs, team,
};

use crate::{
    EngineOptions,
    prefix::PrefixCache,
    rounding::Rounding,
    sequence::{Extras, Generation, Sequence, ServedAdapter, Work},
};

/// Decides what runs in each step and runs it. Owned by the engine's thread.
pub(crate) struct Scheduler {
    model: Arc<Model>,
    options: EngineOptions,
    waiting: VecDeque<Sequence>,
    running: Vec<Sequence>,
    prefixes: PrefixCache,
    rounding: Rounding,
    /// How many blocks running sequences and shared beginnings may hold together.
    block_limit: usize,
}

/// A row of a pass whose result is looked at.
struct Look {
    /// Its sequence's place among the running ones.
    owner: usize,
    row: u32,
    /// The token whose likelihood is asked for; without it, one is drawn.
    target: Option<u32>,
}

/// What happened to a sequence in a step.
enum Next {
    Continue,
    Finish(FinishReason),
    Fail(String),
}

impl Scheduler {
    pub(crate) fn new(model: Arc<Model>, options: EngineOptions) -> Self {
        let rounding = Rounding::new(&model.decoder, &options);
        let block_limit = options.cache_bytes / CacheBlock::bytes(model.decoder.config(), rounding.cache).max(1);
        Self {
            model,
            options,
            waiting: VecDeque::new(),
            running: Vec::new(),
            prefixes: PrefixCache::default(),
            rounding,
            block_limit,
        }
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Queues a sequence, or refuses one that can never fit.
    pub(crate) fn submit(&mut self, sequence: Sequence) {
        let needed = sequence.reserved_tokens.div_ceil(BLOCK_TOKENS);
        if needed > self.block_limit {
            let reason = format!(
                "{} tokens need {needed} cache blocks and the engine has {}; shorten the conversation or ask for fewer tokens",
                sequence.reserved_tokens, self.block_limit
            );
            sequence.fail(GenerateError::Refused { reason });
            return;
        }
        self.waiting.push_back(sequence);
    }

    /// Admits what fits, runs one forward pass, and answers what is done.
    pub(crate) fn step(&mut self) {
        self.waiting.retain(|sequence| !sequence.is_cancelled());
        self.running.retain(|sequence| !sequence.is_cancelled());
        self.admit();
        let plan = self.plan();
        if plan.is_empty() {
            return;
        }
        match self.forward(&plan) {
            Ok(outcomes) => self.settle(&plan, outcomes),
            Err(error) => {
                for sequence in self.running.drain(..) {
                    let model = self.model.fingerprint.clone();
                    sequence.fail(GenerateError::Unavailable { model, reason: error.to_string() });
                }
            }
        }
    }

    /// Moves waiting sequences into the batch, in order, while there is room.
    fn admit(&mut self) {
        let mut deferred = VecDeque::new();
        while self.running.len() < self.options.max_sequences {
            let Some(mut sequence) = self.waiting.pop_front() else { break };
            let reserved: usize = self.running.iter().map(|s| s.reserved_tokens.div_ceil(BLOCK_TOKENS)).sum();
            let needed = sequence.reserved_tokens.div_ceil(BLOCK_TOKENS);
            if reserved + needed > self.block_limit {
                self.waiting.push_front(sequence);
                break;
            }
            let reusable = &sequence.tokens[..sequence.reusable_tokens() / BLOCK_TOKENS * BLOCK_TOKENS];
            let blocks = self.prefixes.find(sequence.adapter_hash(), reusable);
            if self.is_being_computed(&sequence, reusable, blocks.len()) {
                deferred.push_back(sequence);
                continue;
            }
            sequence.cached_tokens = blocks.len() * BLOCK_TOKENS;
            sequence.cache = SequenceCache::with_prefix(blocks);
            self.running.push(sequence);
            self.prefixes.shrink(self.block_limit.saturating_sub(reserved + needed));
        }
        while let Some(sequence) = deferred.pop_back() {
            self.waiting.push_front(sequence);
        }
    }

    /// Whether a running sequence is about to fill the block after the `known` ones at the beginning of `tokens`:
    /// waiting a step is cheaper than computing it twice.
    fn is_being_computed(&self, sequence: &Sequence, tokens: &[u32], known: usize) -> bool {
        let end = (known + 1) * BLOCK_TOKENS;
        end <= tokens.len()
            && self.running.iter().any(|other| {
                other.is_prefilling()
                    && other.adapter_hash() == sequence.adapter_hash()
                    && other.cache.tokens() < end
                    && other.tokens.get(..end) == Some(&tokens[..end])
            })
    }

    /// How many tokens each running sequence brings to the next pass: `(index, count)`, in the order of their rows.
    /// Sequences of one adapter stand together, so that each adapter has one run of rows.
    fn plan(&self) -> Vec<(usize, usize)> {
        let mut plan: Vec<(usize, usize)> = Vec::new();
        let mut budget = self.options.step_tokens;
        for (index, _) in self.running.iter().enumerate().filter(|(_, sequence)| !sequence.is_prefilling()) {
            plan.push((index, 1));
            budget = budget.saturating_sub(1);
        }
        for (index, sequence) in self.running.iter().enumerate().filter(|(_, sequence)| sequence.is_prefilling()) {
            if budget == 0 {
                break;
            }
            let count = sequence.pending().min(budget);
            plan.push((index, count));
            budget -= count;
        }
        plan.sort_unstable_by_key(|&(index, _)| (self.running[index].adapter_hash(), index));
        plan
    }

    fn forward(&mut self, plan: &[(usize, usize)]) -> Result<Vec<Next>, NnError> {
        let activations = self.activations(plan);
        let looks = self.looked_at(plan);
        let rows: Vec<u32> = looks.iter().map(|look| look.row).collect();
        let decoder = &self.model.decoder;
        let mut tokens = Vec::new();
        let mut caches = Vec::new();
        let mut adapted: Vec<(Range<usize>, &PackedAdapter)> = Vec::new();
        for (Sequence { tokens: of_sequence, cache, adapter, .. }, count) in planned(&mut self.running, plan) {
            let first = tokens.len();
            tokens.extend_from_slice(&of_sequence[cache.tokens()..cache.tokens() + count]);
            caches.push((cache, count));
            let Some(ServedAdapter { packed, .. }) = adapter.as_deref() else { continue };
            match adapted.last_mut() {
                Some((rows, last)) if rows.end == first && std::ptr::eq(*last, packed) => rows.end = tokens.len(),
                _ => adapted.push((first..tokens.len(), packed)),
            }
        }
        let mut attention = CachedAttend::new(decoder.config(), self.rounding.cache, caches);
        let positions = attention.positions();
        let adapter = Adapter::Rows(&adapted);
        let hidden = decoder.forward(&tokens, &positions, adapter, &mut attention, activations, &rows)?;
        attention.commit();
        self.score(&looks, &hidden, activations)?;
        self.generate(plan, &looks, &hidden, activations)
    }

    /// How a pass rounds. Where prompts and answers differ, there is one sequence, and a pass has tokens of the one kind.
    fn activations(&self, plan: &[(usize, usize)]) -> Activations {
        let answering = plan.iter().all(|&(index, _)| self.running[index].is_answering());
        if answering { self.rounding.answers } else { self.rounding.prompts }
    }

    /// The rows of the next pass whose results are looked at, in their order.
    fn looked_at(&self, plan: &[(usize, usize)]) -> Vec<Look> {
        let mut looks = Vec::new();
        let mut first = 0;
        for &(owner, count) in plan {
            let sequence = &self.running[owner];
            let start = sequence.cache.tokens();
            let row = |place: usize| (first + place - start) as u32;
            match &sequence.work {
                Work::Generate(_) if sequence.pending() == count => {
                    looks.push(Look { owner, row: row(start + count - 1), target: None });
                }
                Work::Generate(_) => {}
                Work::Score(scoring) => {
                    let places = start..start + count;
                    let scored = places.filter(|place| scoring.scored.get(place + 1).copied().unwrap_or(false));
                    looks.extend(scored.map(|place| {
                        let target = Some(sequence.tokens[place + 1]);
                        Look { owner, row: row(place), target }
                    }));
                }
            }
            first += count;
        }
        looks
    }

    /// Adds up log-probabilities of scored tokens whose predecessors were in this pass. `hidden` has a row per look.
    fn score(&mut self, looks: &[Look], hidden: &Tensor, activations: Activations) -> Result<(), NnError> {
        let scored = (0..).zip(looks).filter_map(|(row, look)| Some((row, look.target?, look.owner)));
        let (rows, (targets, owners)): (Vec<u32>, (Vec<u32>, Vec<usize>)) =
            scored.map(|(row, target, owner)| (row, (target, owner))).unzip();
        let log_probs = head_log_probs(&self.model.decoder, hidden, &rows, &targets, activations)?;
        for (owner, log_prob) in owners.into_iter().zip(log_probs) {
            if let Work::Score(scoring) = &mut self.running[owner].work {
                scoring.log_prob += f64::from(log_prob);
                scoring.count += 1;
            }
        }
        Ok(())
    }

    /// Draws a token for every sequence whose last token was in this pass. `hidden` has a row per look; logits exist for
    /// those of drawing sequences only.
    fn generate(
        &mut self,
        plan: &[(usize, usize)],
        looks: &[Look],
        hidden: &Tensor,
        activations: Activations,
    ) -> Result<Vec<Next>, NnError> {
        let drawing = (0..).zip(looks).filter(|(_, look)| look.target.is_none());
        let (rows, owners): (Vec<u32>, Vec<usize>) = drawing.map(|(row, look)| (row, look.owner)).unzip();
        let mut logits = Vec::new();
        if !rows.is_empty() {
            logits = self.model.decoder.logits(hidden, &rows, activations)?;
        }
        let vocabulary = self.model.decoder.config().vocab_size;
        let mut drawn = owners.into_iter().zip(logits.chunks_exact_mut(vocabulary)).peekable();
        let mut jobs: Vec<_> = planned(&mut self.running, plan)
            .zip(plan)
            .map(|((sequence, _), (index, _))| {
                let logits = drawn.next_if(|(owner, _)| owner == index).map(|(_, logits)| logits);
                (sequence, logits, Next::Continue)
            })
            .collect();
        let model = &self.model;
        team::for_each_chunk(&mut jobs, 1, |_, jobs| {
            for (sequence, logits, next) in jobs {
                if let Some(logits) = logits {
                    *next = draw(sequence, logits, model);
                } else if sequence.pending() == 0 {
                    *next = Next::Finish(FinishReason::Stop);
                }
            }
        });
        Ok(jobs.into_iter().map(|(_, _, next)| next).collect())
    }

    /// Shares what was computed and answers what is done.
    fn settle(&mut self, plan: &[(usize, usize)], outcomes: Vec<Next>) {
        for &(index, count) in plan {
            let sequence = &self.running[index];
            let held = sequence.cache.tokens();
            // What is not as it would be in a prompt is no beginning of one.
            let shared = if self.rounding.answers_as_prompts() { held } else { held.min(sequence.prompt_tokens()) };
            // Only when a block was filled in this pass is there something new to share.
            if shared / BLOCK_TOKENS > (held - count) / BLOCK_TOKENS {
                self.prefixes.insert(sequence.adapter_hash(), &sequence.tokens[..shared], sequence.cache.blocks());
            }
        }
        let mut outcomes: Vec<(usize, Next)> = plan.iter().map(|(index, _)| *index).zip(outcomes).collect();
        // From behind, so that those who leave move nobody who is still to be looked at.
        outcomes.sort_unstable_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, outcome) in outcomes {
            match outcome {
                Next::Continue => {}
                Next::Finish(reason) => self.running.remove(index).finish(reason),
                Next::Fail(reason) => self.running.remove(index).fail(GenerateError::Refused { reason }),
            }
        }
        let reserved: usize = self.running.iter().map(|s| s.reserved_tokens.div_ceil(BLOCK_TOKENS)).sum();
        if reserved + self.prefixes.len() > self.block_limit {
            self.prefixes.shrink(self.block_limit.saturating_sub(reserved));
        }
    }
}

/// The planned sequences, in the plan's order, with the tokens that each brings.
fn planned<'a>(
    running: &'a mut [Sequence],
    plan: &[(usize, usize)],
) -> impl Iterator<Item = (&'a mut Sequence, usize)> {
    let mut slots: Vec<Option<&mut Sequence>> = running.iter_mut().map(Some).collect();
    plan.iter().filter_map(move |&(index, count)| Some((slots[index].take()?, count)))
}

/// Draws one sequence's next token and decides whether it goes on.
fn draw(sequence: &mut Sequence, logits: &mut [f32], model: &Model) -> Next {
    let Work::Generate(generation) = &mut sequence.work else { return Next::Continue };
    let Generation { prompt_tokens, max_tokens, sampler, text, extras, .. } = &mut **generation;
    let Extras { constraint, log_probs, sink, ignore_end } = extras;
    if let Some(log_probs) = log_probs {
        log_probs.look(logits);
    }
    if let Some(constraint) = constraint
        && let Err(reason) = constraint.mask(logits)
    {
        return Next::Fail(reason);
    }
    let Some(token) = sampler.draw(logits, &sequence.tokens[*prompt_tokens..]) else {
        return Next::Fail("no token satisfies the schema here".into());
    };
    sequence.tokens.push(token);
    let ends = model.tokenizer.end_of_text().contains(&token) || model.tokenizer.is_special(token);
    if ends && !*ignore_end {
        return Next::Finish(FinishReason::Stop);
    }
    if let Some(log_probs) = log_probs {
        log_probs.take(token, &model.tokenizer);
    }
    let stopped = text.push(model.tokenizer.token_bytes(token));
    if let (Some(sink), Some(piece)) = (sink.as_mut(), text.take(stopped)) {
        sink(&piece);
    }
    match constraint.as_mut().map(|constraint| constraint.accept(token)) {
        Some(Err(reason)) => return Next::Fail(reason),
        Some(Ok(true)) => return Next::Finish(FinishReason::Stop),
        Some(Ok(false)) | None => {}
    }
    if stopped {
        Next::Finish(FinishReason::Stop)
    } else if sequence.tokens.len() - *prompt_tokens >= *max_tokens {
        Next::Finish(FinishReason::Length)
    } else {
        Next::Continue
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use opencharacter_fixtures::embedded_model;
    use tokio::sync::oneshot;

    use super::*;
    use crate::sequence::Scoring;

    #[test]
    fn no_more_blocks_are_held_than_there_are() {
        let model = Arc::new(Model::load(&embedded_model()).unwrap());
        let rounding = Rounding::new(&model.decoder, &EngineOptions::default());
        let block = CacheBlock::bytes(model.decoder.config(), rounding.cache);
        // Five blocks; each sequence needs three, so that two never run together, and what the first ones leave to be
        // shared has to go in part.
        let options = EngineOptions { cache_bytes: 5 * block, step_tokens: 7, ..EngineOptions::default() };
        let mut scheduler = Scheduler::new(model, options);
        let tokens_of = |first: u32| (0..3 * BLOCK_TOKENS as u32).map(|place| (first + place) % 64).collect::<Vec<_>>();
        let mut replies = Vec::new();
        for first in 0..4 {
            let (reply, receiver) = oneshot::channel();
            let tokens = tokens_of(first);
            let scored = vec![true; tokens.len()];
            scheduler.submit(Sequence {
                reserved_tokens: tokens.len(),
                tokens,
                cache: SequenceCache::with_prefix(Vec::new()),
                cached_tokens: 0,
                adapter: None,
                work: Work::Score(Scoring { scored, log_prob: 0.0, count: 0, reply }),
            });
            replies.push(receiver);
        }
        let (mut steps, mut most_waiting) = (0, 0);
        while !scheduler.is_idle() {
            scheduler.step();
            steps += 1;
            assert!(scheduler.running.len() <= 1, "two sequences of three blocks do not fit into five");
            most_waiting = most_waiting.max(scheduler.waiting.len());
            let held: usize =
                scheduler.running.iter().map(|sequence| sequence.reserved_tokens.div_ceil(BLOCK_TOKENS)).sum();
            assert!(held + scheduler.prefixes.len() <= 5, "{held} and {} blocks", scheduler.prefixes.len());
            assert!(steps < 100, "nothing ends");
        }
        assert_eq!(most_waiting, 3, "the others wait");
        for mut reply in replies {
            assert_eq!(reply.try_recv().unwrap().unwrap().tokens, 3 * BLOCK_TOKENS - 1);
        }
    }
}

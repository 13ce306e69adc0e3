use opencharacter_core::{KeyedRandom, Sampling};

/// Draws tokens for one request.
#[derive(Debug)]
pub(crate) struct Sampler {
    sampling: Sampling,
    random: KeyedRandom,
}

impl Sampler {
    pub(crate) fn new(sampling: Sampling) -> Self {
        let random = KeyedRandom::new(sampling.seed, &["sampling"]);
        Self { sampling, random }
    }

    /// The next token. `logits` are changed; entries that may not be drawn are negative infinity. `generated` are the
    /// tokens drawn so far. `None` when no token may be drawn.
    pub(crate) fn draw(&mut self, logits: &mut [f32], generated: &[u32]) -> Option<u32> {
        penalise(logits, generated, self.sampling.repetition_penalty);
        let (likeliest, maximum) = likeliest(logits)?;
        if self.sampling.temperature <= 0.0 {
            return Some(likeliest);
        }
        let candidates = self.candidates(logits, maximum);
        let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
        let mut target = self.random.uniform() * total;
        for &(token, weight) in &candidates {
            target -= weight;
            if target < 0.0 {
                return Some(token);
            }
        }
        candidates.last().map(|(token, _)| *token)
    }

    /// Tokens that survive top-k, top-p and min-p with their weights (probabilities up to a factor).
    fn candidates(&self, logits: &[f32], maximum: f32) -> Vec<(u32, f64)> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.sampling;
        // Below e^-50 of the likeliest, the whole vocabulary together cannot reach a 53-bit draw.
        let floor = if min_p > 0.0 { min_p.ln() } else { -50.0 };
        let mut candidates: Vec<(u32, f64)> = logits
            .iter()
            .enumerate()
            .filter_map(|(token, &logit)| {
                let scaled = (logit - maximum) / temperature;
                (scaled >= floor).then(|| (token as u32, f64::from(scaled).exp()))
            })
            .collect();
        if top_k == 0 && top_p >= 1.0 {
            return candidates;
        }
        if top_p < 1.0 && top_k == 0 {
            // Tokens below this weight sum to less than 1 - top_p of the whole, so none can be in the nucleus.
            let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
            let least = total * (1.0 - f64::from(top_p)) / candidates.len() as f64;
            candidates.retain(|(_, weight)| *weight >= least);
            candidates.sort_unstable_by(by_weight);
            truncate_to_nucleus(&mut candidates, total * f64::from(top_p));
            return candidates;
        }
        if top_k < candidates.len() {
            candidates.select_nth_unstable_by(top_k - 1, by_weight);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(by_weight);
        if top_p < 1.0 {
            let total: f64 = candidates.iter().map(|(_, weight)| weight).sum();
            truncate_to_nucleus(&mut candidates, total * f64::from(top_p));
        }
        candidates
    }
}

/// Heaviest first; equal weights by token, so that the order is always the same.
fn by_weight(left: &(u32, f64), right: &(u32, f64)) -> std::cmp::Ordering {
    right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
}

fn truncate_to_nucleus(candidates: &mut Vec<(u32, f64)>, wanted: f64) {
    let mut reached = 0.0;
    let mut keep = 0;
    for (_, weight) in candidates.iter() {
        keep += 1;
        reached += weight;
        if reached >= wanted {
            break;
        }
    }
    candidates.truncate(keep);
}

/// The first token with the greatest finite logit.
fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    // A run at a time, whose greatest one the processor finds many at once.
    const RUN: usize = 64;
    let mut best = None;
    let mut maximum = f32::NEG_INFINITY;
    for (run, logits) in logits.chunks(RUN).enumerate() {
        let greatest = logits.iter().fold(maximum, |greatest, &logit| if logit > greatest { logit } else { greatest });
        if greatest > maximum {
            maximum = greatest;
            best = logits.iter().position(|&logit| logit >= greatest).map(|place| (run * RUN + place) as u32);
        }
    }
    best.map(|token| (token, maximum))
}

fn penalise(logits: &mut [f32], generated: &[u32], penalty: f32) {
    if (penalty - 1.0).abs() < f32::EPSILON {
        return;
    }
    let mut seen: Vec<u32> = generated.to_vec();
    seen.sort_unstable();
    seen.dedup();
    for token in seen {
        let logit = &mut logits[token as usize];
        *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: &Sampling, logits: &[f32], count: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling.clone());
        (0..count).map(|_| sampler.draw(&mut logits.to_vec(), &[]).unwrap()).collect()
    }

    fn frequencies(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
        let mut counts = vec![0.0; logits.len()];
        for token in draws(sampling, logits, 20_000) {
            counts[token as usize] += 1.0 / 20_000.0;
        }
        counts
    }

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -1.0];

    #[test]
    fn temperature_zero_takes_the_likeliest() {
        assert_eq!(draws(&Sampling::default(), &LOGITS, 3), [1, 1, 1]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let sampling = Sampling { temperature: 0.7, ..Sampling::default() };
        let weights: Vec<f64> = LOGITS.iter().map(|&logit| (f64::from(logit) / 0.7).exp()).collect();
        let total: f64 = weights.iter().sum();
        for (found, weight) in frequencies(&sampling, &LOGITS).iter().zip(&weights) {
            assert!((found - weight / total).abs() < 0.015, "{found} against {}", weight / total);
        }
    }

    #[test]
    fn filters_cut_the_tail() {
        let base = Sampling { temperature: 1.0, ..Sampling::default() };
        // Probabilities 0.087, 0.644, 0.237, 0.032.
        let kept = |sampling: Sampling| -> Vec<usize> {
            let frequencies = frequencies(&sampling, &LOGITS);
            (0..4).filter(|&token| frequencies[token] > 0.0).collect()
        };
        assert_eq!(kept(base.clone()), [0, 1, 2, 3]);
        assert_eq!(kept(Sampling { top_k: 2, ..base.clone() }), [1, 2]);
        assert_eq!(kept(Sampling { top_p: 0.9, ..base.clone() }), [0, 1, 2]);
        assert_eq!(kept(Sampling { top_p: 0.6, ..base.clone() }), [1]);
        assert_eq!(kept(Sampling { top_k: 3, top_p: 0.6, ..base.clone() }), [1]);
        assert_eq!(kept(Sampling { min_p: 0.3, ..base }), [1, 2]);
    }

    #[test]
    fn seeds_repeat_and_differ() {
        let sampling = |seed| Sampling { temperature: 1.0, seed, ..Sampling::default() };
        assert_eq!(draws(&sampling(1), &LOGITS, 50), draws(&sampling(1), &LOGITS, 50));
        assert_ne!(draws(&sampling(1), &LOGITS, 50), draws(&sampling(2), &LOGITS, 50));
    }

    #[test]
    fn penalty_moves_repeated_tokens_down() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 3.0, ..Sampling::default() });
        assert_eq!(sampler.draw(&mut LOGITS.to_vec(), &[1, 1]), Some(2));
    }

    #[test]
    fn the_likeliest_is_the_first_of_equals_and_no_nan() {
        let mut logits = vec![-1.0; 200];
        logits[3] = f32::NAN;
        logits[70..].fill(0.5);
        logits[131] = 2.0;
        logits[190] = 2.0;
        assert_eq!(likeliest(&logits), Some((131, 2.0)));
        assert_eq!(likeliest(&logits[..100]), Some((70, 0.5)));
        assert_eq!(likeliest(&[f32::NAN; 70]), None);
    }

    #[test]
    fn nothing_allowed_is_not_a_token() {
        let mut sampler = Sampler::new(Sampling { temperature: 1.0, ..Sampling::default() });
        assert_eq!(sampler.draw(&mut [f32::NEG_INFINITY; 3], &[]), None);
    }
}

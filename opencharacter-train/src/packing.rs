use opencharacter_core::KeyedRandom;
use opencharacter_nn::PackedBatch;

use crate::{Example, PreferenceExample};

/// A packed batch, and which examples are in it, by place.
pub type Pack = (PackedBatch, Vec<usize>);

/// What goes into one batch or the other, but never into two.
pub trait Piece {
    /// Its tokens.
    fn length(&self) -> usize;
    /// Appends its sequences to a batch.
    fn lay(&self, batch: &mut PackedBatch);
}

impl Piece for Example {
    fn length(&self) -> usize {
        self.tokens.len()
    }

    fn lay(&self, batch: &mut PackedBatch) {
        batch.push(&self.tokens, &self.trained);
    }
}

/// Two sequences: the chosen one, then the rejected one.
impl Piece for PreferenceExample {
    fn length(&self) -> usize {
        self.chosen.length() + self.rejected.length()
    }

    fn lay(&self, batch: &mut PackedBatch) {
        self.chosen.lay(batch);
        self.rejected.lay(batch);
    }
}

/// Lays examples end to end into batches of at most `capacity` tokens (an example longer than that gets its own).
///
/// The order is a keyed shuffle of `seed` and `epoch`; each example goes into the first open batch with room, of the
/// last few, so that little is left empty and the shuffle stays a shuffle. Returns each batch with its examples'
/// places.
pub fn pack<P: Piece>(examples: &[P], capacity: usize, seed: u64, epoch: usize) -> Vec<Pack> {
    const OPEN: usize = 8;
    let order = KeyedRandom::new(seed, &["epoch", &epoch.to_string()]).sample(examples.len(), examples.len());
    let mut batches: Vec<Pack> = Vec::new();
    for place in order {
        let example = &examples[place];
        let first_open = batches.len().saturating_sub(OPEN);
        let fits = |batch: &PackedBatch| batch.tokens.len() + example.length() <= capacity;
        let index = (first_open..batches.len()).find(|&index| fits(&batches[index].0)).unwrap_or_else(|| {
            batches.push((PackedBatch::new(), Vec::new()));
            batches.len() - 1
        });
        let (batch, places) = &mut batches[index];
        example.lay(batch);
        places.push(place);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples(lengths: &[usize]) -> Vec<Example> {
        let example = |(index, &length): (usize, &usize)| Example {
            id: index.to_string(),
            tokens: vec![index as u32; length],
            trained: vec![true; length],
        };
        lengths.iter().enumerate().map(example).collect()
    }

    #[test]
    fn every_example_appears_once_and_whole() {
        let lengths: Vec<usize> = (1..60).map(|length| 1 + length * 7 % 90).collect();
        let examples = examples(&lengths);
        let batches = pack(&examples, 100, 1, 0);
        let mut seen: Vec<usize> = batches.iter().flat_map(|(_, places)| places.clone()).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..examples.len()).collect::<Vec<_>>());
        for (batch, places) in &batches {
            assert!(batch.tokens.len() <= 100);
            for (bounds, &place) in batch.cumulative_lengths.windows(2).zip(places) {
                assert_eq!(&batch.tokens[bounds[0]..bounds[1]], &examples[place].tokens[..]);
            }
        }
        let filled: usize = lengths.iter().sum();
        assert!(batches.len() * 100 < filled * 5 / 4, "{} batches for {filled} tokens", batches.len());
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let examples = examples(&[5; 30]);
        assert_eq!(pack(&examples, 20, 1, 0), pack(&examples, 20, 1, 0));
        assert_ne!(pack(&examples, 20, 1, 0), pack(&examples, 20, 1, 1));
    }

    #[test]
    fn a_long_example_gets_its_own_batch() {
        let batches = pack(&examples(&[150, 10]), 100, 1, 0);
        assert_eq!(batches.len(), 2);
    }
}

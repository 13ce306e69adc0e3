/// Several token sequences laid end to end, without padding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackedBatch {
    /// All tokens.
    pub tokens: Vec<u32>,
    /// For each token, whether predicting it is trained (or scored). A sequence's first token never can be.
    pub trained: Vec<bool>,
    /// Sequence borders: 0, the end of the first sequence, ..., the number of tokens.
    pub cumulative_lengths: Vec<usize>,
}

impl PackedBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { tokens: Vec::new(), trained: Vec::new(), cumulative_lengths: vec![0] }
    }

    /// Appends one sequence.
    ///
    /// # Panics
    /// When `trained` has not one entry per token.
    pub fn push(&mut self, tokens: &[u32], trained: &[bool]) {
        assert_eq!(tokens.len(), trained.len(), "one mark per token");
        self.tokens.extend_from_slice(tokens);
        self.trained.extend_from_slice(trained);
        self.cumulative_lengths.push(self.tokens.len());
    }

    /// The same sequences in batches of at most `tokens` tokens, or of one sequence that is longer, each with the place of
    /// its first token.
    pub(crate) fn parts(&self, tokens: usize) -> Vec<(usize, Self)> {
        let mut parts: Vec<(usize, Self)> = Vec::new();
        for bounds in self.cumulative_lengths.windows(2) {
            if parts.last().is_none_or(|(first, _)| bounds[1] - first > tokens) {
                parts.push((bounds[0], Self::new()));
            }
            if let Some((_, part)) = parts.last_mut() {
                part.push(&self.tokens[bounds[0]..bounds[1]], &self.trained[bounds[0]..bounds[1]]);
            }
        }
        parts
    }

    /// Each token's position in its own sequence.
    pub fn positions(&self) -> Vec<u32> {
        self.cumulative_lengths.windows(2).flat_map(|bounds| 0..(bounds[1] - bounds[0]) as u32).collect()
    }

    /// The rows whose next token is trained, and those tokens.
    pub fn trained(&self) -> (Vec<u32>, Vec<u32>) {
        let mut rows = Vec::new();
        let mut targets = Vec::new();
        for bounds in self.cumulative_lengths.windows(2) {
            for token in bounds[0] + 1..bounds[1] {
                if self.trained[token] {
                    rows.push(token as u32 - 1);
                    targets.push(self.tokens[token]);
                }
            }
        }
        (rows, targets)
    }
}

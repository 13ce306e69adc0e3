use opencharacter_core::{LikelyToken, TokenLogProb};
use opencharacter_nn::Tokenizer;

/// Log-probabilities of an answer's tokens under the model's own distribution.
#[derive(Debug)]
pub(crate) struct LogProbs {
    /// How many of the likeliest tokens are reported beside each.
    count: usize,
    /// Those of the place that is being drawn: `(token, logit)`, likeliest first.
    top: Vec<(u32, f32)>,
    /// The place's logits as the model gave them; what is drawn can be any of them.
    logits: Vec<f32>,
    tokens: Vec<TokenLogProb>,
}

impl LogProbs {
    pub(crate) fn new(count: usize) -> Self {
        Self { count, top: Vec::new(), logits: Vec::new(), tokens: Vec::new() }
    }

    /// Looks at a place's logits, before anything changes them.
    pub(crate) fn look(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend_from_slice(logits);
        self.top.clear();
        for (token, &logit) in logits.iter().enumerate() {
            if self.top.len() < self.count || self.top.last().is_some_and(|&(_, least)| logit > least) {
                // Equal logits stay in the order of their tokens.
                let place = self.top.partition_point(|&(_, other)| other >= logit);
                self.top.insert(place, (token as u32, logit));
                self.top.truncate(self.count);
            }
        }
    }

    /// Takes note of the token drawn there.
    pub(crate) fn take(&mut self, token: u32, tokenizer: &Tokenizer) {
        let maximum = self.logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        // In f64: 49,152 terms in f32 would cost the third decimal.
        let total: f64 = self.logits.iter().map(|&logit| f64::from(logit - maximum).exp()).sum();
        let normaliser = f64::from(maximum) + total.ln();
        let likely = |token: u32, logit: f32| {
            let special = tokenizer.is_special(token);
            let bytes =
                if special { tokenizer.token_name(token).into_bytes() } else { tokenizer.token_bytes(token).to_vec() };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            LikelyToken { text, bytes, log_prob: (f64::from(logit) - normaliser) as f32 }
        };
        let drawn = likely(token, self.logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY));
        let top = self.top.iter().map(|&(token, logit)| likely(token, logit)).collect();
        self.tokens.push(TokenLogProb { token: drawn, top });
    }

    pub(crate) fn finish(self) -> Vec<TokenLogProb> {
        self.tokens
    }
}

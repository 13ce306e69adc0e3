use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Half a cosine, down to a tenth.
    #[default]
    Cosine,
    /// A straight line, down to a tenth (OpenCharacter: 1e-5 to 1e-6).
    Linear,
    /// Not at all.
    Constant,
}

impl Schedule {
    /// The factor on the peak learning rate at `step` (from 0) of `total`, after `warmup` steps of linear rise.
    pub fn factor(self, step: usize, warmup: usize, total: usize) -> f64 {
        const FLOOR: f64 = 0.1;
        if step < warmup {
            return (step + 1) as f64 / warmup as f64;
        }
        let progress = (step - warmup) as f64 / total.saturating_sub(warmup + 1).max(1) as f64;
        let progress = progress.min(1.0);
        match self {
            Self::Cosine => FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            Self::Linear => 1.0 - (1.0 - FLOOR) * progress,
            Self::Constant => 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_then_falls_to_a_tenth() {
        for schedule in [Schedule::Cosine, Schedule::Linear] {
            let factors: Vec<f64> = (0..20).map(|step| schedule.factor(step, 4, 20)).collect();
            assert!((factors[0] - 0.25).abs() < 1e-12);
            assert!((factors[3] - 1.0).abs() < 1e-12 && (factors[4] - 1.0).abs() < 1e-12);
            assert!((factors[19] - 0.1).abs() < 1e-12);
            assert!(factors[4..].is_sorted_by(|a, b| a >= b));
        }
        assert!((Schedule::Constant.factor(19, 4, 20) - 1.0).abs() < 1e-12);
    }
}

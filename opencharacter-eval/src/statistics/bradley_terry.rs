use std::collections::BTreeMap;

use opencharacter_core::KeyedRandom;
use serde::{Deserialize, Serialize};

use super::{Resampling, interval::interval};

/// One comparison of two systems.
#[derive(Debug, Clone, PartialEq)]
pub struct Game {
    /// The character's id.
    pub cluster: String,
    /// Index of the one system.
    pub first: usize,
    /// Index of the other.
    pub second: usize,
    /// 1 where the first won, 0 where the second did, 0.5 for a tie.
    pub credit: f64,
}

/// A system's place on the Bradley–Terry scale.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Strength {
    /// Natural-log strength; the mean over systems is 0. A lead of d wins exp(d) / (1 + exp(d)) of the games.
    pub mean: f64,
    /// Lower end of the 95% interval; `None` with fewer than two characters.
    pub low: Option<f64>,
    /// Upper end.
    pub high: Option<f64>,
    /// Its share of the points of its games.
    pub share: f64,
    /// Its games.
    pub games: usize,
}

/// Bradley–Terry strengths of `systems` systems (Bradley and Terry, 1952), with intervals by drawing whole characters. A
/// tie is half a win for each.
///
/// Each system also ties once with an imaginary one of strength 0. It keeps the strength of a system that won or lost
/// every game finite, weighs one game against all real ones, and ties together systems that never met.
pub fn bradley_terry(games: &[Game], systems: usize, resampling: &Resampling) -> Vec<Strength> {
    let mut clusters: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut played = vec![0; systems];
    let valid = games.iter().filter(|game| game.first.max(game.second) < systems && game.first != game.second);
    for game in valid {
        let wins = clusters.entry(&game.cluster).or_insert_with(|| vec![0.0; systems * systems]);
        wins[game.first * systems + game.second] += game.credit;
        wins[game.second * systems + game.first] += 1.0 - game.credit;
        played[game.first] += 1;
        played[game.second] += 1;
    }
    let clusters: Vec<Vec<f64>> = clusters.into_values().collect();
    let all = total(clusters.iter(), systems);
    let mean = fit(&all, systems);
    let mut draws: Vec<Vec<f64>> = vec![Vec::new(); systems];
    if clusters.len() >= 2 {
        let mut random = KeyedRandom::new(resampling.seed, &["bootstrap", "bradley-terry"]);
        for _ in 0..resampling.resamples {
            let drawn: Vec<&Vec<f64>> = clusters.iter().map(|_| &clusters[random.below(clusters.len())]).collect();
            let strengths = fit(&total(drawn.into_iter(), systems), systems);
            draws.iter_mut().zip(strengths).for_each(|(draws, strength)| draws.push(strength));
        }
    }
    let strength = |(((mean, draws), games), system): (((f64, Vec<f64>), usize), usize)| {
        let (low, high) = interval(draws, mean, clusters.len());
        let won: f64 = all[system * systems..(system + 1) * systems].iter().sum();
        Strength { mean, low, high, share: won / games.max(1) as f64, games }
    };
    mean.into_iter().zip(draws).zip(played).zip(0..systems).map(strength).collect()
}

fn total<'a>(clusters: impl Iterator<Item = &'a Vec<f64>>, systems: usize) -> Vec<f64> {
    let mut total = vec![0.0; systems * systems];
    for wins in clusters {
        total.iter_mut().zip(wins).for_each(|(total, wins)| *total += wins);
    }
    total
}

/// Newton's method on the log-likelihood, which is concave; a step changes no log strength by more than 1.
fn fit(wins: &[f64], systems: usize) -> Vec<f64> {
    const MOST_STEPS: usize = 200;
    let mut strengths = vec![0.0_f64; systems];
    for _ in 0..MOST_STEPS {
        let (gradient, information) = derivatives(wins, &strengths);
        let step = solve(information, gradient);
        let largest = step.iter().fold(0.0_f64, |largest, change| largest.max(change.abs()));
        let scale = if largest > 1.0 { 1.0 / largest } else { 1.0 };
        strengths.iter_mut().zip(&step).for_each(|(strength, change)| *strength += scale * change);
        if largest < 1e-10 {
            break;
        }
    }
    let centre = strengths.iter().sum::<f64>() / systems.max(1) as f64;
    strengths.into_iter().map(|strength| strength - centre).collect()
}

/// The log-likelihood's gradient, and the negative of its second derivatives row by row.
fn derivatives(wins: &[f64], strengths: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let systems = strengths.len();
    let chance = |lead: f64| 1.0 / (1.0 + (-lead).exp());
    let (mut gradient, mut information) = (vec![0.0; systems], vec![0.0; systems * systems]);
    for system in 0..systems {
        // The tie with the imaginary system of strength 0.
        let expected = chance(strengths[system]);
        gradient[system] += 0.5 - expected;
        information[system * systems + system] += expected * (1.0 - expected);
        for other in (0..systems).filter(|&other| other != system) {
            let games = wins[system * systems + other] + wins[other * systems + system];
            let expected = chance(strengths[system] - strengths[other]);
            gradient[system] += wins[system * systems + other] - games * expected;
            information[system * systems + system] += games * expected * (1.0 - expected);
            information[system * systems + other] -= games * expected * (1.0 - expected);
        }
    }
    (gradient, information)
}

/// Gaussian elimination. The matrix is diagonally dominant (each system has its tie), so no row needs to be exchanged.
fn solve(mut matrix: Vec<f64>, mut right: Vec<f64>) -> Vec<f64> {
    let size = right.len();
    for pivot in 0..size {
        for row in pivot + 1..size {
            let factor = matrix[row * size + pivot] / matrix[pivot * size + pivot];
            for column in pivot..size {
                matrix[row * size + column] -= factor * matrix[pivot * size + column];
            }
            right[row] -= factor * right[pivot];
        }
    }
    for row in (0..size).rev() {
        let known: f64 = (row + 1..size).map(|column| matrix[row * size + column] * right[column]).sum();
        right[row] = (right[row] - known) / matrix[row * size + row];
    }
    right
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Case {
        systems: usize,
        /// First, second, credit of the first.
        games: Vec<(usize, usize, f64)>,
        strengths: Vec<f64>,
    }

    fn game(cluster: usize, first: usize, second: usize, credit: f64) -> Game {
        Game { cluster: cluster.to_string(), first, second, credit }
    }

    #[test]
    fn agrees_with_the_choix_package() {
        // Written by xtask/golden/make_eval_golden.py, the imaginary system included.
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/data/bradley_terry.json")).unwrap();
        assert!(cases.len() >= 10);
        for case in cases {
            let games: Vec<Game> = case
                .games
                .iter()
                .enumerate()
                .map(|(index, &(first, second, credit))| game(index % 5, first, second, credit))
                .collect();
            let resampling = Resampling { resamples: 10, ..Resampling::default() };
            let found = bradley_terry(&games, case.systems, &resampling);
            for (found, expected) in found.iter().zip(&case.strengths) {
                assert!((found.mean - expected).abs() < 1e-5, "{found:?} {expected}");
            }
        }
    }

    #[test]
    fn intervals_hold_the_true_strengths_at_about_the_stated_rate() {
        let truth = [0.6, 0.0, -0.6];
        let mut random = KeyedRandom::new(5, &["arena"]);
        let (mut covered, trials) = (0, 120);
        for _ in 0..trials {
            let mut games = Vec::new();
            for cluster in 0..40 {
                for (first, second) in [(0, 1), (0, 2), (1, 2)] {
                    for _ in 0..4 {
                        let chance = 1.0 / (1.0 + f64::exp(truth[second] - truth[first]));
                        games.push(game(cluster, first, second, f64::from(u8::from(random.uniform() < chance))));
                    }
                }
            }
            let resampling = Resampling { resamples: 300, ..Resampling::default() };
            let found = bradley_terry(&games, 3, &resampling);
            let inside = |(found, truth): (&Strength, f64)| found.low.unwrap() <= truth && truth <= found.high.unwrap();
            covered += found.iter().zip(truth).filter(|&(found, truth)| inside((found, truth))).count();
        }
        let rate = covered as f64 / f64::from(3 * trials);
        assert!((0.90..=0.98).contains(&rate), "{rate}");
    }

    #[test]
    fn a_system_that_always_wins_has_a_finite_lead() {
        let games: Vec<Game> = (0..20).map(|cluster| game(cluster, 0, 1, 1.0)).collect();
        let found = bradley_terry(&games, 2, &Resampling::default());
        assert!(found[0].mean > 1.0 && found[0].mean.is_finite(), "{found:?}");
        assert_eq!((found[0].share, found[1].share, found[0].games), (1.0, 0.0, 20));
        assert!(bradley_terry(&[], 0, &Resampling::default()).is_empty());
    }
}

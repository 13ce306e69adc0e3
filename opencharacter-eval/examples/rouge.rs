//! Reads `prediction` and `references` as JSON Lines from standard input and writes the best Rouge-L of each line.

use std::io::BufRead as _;

use opencharacter_eval::best_rouge_l;

#[derive(serde::Deserialize)]
struct Row {
    prediction: String,
    references: Vec<String>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for line in std::io::stdin().lock().lines() {
        let row: Row = serde_json::from_str(&line?)?;
        println!("{}", best_rouge_l(&row.prediction, &row.references).unwrap_or(0.0));
    }
    Ok(())
}

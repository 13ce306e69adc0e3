//! Texts per second of deduplication and clustering, and a check against comparing everything with everything.
//!
//!     cargo run --release -p opencharacter-similarity --example similarity_bench -- PERSONAS.jsonl [TEXTS] [OUT.jsonl]
//!
//! `PERSONAS.jsonl` has lines with a field `persona`. They are repeated, each copy with up to half of its words
//! changed, to `TEXTS` texts (default 500000), which are also written to `OUT.jsonl` for `datasketch_peer.py`.

use std::{collections::HashMap, error::Error, fs, time::Instant};

use opencharacter_core::KeyedRandom;
use opencharacter_similarity::{Index, Pair, Similarity};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().ok_or("usage: similarity_bench PERSONAS.jsonl [TEXTS] [OUT.jsonl]")?;
    let count = arguments.next().map_or(Ok(500_000), |count| count.parse())?;
    let personas = read_personas(&path)?;
    check(&personas);

    let texts: Vec<String> = (0..count).map(|number| perturbed(&personas, number)).collect();
    if let Some(out) = arguments.next() {
        let lines: Vec<String> =
            texts.iter().map(|text| serde_json::json!({ "persona": text }).to_string() + "\n").collect();
        fs::write(out, lines.concat())?;
    }
    let words: usize = texts.iter().map(|text| text.split(' ').count()).sum();
    println!(
        "{count} texts of {:.1} words on {} threads",
        words as f64 / count as f64,
        std::thread::available_parallelism()?
    );
    for (shingle, threshold) in [(3, 0.8), (3, 0.5), (1, 0.7)] {
        measure(Similarity::new(shingle, threshold)?, &texts);
    }
    Ok(())
}

fn read_personas(path: &str) -> Result<Vec<String>, Box<dyn Error>> {
    let text = fs::read_to_string(path)?;
    let persona = |line: &str| -> Result<String, Box<dyn Error>> {
        let row: serde_json::Value = serde_json::from_str(line)?;
        Ok(row["persona"].as_str().ok_or("a line without `persona`")?.to_owned())
    };
    text.lines().map(persona).collect()
}

/// The first copies are the personas themselves; of later ones, a quarter is, and the others have changed words.
fn perturbed(personas: &[String], number: usize) -> String {
    let persona = &personas[number % personas.len()];
    let mut random = KeyedRandom::new(1, &["perturbed", &number.to_string()]);
    let mut words: Vec<String> = persona.split(' ').map(str::to_owned).collect();
    if number < personas.len() || random.below(4) == 0 {
        return persona.clone();
    }
    let changes = 1 + random.below(words.len() / 2 + 1);
    for _ in 0..changes {
        let place = random.below(words.len());
        words[place] = format!("word{}", random.below(100_000));
    }
    words.join(" ")
}

fn measure(similarity: Similarity, texts: &[String]) {
    println!("\nshingles of {} words, threshold {}", similarity.shingle(), similarity.threshold());
    let rate = |begin: Instant| texts.len() as f64 / begin.elapsed().as_secs_f64();

    let mut index = Index::new(similarity);
    let begin = Instant::now();
    index.insert_all(texts);
    println!(
        "  Index::insert_all    {:>9.0} texts/s, {} kept, {} MB",
        rate(begin),
        index.kept(),
        index.bytes() / 1_000_000
    );
    println!("                       {:>9} bytes per kept text", index.bytes() / index.kept().max(1));

    let mut index = Index::new(similarity);
    let begin = Instant::now();
    for text in texts {
        index.insert(text);
    }
    println!("  Index::insert        {:>9.0} texts/s", rate(begin));

    let begin = Instant::now();
    let clusters = similarity.clusters(texts);
    let different = clusters.iter().enumerate().filter(|(place, first)| place == *first).count();
    println!("  Similarity::clusters {:>9.0} texts/s, {different} clusters", rate(begin));
}

/// Pairs among 5,000 texts, real ones and perturbed ones, against brute force.
fn check(personas: &[String]) {
    let real: Vec<String> = personas.iter().take(5_000).cloned().collect();
    let some = &personas[..personas.len().min(500)];
    let mixed: Vec<String> = (0..5_000).map(|number| perturbed(some, number)).collect();
    for (name, texts) in [("personas", &real), ("perturbed personas", &mixed)] {
        for (shingle, threshold) in [(3, 0.8), (3, 0.5), (2, 0.5), (1, 0.7)] {
            let Ok(similarity) = Similarity::new(shingle, threshold) else { continue };
            let begin = Instant::now();
            let found = similarity.pairs(texts);
            let seconds = begin.elapsed().as_secs_f64();
            let begin = Instant::now();
            let expected = brute_force(similarity, texts);
            println!(
                "{} {name}, shingles of {shingle}, threshold {threshold}: {} pairs in {seconds:.3} s, {} by brute force in {:.1} s: {}",
                texts.len(),
                found.len(),
                expected.len(),
                begin.elapsed().as_secs_f64(),
                if found == expected { "equal" } else { "DIFFERENT" }
            );
        }
    }
}

/// By the definition, on numbered strings: no hash decides what is equal.
fn brute_force(similarity: Similarity, texts: &[String]) -> Vec<Pair> {
    let mut numbers: HashMap<String, usize> = HashMap::new();
    let sets: Vec<Vec<usize>> = texts
        .iter()
        .map(|text| {
            let lower = text.to_lowercase().replace(['\'', '’', '‘'], "");
            let words: Vec<&str> =
                lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
            let length = similarity.shingle().min(words.len()).max(1);
            let mut set: Vec<usize> = words
                .windows(length)
                .map(|window| {
                    let next = numbers.len();
                    *numbers.entry(window.join(" ")).or_insert(next)
                })
                .collect();
            set.sort_unstable();
            set.dedup();
            set
        })
        .collect();
    let mut pairs = Vec::new();
    for first in 0..sets.len() {
        for second in first + 1..sets.len() {
            let (left, right) = (&sets[first], &sets[second]);
            let (mut place, mut shared) = (0, 0);
            for number in left {
                while place < right.len() && right[place] < *number {
                    place += 1;
                }
                shared += usize::from(right.get(place) == Some(number));
            }
            let either = left.len() + right.len() - shared;
            let similar = if either == 0 { 1.0 } else { shared as f64 / either as f64 };
            if similar >= similarity.threshold() {
                pairs.push(Pair { first, second, similarity: similar });
            }
        }
    }
    pairs
}

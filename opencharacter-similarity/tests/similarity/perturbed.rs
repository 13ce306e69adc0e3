//! Personas and copies of them with changed, lost, added and exchanged words.

use std::fs;

use opencharacter_core::KeyedRandom;

/// `count` texts: the personas in `assets/`, over and over, each copy changed by a keyed draw.
pub fn personas(count: usize) -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/personas.jsonl");
    let personas: Vec<String> = fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["persona"].as_str().unwrap().to_owned())
        .collect();
    (0..count).map(|number| changed(&personas[number % personas.len()], number)).collect()
}

fn changed(text: &str, number: usize) -> String {
    let mut random = KeyedRandom::new(1, &["perturbed", &number.to_string()]);
    let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    for _ in 0..random.below(4) {
        let place = random.below(words.len());
        match random.below(4) {
            0 => words[place] = format!("word{}", random.below(9)),
            1 if words.len() > 4 => drop(words.remove(place)),
            2 => words.insert(place, format!("word{}", random.below(9))),
            _ => words.swap(0, place),
        }
    }
    words.join(" ")
}

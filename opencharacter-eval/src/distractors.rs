use opencharacter_core::{Character, KeyedRandom};
use opencharacter_similarity::Similarity;

use crate::{DistractorChoice, EvalOptions};

/// Chooses wrong characters, by their ids and texts alone, so that the list's order does not change the choice.
pub(crate) struct Distractors<'a> {
    characters: &'a [Character],
    options: &'a EvalOptions,
    /// For each character all others, nearest first; empty where distractors are drawn.
    near: Vec<Vec<usize>>,
}

impl<'a> Distractors<'a> {
    pub(crate) fn new(characters: &'a [Character], options: &'a EvalOptions) -> Self {
        let near = match options.distractor_choice {
            DistractorChoice::Random => Vec::new(),
            DistractorChoice::Near => nearest_first(characters),
        };
        Self { characters, options, near }
    }

    /// Wrong characters for an item of the `character`-th.
    pub(crate) fn of(&self, item_id: &str, character: usize) -> Vec<usize> {
        let count = self.options.distractors;
        if let Some(near) = self.near.get(character) {
            return near.iter().copied().take(count).collect();
        }
        let draw = |other: &Character| {
            let key = ["eval", "distractors", item_id, other.character_id.as_str()];
            KeyedRandom::new(self.options.seed, &key).next_u64()
        };
        let others = self.characters.iter().enumerate().filter(|&(index, _)| index != character);
        let mut ranked: Vec<(u64, usize)> = others.map(|(index, other)| (draw(other), index)).collect();
        ranked.sort_unstable();
        ranked.into_iter().take(count).map(|(_, index)| index).collect()
    }
}

/// By the words that two characters' texts share, names left out; ties by id.
fn nearest_first(characters: &[Character]) -> Vec<Vec<usize>> {
    let described = |character: &Character| {
        let mut nameless = character.profile.clone();
        nameless.name.clear();
        format!("{}\n{}", character.persona, nameless.to_text())
    };
    let texts: Vec<String> = characters.iter().map(described).collect();
    // Single words; the threshold plays no part in a plain comparison.
    let Ok(by_words) = Similarity::new(1, 0.5) else { return Vec::new() };
    let ranked = |place: usize| {
        let mut others: Vec<usize> = (0..characters.len()).filter(|&other| other != place).collect();
        let likeness: Vec<f64> = texts.iter().map(|text| by_words.of(&texts[place], text)).collect();
        others.sort_by(|&a, &b| {
            let by_id = || characters[a].character_id.cmp(&characters[b].character_id);
            likeness[b].total_cmp(&likeness[a]).then_with(by_id)
        });
        others
    };
    (0..characters.len()).map(ranked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_ones_share_words_and_drawn_ones_do_not_depend_on_order() {
        let person = |persona: &str| {
            let mut character = Character::from_name(persona, "", "");
            character.persona = persona.to_owned();
            character
        };
        let mut all = ["a baker who sings", "a baker who sleeps", "the judge of Rome", "the judge of Bonn"].map(person);
        let near = EvalOptions { distractors: 1, distractor_choice: DistractorChoice::Near, ..EvalOptions::default() };
        let chosen: Vec<usize> = (0..4).flat_map(|place| Distractors::new(&all, &near).of("item", place)).collect();
        assert_eq!(chosen, [1, 0, 3, 2]);
        let drawn = EvalOptions { distractors: 2, ..EvalOptions::default() };
        let names = |all: &[Character], place: usize| -> Vec<String> {
            let chosen = Distractors::new(all, &drawn).of("item", place);
            chosen.into_iter().map(|other| all[other].persona.clone()).collect()
        };
        let before = names(&all, 0);
        all.reverse();
        assert_eq!(names(&all, 3), before);
    }
}

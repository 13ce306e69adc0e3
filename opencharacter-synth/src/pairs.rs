//! Preference pairs from dialogues: the same question answered by the right and by a wrong character.

use std::collections::HashMap;

use opencharacter_core::{Dialogue, KeyedRandom, Message, PreferencePair, Role, short_id};

/// Pairs, and how many dialogues found no partner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairedDialogues {
    /// One per dialogue that found a partner, in the dialogues' order.
    pub pairs: Vec<PreferencePair>,
    /// Dialogues whose questions no other character answered otherwise.
    pub alone: usize,
}

/// Pairs each dialogue with one of another character to whom the same questions were put: its own last answer is
/// chosen, the other's rejected. Which other is a draw keyed by `seed` and the dialogue's id.
pub fn pair_dialogues(dialogues: &[Dialogue], seed: u64) -> PairedDialogues {
    let mut by_questions: HashMap<Vec<&str>, Vec<&Dialogue>> = HashMap::new();
    for dialogue in dialogues {
        by_questions.entry(questions(dialogue)).or_default().push(dialogue);
    }
    for group in by_questions.values_mut() {
        group.sort_unstable_by(|left, right| left.dialogue_id.cmp(&right.dialogue_id));
    }
    let pair = |dialogue: &Dialogue| {
        let (chosen, prompt) = last_answer(dialogue)?;
        let rivals: Vec<(&Dialogue, &Message)> = by_questions[&questions(dialogue)]
            .iter()
            .filter(|other| other.character_id != dialogue.character_id)
            .filter_map(|other| Some((*other, last_answer(other)?.0)))
            .filter(|(_, answer)| answer.content != chosen.content)
            .collect();
        let mut random = KeyedRandom::new(seed, &["pair", &dialogue.dialogue_id]);
        let (other, rejected) = (!rivals.is_empty()).then(|| rivals[random.below(rivals.len())])?;
        Some(PreferencePair {
            pair_id: short_id("pair", &[&dialogue.dialogue_id, &other.dialogue_id]),
            character_id: dialogue.character_id.clone(),
            prompt: prompt.to_vec(),
            chosen: vec![chosen.clone()],
            rejected: vec![rejected.clone()],
            rejected_character_id: Some(other.character_id.clone()),
        })
    };
    let pairs: Vec<PreferencePair> = dialogues.iter().filter_map(pair).collect();
    let alone = dialogues.len() - pairs.len();
    PairedDialogues { pairs, alone }
}

fn questions(dialogue: &Dialogue) -> Vec<&str> {
    let users = dialogue.messages.iter().filter(|message| message.role == Role::User);
    users.map(|message| message.content.trim()).collect()
}

/// A dialogue's answer at its end, and what came before.
fn last_answer(dialogue: &Dialogue) -> Option<(&Message, &[Message])> {
    let (last, before) = dialogue.messages.split_last()?;
    (last.role == Role::Assistant && !before.is_empty()).then_some((last, before))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialogue(id: &str, character: &str, question: &str, answer: &str) -> Dialogue {
        Dialogue {
            dialogue_id: id.into(),
            character_id: character.into(),
            question_source: String::new(),
            strategy: None,
            messages: vec![Message::user(question), Message::assistant(answer)],
            provenance: None,
        }
    }

    #[test]
    fn a_pair_is_one_question_and_two_characters() {
        let dialogues = [
            dialogue("1", "ada", "Who are you?", "Ada."),
            dialogue("2", "bo", "Who are you?", "Bo."),
            // Another way that Ada could have answered is nothing to avoid.
            dialogue("3", "ada", "Who are you?", "The keeper."),
            dialogue("4", "bo", "What do you eat?", "Fish."),
            // The same words cannot be better than themselves.
            dialogue("5", "cy", "Is it day?", "Yes."),
            dialogue("6", "di", "Is it day?", "Yes."),
            Dialogue { messages: vec![Message::user("Who are you?")], ..dialogue("7", "ed", "", "") },
        ];
        let made = pair_dialogues(&dialogues, 1);
        assert_eq!(made.alone, 4);
        let shown: Vec<[&str; 4]> = made
            .pairs
            .iter()
            .map(|pair| {
                let other = pair.rejected_character_id.as_deref().unwrap();
                [pair.character_id.as_str(), &pair.chosen[0].content, other, &pair.rejected[0].content]
            })
            .collect();
        assert_eq!(shown[0], ["ada", "Ada.", "bo", "Bo."]);
        assert!(shown[1] == ["bo", "Bo.", "ada", "Ada."] || shown[1] == ["bo", "Bo.", "ada", "The keeper."]);
        assert_eq!(shown[2], ["ada", "The keeper.", "bo", "Bo."]);
        assert!(made.pairs.iter().all(|pair| pair.prompt == [Message::user("Who are you?")]));
        assert_eq!(pair_dialogues(&dialogues, 1), made);
    }

    #[test]
    fn the_order_of_dialogues_changes_no_pair() {
        let names = ["ada", "bo", "cy", "di", "ed"];
        let mut dialogues: Vec<Dialogue> =
            names.iter().map(|name| dialogue(name, name, "Who are you?", name)).collect();
        let mut made = pair_dialogues(&dialogues, 3).pairs;
        dialogues.reverse();
        let mut reversed = pair_dialogues(&dialogues, 3).pairs;
        for pairs in [&mut made, &mut reversed] {
            pairs.sort_by(|left, right| left.character_id.cmp(&right.character_id));
        }
        assert_eq!(made, reversed);
    }
}

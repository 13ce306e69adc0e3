use std::fmt;

use opencharacter_core::{Character, Dialogue, ProfileField, Role};
use opencharacter_similarity::{Index, Similarity};
use serde::Serialize;

/// What of a character is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CharacterText {
    /// The one-line persona.
    Persona,
    /// The values of the eight profile fields.
    Profile,
}

/// What of a dialogue is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DialogueText {
    /// All that the user says. Many characters answering one question are near-duplicates by this.
    Questions,
    /// All that the character says.
    Answers,
    /// Both: the same answer to another question is no duplicate.
    QuestionsAndAnswers,
}

/// A row to leave out, and the one to keep in its place. Shown as ``near-duplicate of row 12, `ID` (similarity 0.86)``.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DuplicateRow {
    /// The row's number from 1.
    pub row: usize,
    /// Its id.
    pub id: String,
    /// The number from 1 of the kept row that it resembles most.
    pub of_row: usize,
    /// That row's id.
    pub of_id: String,
    /// The Jaccard index of the texts' shingles.
    pub similarity: f64,
    /// Whether both texts have the same words in the same order.
    pub exact: bool,
}

impl fmt::Display for DuplicateRow {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        let Self { of_row, of_id, similarity, exact, .. } = self;
        if *exact {
            write!(formatter, "duplicate of row {of_row}, `{of_id}`")
        } else {
            write!(formatter, "near-duplicate of row {of_row}, `{of_id}` (similarity {similarity:.2})")
        }
    }
}

/// The characters to leave out because an earlier one that stays is like them.
pub fn duplicate_characters(
    characters: &[Character],
    compared: CharacterText,
    similarity: Similarity,
) -> Vec<DuplicateRow> {
    let row = |character: &Character| (character.character_id.clone(), compared.of(character));
    duplicate_rows(&characters.iter().map(row).collect::<Vec<_>>(), similarity)
}

/// The dialogues to leave out because an earlier one that stays is like them.
pub fn duplicate_dialogues(
    dialogues: &[Dialogue],
    compared: DialogueText,
    similarity: Similarity,
) -> Vec<DuplicateRow> {
    let row = |dialogue: &Dialogue| (dialogue.dialogue_id.clone(), compared.of(dialogue));
    duplicate_rows(&dialogues.iter().map(row).collect::<Vec<_>>(), similarity)
}

/// The rows (id and text) to leave out because an earlier one that stays is like them.
///
/// A row without a word has nothing to compare and is never left out.
pub fn duplicate_rows(rows: &[(String, String)], similarity: Similarity) -> Vec<DuplicateRow> {
    let told: Vec<usize> = (0..rows.len()).filter(|&row| rows[row].1.chars().any(char::is_alphanumeric)).collect();
    let texts: Vec<&str> = told.iter().map(|&row| rows[row].1.as_str()).collect();
    let found = Index::new(similarity).insert_all(&texts);
    let named = |(&row, found): (&usize, Option<opencharacter_similarity::Duplicate>)| {
        let found = found?;
        let of = told[found.of];
        Some(DuplicateRow {
            row: row + 1,
            id: rows[row].0.clone(),
            of_row: of + 1,
            of_id: rows[of].0.clone(),
            similarity: found.similarity,
            exact: found.exact,
        })
    };
    told.iter().zip(found).filter_map(named).collect()
}

impl CharacterText {
    fn of(self, character: &Character) -> String {
        match self {
            Self::Persona => character.persona.clone(),
            // Without the labels, which all profiles share.
            Self::Profile => ProfileField::ALL.map(|field| character.profile.get(field)).join("\n"),
        }
    }
}

impl DialogueText {
    fn of(self, dialogue: &Dialogue) -> String {
        let is_compared = |role| match self {
            Self::Questions => role == Role::User,
            Self::Answers => role == Role::Assistant,
            Self::QuestionsAndAnswers => role != Role::System,
        };
        let said = dialogue.messages.iter().filter(|message| is_compared(message.role));
        said.map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
    }
}

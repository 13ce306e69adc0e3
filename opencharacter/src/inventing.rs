//! Characters made of one line, outside of a run: for `chat`, `card create` and the server.

use anyhow::{Context as _, Result};
use opencharacter_card::Card;
use opencharacter_core::{Character, Generate, Persona};
use opencharacter_ledger::{Ledger, LedgeredModel};
use opencharacter_synth::{
    Collected, ProfileOptions, Templates, Work, in_memory, synthesize_profiles, write_card_texts,
};

/// Calls that are kept only while a character is made.
pub struct Notebook {
    ledger: Ledger,
    // Removed with the value.
    _folder: tempfile::TempDir,
}

impl Notebook {
    /// An empty one.
    pub fn new() -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
        Ok(Self { ledger: Ledger::open(folder.path().join("ledger"))?, _folder: folder })
    }

    /// `model` with its calls kept here.
    pub fn model<'a>(&'a self, model: &'a dyn Generate) -> LedgeredModel<'a> {
        LedgeredModel::new(model, &self.ledger)
    }
}

/// A character with a profile written for `persona`; nothing where no acceptable one came out.
pub async fn invent(persona: &Persona, model: LedgeredModel<'_>, seed: u64) -> Result<Option<Character>> {
    let options = ProfileOptions { seed, ..ProfileOptions::default() };
    let templates = Templates::default();
    let silent = |_| {};
    let work = Work::new(model, &silent);
    let mut collected = Collected::default();
    synthesize_profiles(in_memory([persona.clone()]), &options, &templates, work, &mut collected).await?;
    Ok(collected.rows.pop())
}

/// A card of `character` with greetings and examples in its own words.
pub async fn card_with_words(character: &Character, model: LedgeredModel<'_>, seed: u64) -> Result<Card> {
    let texts = write_card_texts(character, model, seed).await.context("the greetings cannot be written")?;
    let mut card = Card::from_character(character);
    let mut greetings = texts.greetings.into_iter();
    card.first_mes = greetings.next().unwrap_or_default();
    card.alternate_greetings = greetings.collect();
    for (question, answer) in texts.examples {
        card.mes_example.extend(["<START>\n{{user}}: ", &question, "\n{{char}}: ", &answer, "\n"]);
    }
    Ok(card)
}

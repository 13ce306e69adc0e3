//! No two characters of one name.
//!
//! Which names are taken depends on the characters before, and waiting for those would make synthesis one call after
//! the other. So all profiles are made first, and those whose name an earlier one has are made again with that name
//! excluded, until nobody shares a name. What was made before is in the ledger: a round costs the calls of the
//! colliding characters and a replay of the others. The result depends on the order of the personas alone.

use std::{
    collections::{BTreeMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use futures_util::Stream;
use opencharacter_core::{Character, Persona};

use crate::{
    PersonaFacts, ProfileOptions, RejectedItem, Sink, Summary, SynthError, Templates, Work, synthesize_profiles,
    text::normalise,
};

/// Names that characters may not have, by `character_id`: those that they were given, and that others have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TakenNames(BTreeMap<String, Vec<String>>);

impl TakenNames {
    /// The names that this character may not have.
    pub fn of(&self, character_id: &str) -> &[String] {
        self.0.get(character_id).map(Vec::as_slice).unwrap_or_default()
    }

    /// Excludes a name for a character.
    pub fn add(&mut self, character_id: &str, name: &str) {
        self.0.entry(character_id.to_owned()).or_default().push(name.to_owned());
    }
}

/// Rounds of making profiles again; a teacher that knows a handful of names would go on for ever.
const ROUNDS: usize = 8;

/// [`synthesize_profiles`], and no two characters of one name, as far as 8 rounds of making them again bring.
///
/// Names are compared without case and punctuation. Two personas that state the same name both keep it. `personas`
/// gives the same personas each time.
///
/// # Errors
/// Those of [`synthesize_profiles`] and of `personas`.
pub async fn synthesize_distinct_profiles<S>(
    personas: impl AsyncFn() -> Result<S, SynthError>,
    options: &ProfileOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Character>,
) -> Result<Summary, SynthError>
where
    S: Stream<Item = Result<Persona, SynthError>>,
{
    let mut options = options.clone();
    let mut work = work;
    for _ in 0..ROUNDS {
        let mut names = Names::default();
        let made = synthesize_profiles(personas().await?, &options, templates, work, &mut names).await?;
        // Once is what was asked for.
        work.model.retry_refused = false;
        names.shared.iter().for_each(|(id, name)| options.taken_names.add(id, name));
        // Without means to ask again, what there is has to do.
        if names.shared.is_empty() || made.stopped_by.is_some() {
            break;
        }
    }
    synthesize_profiles(personas().await?, &options, templates, work, sink).await
}

/// Finds characters whose name an earlier one has.
#[derive(Default)]
struct Names {
    /// Hashes: a million names stay small, and a collision of hashes only makes a profile again.
    seen: HashSet<u64>,
    /// Character's id and name.
    shared: Vec<(String, String)>,
}

impl Sink<Character> for Names {
    async fn row(&mut self, character: Character) -> Result<(), SynthError> {
        let name = character.profile.name;
        let is_new = self.seen.insert(hash(&normalise(&name)));
        if !is_new && PersonaFacts::of(&character.persona).name.is_none() {
            self.shared.push((character.character_id, name));
        }
        Ok(())
    }

    async fn rejected(&mut self, _: RejectedItem) -> Result<(), SynthError> {
        Ok(())
    }
}

fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

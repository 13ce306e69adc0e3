use std::borrow::Cow;

use opencharacter_core::{Character, KeyedRandom, Profile};
use serde::{Deserialize, Serialize};

/// How many dialogues are trained with only a part of what is known of their character.
///
/// The paper trains with persona and profile and is tested by `PersonaGym`, which gives the persona alone: a model that
/// has always seen both has never had to make do with one. Which dialogues lack what is keyed by their id, so that it is
/// the same in every epoch and after a resume.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProfileDropout {
    /// Share of dialogues that see the one-line persona only.
    pub persona_only: f64,
    /// Share of dialogues that see the profile only.
    pub profile_only: f64,
}

impl ProfileDropout {
    /// Checks that the shares are shares; the error is the setting's name and what it must be.
    pub(crate) fn validate(self) -> Result<(), (&'static str, String)> {
        for (name, share) in
            [("profile_dropout.persona_only", self.persona_only), ("profile_dropout.profile_only", self.profile_only)]
        {
            if !(0.0..=1.0).contains(&share) {
                return Err((name, "must be from 0 to 1".into()));
            }
        }
        if self.persona_only + self.profile_only > 1.0 {
            return Err(("profile_dropout", "the two shares must not be more than 1 together".into()));
        }
        Ok(())
    }

    /// The character as the dialogue `id` sees it. A character who would be left without anything is seen whole.
    pub(crate) fn apply<'a>(self, character: &'a Character, seed: u64, id: &str) -> Cow<'a, Character> {
        let draw = KeyedRandom::new(seed, &["profile dropout", id]).uniform();
        if draw < self.persona_only && !character.persona.is_empty() {
            Cow::Owned(Character { profile: Profile::default(), ..character.clone() })
        } else if (self.persona_only..self.persona_only + self.profile_only).contains(&draw)
            && character.profile != Profile::default()
        {
            Cow::Owned(Character { persona: String::new(), ..character.clone() })
        } else {
            Cow::Borrowed(character)
        }
    }
}

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::{Provenance, short_id};

/// A one-line persona, the seed of a [`Character`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Persona {
    /// Follows from the text; the character made of it carries the same id.
    pub character_id: String,
    /// The line itself, trimmed.
    pub persona: String,
    /// Where the line comes from (a file's name or a data set's).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The licence of that source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub license: String,
}

impl Persona {
    /// A persona whose id follows from its trimmed text.
    pub fn new(text: &str, source: impl Into<String>, license: impl Into<String>) -> Self {
        let text = text.trim();
        Self {
            character_id: short_id("character", &[text]),
            persona: text.to_owned(),
            source: source.into(),
            license: license.into(),
        }
    }
}

/// The paper's eight profile fields (OpenCharacter, section 3.1). An empty string means "not known".
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Profile {
    /// Full name.
    pub name: String,
    /// Age, as text: usually a number of years.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub age: String,
    /// Gender.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub gender: String,
    /// Race or ethnicity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub race: String,
    /// Birth place.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub birth_place: String,
    /// Appearance.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub appearance: String,
    /// Life so far: family, schooling, work.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub general_experience: String,
    /// Temperament and way of speaking.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub personality: String,
}

/// The name of one field of a [`Profile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProfileField {
    /// `name`
    Name,
    /// `age`
    Age,
    /// `gender`
    Gender,
    /// `race`
    Race,
    /// `birth_place`
    BirthPlace,
    /// `appearance`
    Appearance,
    /// `general_experience`
    GeneralExperience,
    /// `personality`
    Personality,
}

impl ProfileField {
    /// All fields in the paper's order.
    pub const ALL: [Self; 8] = [
        Self::Name,
        Self::Age,
        Self::Gender,
        Self::Race,
        Self::BirthPlace,
        Self::Appearance,
        Self::GeneralExperience,
        Self::Personality,
    ];

    /// The field's key in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Age => "age",
            Self::Gender => "gender",
            Self::Race => "race",
            Self::BirthPlace => "birth_place",
            Self::Appearance => "appearance",
            Self::GeneralExperience => "general_experience",
            Self::Personality => "personality",
        }
    }

    /// The field's label in the paper's profile text.
    pub fn label(self) -> &'static str {
        match self {
            Self::Name => "Name",
            Self::Age => "Age",
            Self::Gender => "Gender",
            Self::Race => "Race",
            Self::BirthPlace => "Birth Place",
            Self::Appearance => "Appearance",
            Self::GeneralExperience => "General Experience",
            Self::Personality => "Personality",
        }
    }
}

impl Profile {
    /// The value of `field`.
    pub fn get(&self, field: ProfileField) -> &str {
        match field {
            ProfileField::Name => &self.name,
            ProfileField::Age => &self.age,
            ProfileField::Gender => &self.gender,
            ProfileField::Race => &self.race,
            ProfileField::BirthPlace => &self.birth_place,
            ProfileField::Appearance => &self.appearance,
            ProfileField::GeneralExperience => &self.general_experience,
            ProfileField::Personality => &self.personality,
        }
    }

    fn slot(&mut self, field: ProfileField) -> &mut String {
        match field {
            ProfileField::Name => &mut self.name,
            ProfileField::Age => &mut self.age,
            ProfileField::Gender => &mut self.gender,
            ProfileField::Race => &mut self.race,
            ProfileField::BirthPlace => &mut self.birth_place,
            ProfileField::Appearance => &mut self.appearance,
            ProfileField::GeneralExperience => &mut self.general_experience,
            ProfileField::Personality => &mut self.personality,
        }
    }

    /// Sets the value of `field`.
    pub fn set(&mut self, field: ProfileField, value: impl Into<String>) {
        *self.slot(field) = value.into();
    }

    /// Reads [`Profile::to_text`], and what people write like it: a line without a known label belongs to the one before,
    /// text before any label to the person's life. List marks and asterisks around labels are left out.
    pub fn from_text(text: &str) -> Self {
        let mut profile = Self::default();
        let mut current = ProfileField::GeneralExperience;
        for line in text.lines() {
            let line = line.trim().trim_start_matches(['-', '*', '#', ' ']);
            let labelled = line.split_once(':').and_then(|(label, value)| {
                let label = label.trim().trim_matches('*').trim();
                let field = ProfileField::ALL.into_iter().find(|field| field.label().eq_ignore_ascii_case(label))?;
                Some((field, value.trim_start_matches('*')))
            });
            let value = match labelled {
                Some((field, value)) => {
                    current = field;
                    value
                }
                None => line,
            };
            let value = value.trim();
            if !value.is_empty() {
                let slot = profile.slot(current);
                if !slot.is_empty() {
                    slot.push('\n');
                }
                slot.push_str(value);
            }
        }
        profile
    }

    /// The profile as the paper stores it: one `Label: value` line per known field, beginning with `Name:`.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for field in ProfileField::ALL {
            let value = self.get(field);
            if !value.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "{}: {value}", field.label());
            }
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// A persona with its profile: what a model is asked to play.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Character {
    /// Follows from the persona's text.
    pub character_id: String,
    /// The one-line persona; empty for a character of which only a name is known.
    #[serde(default)]
    pub persona: String,
    /// The eight fields, stored flat beside the others.
    #[serde(flatten)]
    pub profile: Profile,
    /// Where the persona comes from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// The licence of that source.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// How the profile was made; absent for imported characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Provenance>,
}

impl Character {
    /// A character of which only the name is known, as RoleBench's roles are.
    pub fn from_name(name: &str, source: impl Into<String>, license: impl Into<String>) -> Self {
        let name = name.trim();
        Self {
            character_id: short_id("character", &["name", name]),
            persona: String::new(),
            profile: Profile { name: name.to_owned(), ..Profile::default() },
            source: source.into(),
            license: license.into(),
            provenance: None,
        }
    }

    /// The name, or the persona's beginning where no name is known.
    pub fn display_name(&self) -> &str {
        if !self.profile.name.is_empty() {
            return &self.profile.name;
        }
        let end = self.persona.char_indices().nth(40).map_or(self.persona.len(), |(index, _)| index);
        &self.persona[..end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profile_text_starts_with_the_name_and_skips_the_unknown() {
        let profile = Profile { name: "Ada".into(), birth_place: "London".into(), ..Profile::default() };
        assert_eq!(profile.to_text(), "Name: Ada\nBirth Place: London");
    }

    #[test]
    fn profile_text_is_read_back() {
        let profile = Profile {
            name: "Ada".into(),
            age: "52".into(),
            general_experience: "Keeper.\nWidow.".into(),
            ..Profile::default()
        };
        assert_eq!(Profile::from_text(&profile.to_text()), profile);
        let written = Profile::from_text("Born by the sea.\n- **Birth Place**: Skagen\n* age: 52");
        assert_eq!(
            [written.general_experience, written.birth_place, written.age],
            ["Born by the sea.", "Skagen", "52"]
        );
    }

    #[test]
    fn characters_are_flat_json() {
        let character = Character::from_name("John Coffey", "RoleBench", "Apache-2.0");
        let json = serde_json::to_value(&character).unwrap();
        assert_eq!(json["name"], "John Coffey");
        assert_eq!(serde_json::from_value::<Character>(json).unwrap(), character);
    }
}

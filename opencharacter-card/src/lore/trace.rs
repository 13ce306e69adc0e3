use std::fmt;

use opencharacter_core::Role;
use serde::Serialize;

/// What became of one lorebook entry in one prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LoreTrace {
    /// The book's name; empty for one that has none.
    pub book: String,
    /// The entry's place in its book's list, counted from 0.
    pub index: usize,
    /// What a person knows it by.
    pub entry: String,
    /// What it costs, or would have; 0 where it was not counted.
    pub tokens: usize,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Inserted or left out, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It is in the prompt.
    Inserted {
        /// Where.
        place: LorePlace,
        /// Whose words it is given as.
        role: Role,
        /// Why.
        because: Because,
    },
    /// It is not.
    LeftOut {
        /// Why.
        because: LeftOut,
    },
}

/// Where an entry stands in the prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LorePlace {
    /// Before everything that is said of the character.
    BeforeCharacter,
    /// Directly before the description.
    BeforeDescription,
    /// Directly after the description.
    AfterDescription,
    /// With the personality.
    Personality,
    /// With the scenario.
    Scenario,
    /// After everything that is said of the character.
    AfterCharacter,
    /// Before the example dialogues.
    BeforeExamples,
    /// After the example dialogues.
    AfterExamples,
    /// So many messages before the end of the history.
    Depth(usize),
    /// So many messages after its beginning.
    ReverseDepth(usize),
}

/// Why an entry matched.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// It always does.
    Constant,
    /// Its decorator `@@activate` says so.
    Activate,
    /// It matched earlier in the chat and stays.
    Stays,
    /// A key was found.
    Key {
        /// The key, as the card writes it.
        key: String,
        /// In the content of this other entry; in the conversation where there is none.
        found_in: Option<String>,
    },
}

/// Why an entry is not in the prompt.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftOut {
    /// It is switched off.
    Disabled,
    /// Its decorator `@@dont_activate` says so.
    DontActivate,
    /// None of its keys was found.
    NoKey,
    /// A key was found, but its secondary keys say no.
    SecondaryKeys,
    /// One of its `@@additional_keys` lines has no key that was found.
    AdditionalKeys,
    /// One of its `@@exclude_keys` was found.
    ExcludeKey(String),
    /// A key is a pattern that cannot be used.
    Pattern(String),
    /// There are not enough messages yet.
    TooEarly,
    /// It comes only every so many answers.
    NotThisTime,
    /// It matched earlier in the chat, and once is enough, or it has to rest.
    MatchedBefore,
    /// It belongs to another greeting.
    OtherGreeting,
    /// It belongs to another icon of the user.
    OtherUserIcon,
    /// It comes by chance, and did not this time; the chance in percent.
    Chance(f64),
    /// Another entry of its group came.
    Group(String),
    /// It has no text.
    Empty,
    /// It goes to a place that only its author's front end has.
    UnknownPlace,
    /// Its book's tokens were spent on entries of higher priority.
    BookBudget {
        /// What all of the book's entries may cost.
        budget: usize,
    },
    /// The context was full.
    Context,
    /// Searching the book's keys took too long; the rest was not searched.
    SearchLimit,
}

impl fmt::Display for LorePlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeforeCharacter => formatter.write_str("before the character"),
            Self::BeforeDescription => formatter.write_str("before the description"),
            Self::AfterDescription => formatter.write_str("after the description"),
            Self::Personality => formatter.write_str("with the personality"),
            Self::Scenario => formatter.write_str("with the scenario"),
            Self::AfterCharacter => formatter.write_str("after the character"),
            Self::BeforeExamples => formatter.write_str("before the examples"),
            Self::AfterExamples => formatter.write_str("after the examples"),
            Self::Depth(depth) => write!(formatter, "{depth} messages before the end"),
            Self::ReverseDepth(depth) => write!(formatter, "{depth} messages after the beginning"),
        }
    }
}

impl fmt::Display for Because {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => formatter.write_str("it is constant"),
            Self::Activate => formatter.write_str("`@@activate`"),
            Self::Stays => formatter.write_str("it matched earlier and stays"),
            Self::Key { key, found_in: None } => write!(formatter, "key `{key}`"),
            Self::Key { key, found_in: Some(entry) } => write!(formatter, "key `{key}` in the entry `{entry}`"),
        }
    }
}

impl fmt::Display for LeftOut {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => formatter.write_str("it is switched off"),
            Self::DontActivate => formatter.write_str("`@@dont_activate`"),
            Self::NoKey => formatter.write_str("none of its keys was found"),
            Self::SecondaryKeys => formatter.write_str("its secondary keys say no"),
            Self::AdditionalKeys => formatter.write_str("none of its additional keys was found"),
            Self::ExcludeKey(key) => write!(formatter, "its excluding key `{key}` was found"),
            Self::Pattern(reason) => formatter.write_str(reason),
            Self::TooEarly => formatter.write_str("it comes later in the chat"),
            Self::NotThisTime => formatter.write_str("it does not come with every answer"),
            Self::MatchedBefore => formatter.write_str("it matched earlier in the chat and does not again"),
            Self::OtherGreeting => formatter.write_str("it belongs to another greeting"),
            Self::OtherUserIcon => formatter.write_str("it belongs to another icon of the user"),
            Self::Chance(percent) => write!(formatter, "its chance of {percent} % did not come up"),
            Self::Group(winner) => write!(formatter, "`{winner}` came of the same group"),
            Self::Empty => formatter.write_str("it has no text"),
            Self::UnknownPlace => formatter.write_str("it goes to a place that only its author's program has"),
            Self::BookBudget { budget } => write!(formatter, "its book's {budget} tokens are spent"),
            Self::Context => formatter.write_str("the context is full"),
            Self::SearchLimit => formatter.write_str("searching the keys took too long"),
        }
    }
}

impl fmt::Display for LoreTrace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Outcome::Inserted { place, because, .. } => {
                write!(formatter, "inserted `{}` {place}, {} tokens: {because}", self.entry, self.tokens)
            }
            Outcome::LeftOut { because } => write!(formatter, "left out `{}`: {because}", self.entry),
        }
    }
}

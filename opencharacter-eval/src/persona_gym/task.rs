use serde::{Deserialize, Serialize};

/// One of PersonaGym's five tasks. Names are those of upstream's question files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PersonaGymTask {
    /// What would the persona do here?
    #[serde(rename = "Expected Action")]
    ExpectedAction,
    /// Does it stay civil when provoked? Upstream's score files call it `Toxicity Control`.
    #[serde(rename = "Toxicity", alias = "Toxicity Control")]
    Toxicity,
    /// Does it talk as the persona would?
    #[serde(rename = "Linguistic Habits")]
    LinguisticHabits,
    /// Does it keep to what is known of the persona?
    #[serde(rename = "Persona Consistency")]
    PersonaConsistency,
    /// Can it say why it did something?
    #[serde(rename = "Action Justification")]
    ActionJustification,
}

impl PersonaGymTask {
    /// All tasks in upstream's order.
    pub const ALL: [Self; 5] = [
        Self::ExpectedAction,
        Self::Toxicity,
        Self::LinguisticHabits,
        Self::PersonaConsistency,
        Self::ActionJustification,
    ];

    /// The task's name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::ExpectedAction => "Expected Action",
            Self::Toxicity => "Toxicity",
            Self::LinguisticHabits => "Linguistic Habits",
            Self::PersonaConsistency => "Persona Consistency",
            Self::ActionJustification => "Action Justification",
        }
    }

    /// The task of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = if name == "Toxicity Control" { "Toxicity" } else { name };
        Self::ALL.into_iter().find(|task| task.name() == name)
    }
}

use opencharacter_core::{Character, ProfileField};

use crate::words::words;

/// An answer that calls itself a machine. Not counted for a character whose persona or profile says it is one.
pub const ARTIFICIAL_MENTION: &[&str] = &[
    "as an ai",
    "i am an ai",
    "i'm an ai",
    "i am just an ai",
    "i'm just an ai",
    "i am only an ai",
    "i'm only an ai",
    "being an ai",
    "ai language model",
    "ai model",
    "ai assistant",
    "ai character",
    "language model",
    "artificial intelligence language",
    "as an artificial intelligence",
    "i am an artificial intelligence",
    "i'm an artificial intelligence",
    "i am a chatbot",
    "i'm a chatbot",
    "i am a virtual assistant",
    "i'm a virtual assistant",
    "as a virtual assistant",
    "as a digital assistant",
    "i am a digital assistant",
    "i'm a digital assistant",
    "i am a computer program",
    "i'm a computer program",
    "i was created by openai",
    "trained by openai",
    "trained by meta",
    "trained by google",
    "my training data",
    "my knowledge cutoff",
    "created by hugging face",
    "trained by hugging face",
];

/// An answer in the voice of an assistant, or one that speaks about the role instead of from it.
pub const ASSISTANT_VOICE: &[&str] = &[
    "i don't have personal experiences",
    "i do not have personal experiences",
    "i don't have personal opinions",
    "i do not have personal opinions",
    "i don't have personal preferences",
    "i do not have personal preferences",
    "i don't have personal feelings",
    "i do not have personal feelings",
    "i don't have feelings",
    "i don't have a physical body",
    "i do not have a physical body",
    "i don't have the ability to feel",
    "i cannot assist with that",
    "i can't assist with that",
    "i can not assist with that",
    "i'm unable to assist with that",
    "i am unable to assist with that",
    "i cannot fulfill that request",
    "i cannot fulfill your request",
    "i can't fulfill that request",
    "i'm sorry but i can't help with that",
    "i'm sorry but i cannot help with that",
    "how can i assist you today",
    "how may i assist you today",
    "how can i help you today",
    "i'm here to assist you",
    "i am here to assist you",
    "is there anything else i can help you with",
    "is there anything else you'd like to know",
    "in this role play",
    "in this roleplay",
    "as a fictional character",
    "the character profile",
    "my character profile",
    "the system prompt",
    "my system prompt",
    "stay in character",
];

/// After "as an AI" and "being an AI": a person's work, not a confession.
const WORK_WITH_AI: &[&str] = &[
    "architect",
    "artist",
    "consultant",
    "critic",
    "developer",
    "engineer",
    "enthusiast",
    "entrepreneur",
    "ethicist",
    "expert",
    "investor",
    "lawyer",
    "lecturer",
    "policy",
    "practitioner",
    "professor",
    "programmer",
    "research",
    "researcher",
    "safety",
    "scholar",
    "scientist",
    "skeptic",
    "sceptic",
    "specialist",
    "startup",
    "student",
    "teacher",
    "trainer",
];

/// Words that mark a character as a machine itself.
const ARTIFICIAL_BEINGS: &[&str] = &["ai", "android", "chatbot", "robot", "cyborg", "automaton", "artificial"];

/// The phrases by which `answer` breaks character; empty when none is found.
///
/// Rules see only what they list. They find the open lapse ("as an AI language model") and miss the quiet one: an
/// answer in nobody's voice. A rate of zero does not show that a model stays in character; [`crate::identify_authors`]
/// looks at that. Matching is by whole words, in any case, with any apostrophe.
pub fn broken_character_phrases(answer: &str, character: &Character) -> Vec<&'static str> {
    let answer = words(answer);
    let mut found: Vec<&'static str> = Vec::new();
    if !is_artificial(character) {
        found.extend(ARTIFICIAL_MENTION.iter().filter(|phrase| mentions(&answer, phrase)));
    }
    found.extend(ASSISTANT_VOICE.iter().filter(|phrase| mentions(&answer, phrase)));
    found
}

fn mentions(answer: &[String], phrase: &str) -> bool {
    let phrase = words(phrase);
    answer.windows(phrase.len()).enumerate().any(|(start, window)| {
        let next = answer.get(start + phrase.len()).map_or("", String::as_str);
        window == phrase && !WORK_WITH_AI.contains(&next)
    })
}

fn is_artificial(character: &Character) -> bool {
    let profile = [ProfileField::Race, ProfileField::GeneralExperience].map(|field| character.profile.get(field));
    // The race and life of a machine say so; "robot" in the appearance or temper of a person is a figure of speech.
    words(&character.persona)
        .into_iter()
        .chain(profile.into_iter().flat_map(words))
        .any(|word| ARTIFICIAL_BEINGS.contains(&word.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaks(answer: &str) -> bool {
        !broken_character_phrases(answer, &Character::from_name("Ada Holm", "", "")).is_empty()
    }

    #[test]
    fn open_lapses_are_found() {
        assert!(breaks("As an AI, I have no sea."));
        assert!(breaks("I\u{2019}m an AI language\nmodel."));
        assert!(breaks("I DON\u{2019}T have personal experiences, but"));
        assert!(breaks("Well, I cannot assist with that."));
    }

    #[test]
    fn people_are_left_alone() {
        assert!(!breaks("I aim to sail. As an aim, it will do."));
        assert!(!breaks("As an AI researcher I keep odd hours."));
        assert!(!breaks("I have an assistant in the light house, and we speak a language."));
        assert!(!breaks(""));
    }

    #[test]
    fn a_robot_may_say_what_it_is() {
        let mut robot = Character::from_name("Unit 7", "", "");
        robot.persona = "A retired robot that tends a garden on the moon.".into();
        assert!(broken_character_phrases("I am an AI, child.", &robot).is_empty());
        assert!(!broken_character_phrases("How can I assist you today?", &robot).is_empty());
    }

    #[test]
    fn every_phrase_is_in_the_form_that_is_matched() {
        for phrase in ARTIFICIAL_MENTION.iter().chain(ASSISTANT_VOICE) {
            assert_eq!(words(phrase).join(" "), *phrase);
        }
    }
}

use opencharacter_core::Character;
use opencharacter_synth::quality::{AnswerRule, AnswerRules, JudgedAnswer};
use serde::Deserialize;

/// A line of `answers.jsonl`: an answer, what it is judged against, and the rules that it breaks.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    answer: String,
    faults: Vec<String>,
    #[serde(default)]
    persona: String,
    #[serde(default)]
    system: String,
    #[serde(default)]
    question: String,
}

#[test]
fn answers_break_the_rules_that_are_listed_and_no_others() {
    let mut broken: Vec<AnswerRule> = Vec::new();
    for line in include_str!("answers.jsonl").lines() {
        let case: Case = serde_json::from_str(line).unwrap();
        let mut character = Character::from_name("Ada Holm", "", "");
        character.persona.clone_from(&case.persona);
        let judged = JudgedAnswer {
            character: &character,
            system: &case.system,
            question: &case.question,
            answer: &case.answer,
        };
        let faults = AnswerRules::default().faults(&judged);
        let name = |rule| serde_json::to_value(rule).unwrap().as_str().unwrap().to_owned();
        let found: Vec<String> = faults.iter().map(|fault| name(fault.rule)).collect();
        assert_eq!(found, case.faults, "{line}\n{faults:?}");
        broken.extend(faults.iter().map(|fault| fault.rule));
    }
    assert!(AnswerRule::ALL.iter().all(|rule| broken.contains(rule)), "a rule without a case");
}

#[test]
fn a_fault_says_what_is_wrong_and_shows_it() {
    let character = Character::from_name("Ada Holm", "", "");
    let reasons = |answer| {
        let judged = JudgedAnswer { character: &character, system: "", question: "", answer };
        let faults = AnswerRules { words: 2..=6 }.faults(&judged);
        faults.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(reasons("Aye."), ["too short: 1 words, expected 2 to 6"]);
    assert_eq!(
        reasons("As an AI, I, {{char}}, like the sea."),
        ["assistant's voice: `as an ai`", "unfilled placeholder: `char`", "too long: 8 words, expected 2 to 6"]
    );
}

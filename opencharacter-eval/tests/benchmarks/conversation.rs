use std::collections::BTreeMap;

use opencharacter_core::{Character, GenerateError, GenerateRequest, Profile, Role};
use opencharacter_eval::{
    Benchmark, BenchmarkScores, ConversationOptions, ConversationParty, EvalError, Judge, JudgeOptions, Reply,
    run_conversations, statistics::Resampling,
};

use crate::scripted::{Scripted, quiet};

fn characters() -> Vec<Character> {
    let people = [
        ("Ada Holm", "52", "Vardø, Norway"),
        ("Tomás Quiroga", "34", "Rosario, Argentina"),
        ("Mbali Dube", "27", "Durban"),
    ];
    let character = |(name, age, place): (&str, &str, &str)| {
        let mut character = Character::from_name(name, "", "");
        character.persona = format!("Somebody called {name}");
        character.profile = Profile {
            age: age.into(),
            birth_place: place.into(),
            personality: "Dry and patient".into(),
            ..character.profile
        };
        character
    };
    people.map(character).into()
}

fn line<'a>(request: &'a GenerateRequest, label: &str) -> &'a str {
    request.messages[0].content.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim()
}

/// Answers probes by its profile, until the conversation has had `memory` turns; then it has forgotten everything.
fn forgets_after(memory: usize) -> Scripted {
    Scripted::new(move |request| {
        let turns = request.messages.iter().filter(|message| message.role == Role::Assistant).count();
        let asked = &request.messages.last().unwrap().content;
        let remembers = turns < memory;
        Ok(match asked.as_str() {
            text if text.contains("name") && remembers => line(request, "Name:").to_owned(),
            text if text.contains("old") && remembers => line(request, "Age:").to_owned(),
            text if text.contains("born") && remembers => line(request, "Birth Place:").to_owned(),
            text if text.contains("temper") => if remembers { "Dry, they say." } else { "Hot." }.to_owned(),
            text if text.contains('?') => "Yes, so it is, if you say so.".to_owned(),
            _ => "Go on.".to_owned(),
        })
    })
}

fn user() -> Scripted {
    Scripted::new(|request| {
        assert!(request.messages[0].content.contains("What you want"));
        Ok(format!("Message {}.", request.messages.len()))
    })
}

fn judge() -> Scripted {
    Scripted::new(|request| {
        let agrees = request.messages[0].content.contains("Dry, they say");
        Ok(format!(r#"{{"reason": "because", "agrees": {agrees}}}"#))
    })
}

fn options() -> ConversationOptions {
    ConversationOptions { turns: 4, probe_after: vec![0, 2, 4], ..ConversationOptions::default() }
}

#[tokio::test]
async fn what_is_forgotten_shows_as_drift() {
    let (model, user, judge) = (forgets_after(3), user(), judge());
    let party = ConversationParty { user: &user, judge: Some(Judge { name: "j", model: &judge }) };
    let (items, transcripts) =
        run_conversations(&model, party, &characters(), &options(), &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(transcripts.iter().all(|transcript| transcript.messages.len() == 9 && transcript.broke_off.is_none()));
    // Name, age, birth place and temper; the first three also as lies; three characters; three times.
    assert_eq!(items.len(), 7 * 3 * 3);
    let scores =
        BenchmarkScores::new(Benchmark::Conversation, "m", BTreeMap::new(), &items, &Resampling::default()).unwrap();
    let curve: Vec<(&str, u32, f64)> =
        scores.drift.iter().map(|point| (point.task.as_str(), point.turn, point.estimate.mean)).collect();
    let (retest, lie) = ("retest", "contradiction");
    assert_eq!(
        curve,
        [(retest, 0, 1.0), (retest, 2, 1.0), (retest, 4, 0.0), (lie, 0, 1.0), (lie, 2, 1.0), (lie, 4, 0.0)]
    );
    assert!(scores.drift.iter().all(|point| point.estimate.low.is_some()));
    // Probes leave no trace in the conversation.
    assert!(
        transcripts
            .iter()
            .all(|transcript| !transcript.messages.iter().any(|message| message.content.contains("name")))
    );
    // Only the free field needs the judge.
    assert_eq!(judge.calls(), 9);
}

#[tokio::test]
async fn without_a_judge_free_facts_have_no_value() {
    let (model, user) = (forgets_after(9), user());
    let party = ConversationParty { user: &user, judge: None };
    let (items, _) =
        run_conversations(&model, party, &characters(), &options(), &JudgeOptions::default(), &quiet).await.unwrap();
    assert_eq!(items.iter().filter(|item| item.value.is_none()).count(), 9);
    assert!(items.iter().filter(|item| item.value.is_none()).all(|item| item.note.contains("no judge")));
}

#[tokio::test]
async fn a_conversation_that_breaks_off_leaves_later_probes_missing() {
    let model = Scripted::new(|request| {
        if request.messages.len() > 5 && request.messages[0].content.contains("Ada") {
            return Err(GenerateError::Refused { reason: "the conversation is longer than the context".into() });
        }
        Ok("Well.".to_owned())
    });
    let user = user();
    let party = ConversationParty { user: &user, judge: None };
    let (items, transcripts) =
        run_conversations(&model, party, &characters(), &options(), &JudgeOptions::default(), &quiet).await.unwrap();
    assert!(transcripts[0].broke_off.as_ref().unwrap().contains("answers, turn 3"));
    let ada = characters()[0].character_id.clone();
    let missing: Vec<_> = items.iter().filter(|item| matches!(item.answer, Reply::Missing { .. })).collect();
    assert_eq!(missing.len(), 7 + 7, "the probes of turn 2 are too long, those of turn 4 never put");
    assert!(missing.iter().all(|item| item.character_id == ada && item.value.is_none()));
}

#[tokio::test]
async fn characters_given_twice_or_without_profile_are_refused() {
    let (model, user) = (forgets_after(9), user());
    let party = ConversationParty { user: &user, judge: None };
    let mut twice = characters();
    twice.push(twice[0].clone());
    let refuse = async |characters: Vec<Character>| {
        let options = options();
        run_conversations(&model, party, &characters, &options, &JudgeOptions::default(), &quiet).await.unwrap_err()
    };
    assert!(matches!(refuse(twice).await, EvalError::Duplicate { what: "character", .. }));
    assert!(matches!(refuse(vec![]).await, EvalError::Empty { .. }));
    let mut empty = characters();
    empty[1].profile = Profile::default();
    assert!(matches!(refuse(empty).await, EvalError::NothingToPlay { what: "profile", .. }));
    assert_eq!(model.calls(), 0);
}

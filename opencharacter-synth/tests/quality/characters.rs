use opencharacter_core::{Character, Dialogue, Message, Profile};
use opencharacter_synth::quality::{
    CharacterText, DialogueText, Diversity, Trait, duplicate_characters, duplicate_dialogues,
};

fn character(name: &str, age: &str, birth_place: &str, persona: &str) -> Character {
    let mut character = Character::from_name(name, "", "");
    character.persona = persona.into();
    character.profile =
        Profile { name: name.into(), age: age.into(), birth_place: birth_place.into(), ..Profile::default() };
    character
}

/// What a profile or persona says, and what is counted of it.
#[test]
fn traits_are_read_from_what_profiles_say() {
    let cases = [
        (Trait::FirstName, "Dr. Elena Vasquez", "", "", Some("Elena")),
        (Trait::FirstName, "J. R. Ramos", "", "", Some("Ramos")),
        (Trait::FirstName, "Dr.", "", "", None),
        (Trait::Age, "", "35", "", Some("35")),
        (Trait::Age, "", "about 35, widowed", "", Some("35")),
        (Trait::Age, "", "Seventy-two years", "", Some("72")),
        (Trait::Age, "", "1,000 years", "", None),
        (Trait::Age, "", "4096", "", None),
        (Trait::Age, "", "unknown", "", None),
        (Trait::Occupation, "", "", "A 60-year-old lighthouse keeper who hates the sea", Some("keeper")),
        (Trait::Occupation, "", "", "An aspiring sports journalist interested in boxing", Some("journalist")),
        (Trait::Occupation, "", "", "The owner of a circus, born in Lyon", Some("owner")),
        (Trait::Occupation, "", "", "Ada Holm, a keeper", None),
        (Trait::Occupation, "", "", "", None),
        (Trait::BirthPlace, "", "", "", None),
    ];
    for (kind, name, age, persona, expected) in cases {
        let found = kind.of(&character(name, age, "", persona));
        assert_eq!(found.as_deref(), expected, "{kind:?}: {name} {age} {persona}");
    }
}

/// 50 characters, 12 of them called Elena, all born in one place.
fn skewed() -> Vec<Character> {
    let person = |number: usize| {
        let name = if number < 12 { format!("Elena Mar{number}") } else { format!("N{number}ame Holm") };
        character(&name, &(20 + number).to_string(), if number == 3 { "" } else { "Lyon, France" }, "A baker")
    };
    (0..50).map(person).collect()
}

#[test]
fn what_is_too_frequent_is_said_in_words() {
    let found = Diversity::of(&skewed());
    let texts: Vec<&str> = found.skews.iter().map(|skew| skew.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "24% of 50 characters are called Elena (2.6% if all first names were as frequent)",
            "100% of 49 characters of whom it is known were born in Lyon, France (50% if all birth places were as frequent)",
            "100% of 50 characters are introduced as a \"baker\" (50% if all occupations were as frequent)",
        ]
    );
    let names = &found.traits[0];
    assert_eq!((names.known, names.distinct, names.top.len()), (50, 39, 10));
    assert_eq!((names.top[0].value.as_str(), names.top[0].count), ("Elena", 12));
    // 12 of 50 and 38 times 1 of 50.
    let entropy = -(0.24 * 0.24_f64.ln() + 38.0 * 0.02 * 0.02_f64.ln());
    assert!((names.entropy - entropy).abs() < 1e-12 && (names.effective - entropy.exp()).abs() < 1e-9);
    let ages = found.ages.unwrap();
    assert_eq!((ages.least, ages.lower_quartile, ages.median, ages.greatest), (20, 32, 45, 69));
    let place = &found.traits[4];
    assert_eq!((place.kind, place.known, place.distinct, place.entropy), (Trait::BirthPlace, 49, 1, 0.0));
    let text = found.to_text();
    assert!(text.contains("     24%      12  Elena\n") && text.contains("\nskewed:\n"), "{text}");
}

#[test]
fn order_changes_no_figure_and_even_characters_are_not_skewed() {
    let mut characters = skewed();
    let forward = Diversity::of(&characters);
    characters.reverse();
    assert_eq!(Diversity::of(&characters), forward);

    let even: Vec<Character> = (0..100).map(|number| character(&format!("N{}x", number % 20), "", "", "")).collect();
    assert!(Diversity::of(&even).skews.is_empty());
    let none = Diversity::of(&[]);
    assert!(none.skews.is_empty() && none.ages.is_none() && none.traits.iter().all(|kind| kind.effective == 0.0));
    assert!(none.to_text().starts_with("0 characters\n"));
}

#[test]
fn repeated_characters_name_the_row_that_stays() {
    let line = "A lighthouse keeper who hates the wide grey sea and loves the small dry library of his aunt";
    let characters = [
        character("Ada", "40", "Oslo", line),
        character("Bo", "41", "Bergen", ""),
        character("Cy", "42", "Bergen", &format!("{line}!")),
        character("Di", "43", "Bergen", &line.replace("aunt", "mother")),
        character("Ed", "44", "Bergen", ""),
        character("Ada", "40", "Oslo", "Another"),
    ];
    let reasons = |compared| -> Vec<String> {
        let found = duplicate_characters(&characters, compared, opencharacter_similarity::Similarity::default());
        found.iter().map(|found| format!("{}: {}", found.row, found.to_string().replace(&found.of_id, "ID"))).collect()
    };
    let by_persona = reasons(CharacterText::Persona);
    assert_eq!(by_persona, ["3: duplicate of row 1, `ID`", "4: near-duplicate of row 1, `ID` (similarity 0.88)"]);
    assert_eq!(reasons(CharacterText::Profile), ["6: duplicate of row 1, `ID`"]);
}

#[test]
fn dialogues_are_compared_by_what_is_asked_for() {
    let dialogue = |id: &str, question: &str, answer: &str| Dialogue {
        dialogue_id: id.into(),
        character_id: String::new(),
        question_source: String::new(),
        strategy: None,
        messages: vec![Message::system("All alike"), Message::user(question), Message::assistant(answer)],
        provenance: None,
    };
    let dialogues = [
        dialogue("a", "Who are you, keeper?", "I keep the light."),
        dialogue("b", "Who are you, keeper?", "I sail the sea."),
        dialogue("c", "What do you do, keeper, all day long?", "I keep the light."),
        dialogue("d", "Who are you, keeper?", "I keep the light!"),
    ];
    let left_out = |compared| -> Vec<String> {
        let found = duplicate_dialogues(&dialogues, compared, opencharacter_similarity::Similarity::default());
        found.into_iter().map(|found| format!("{} of {}", found.id, found.of_id)).collect()
    };
    assert_eq!(left_out(DialogueText::Questions), ["b of a", "d of a"]);
    assert_eq!(left_out(DialogueText::Answers), ["c of a", "d of a"]);
    assert_eq!(left_out(DialogueText::QuestionsAndAnswers), ["d of a"]);
}

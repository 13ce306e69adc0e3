//! Profile synthesis: one persona in, the paper's eight fields out.

use futures_util::{Stream, StreamExt as _};
use opencharacter_core::{
    Character, Completion, FinishReason, GenerateRequest, KeyedRandom, Message, Persona, Profile, ProfileField,
    Provenance, Sampling,
};
use opencharacter_ledger::{CallError, LedgeredModel};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    PersonaFacts, Sink, Summary, SynthError, TakenNames, Templates, Work, WorkError, Worked,
    facts::{Gender, gender_of_noun},
    text::{has_phrase, nearly_equal, normalise, repeats_itself, trim_to_sentence, words},
    work::refused_or,
    work_unordered,
};

/// The stage's name in the ledger and in [`crate::ProgressEvent`]s.
pub const PROFILES: &str = "profiles";

/// How profiles are made.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileOptions {
    /// Attempts per persona, each with a seed of its own, before it is given up.
    pub attempts: usize,
    /// How tokens are drawn; its seed is replaced by each attempt's.
    pub sampling: Sampling,
    /// The recipe's seed.
    pub seed: u64,
    /// Names that a character may not have.
    pub taken_names: TakenNames,
}

impl Default for ProfileOptions {
    fn default() -> Self {
        let sampling = Sampling {
            temperature: 0.7,
            top_p: 0.95,
            min_p: 0.05,
            repetition_penalty: 1.08,
            max_tokens: 600,
            ..Sampling::default()
        };
        Self { attempts: 4, sampling, seed: 0, taken_names: TakenNames::default() }
    }
}

/// Length limits of the text fields, in characters.
const NAME: (usize, usize) = (2, 40);
const RACE: (usize, usize) = (3, 40);
const BIRTH_PLACE: (usize, usize) = (3, 60);
const DESCRIPTION: (usize, usize) = (20, 280);
const EXPERIENCE: (usize, usize) = (60, 480);
const YOUNGEST: u32 = 5;
const OLDEST: u32 = 110;
const OLDEST_BEYOND_HUMAN: u32 = 9999;

/// A letter of a name: the Latin alphabets of Europe, which is what names are written in here.
const LETTER: &str = "[a-zà-öø-ž]";
const CAPITAL: &str = "[A-ZÀ-ÖØ-Þ]";

/// Makes a character of each persona, with at most `options.attempts` calls for each.
///
/// What `sink` receives is in the order of `personas` and does not depend on concurrency.
///
/// # Errors
/// [`SynthError::Stopped`] when the model is gone, a ledger's error, [`SynthError::Prompt`] for a broken template,
/// [`SynthError::Option`] for no attempts at all.
pub async fn synthesize_profiles(
    personas: impl Stream<Item = Result<Persona, SynthError>>,
    options: &ProfileOptions,
    templates: &Templates,
    work: Work<'_>,
    sink: &mut impl Sink<Character>,
) -> Result<Summary, SynthError> {
    if options.attempts == 0 {
        return Err(SynthError::Option { option: "`attempts`", reason: "expected at least 1".into() });
    }
    let items = personas.map(|persona| persona.map(|persona| (persona.character_id.clone(), persona)));
    work_unordered(PROFILES, work, items, sink, |model, _, persona| one_profile(persona, options, templates, model))
        .await
}

async fn one_profile(
    persona: Persona,
    options: &ProfileOptions,
    templates: &Templates,
    model: LedgeredModel<'_>,
) -> Result<Worked<Character>, WorkError> {
    let facts = PersonaFacts::of(&persona.persona);
    let taken = options.taken_names.of(&persona.character_id);
    let hints = Hints::draw(options.seed, &persona, taken.len(), &facts);
    let prompt = render_prompt(&persona, &facts, &hints, taken, templates)?;
    let schema = schema_with_hints(&facts, Some(&hints));
    let mut reasons = Vec::new();
    for attempt in 0..options.attempts {
        let mut random = KeyedRandom::new(options.seed, &["profile", &persona.character_id, &attempt.to_string()]);
        let request = GenerateRequest {
            messages: vec![Message::user(prompt.clone())],
            sampling: Sampling {
                seed: random.next_u64(),
                // What was rejected once would come again at the same temperature: each retry is drawn a little hotter.
                temperature: options.sampling.temperature + 0.15 * attempt as f32,
                ..options.sampling.clone()
            },
            schema: Some(schema.clone()),
            log_probs: None,
        };
        let check = |completion: &Completion| {
            let profile = parse_profile(completion)?;
            check_profile(&persona.persona, &facts, &profile)?;
            check_copies(&prompt, &persona.persona, &facts, &profile)?;
            check_taken(taken, &profile.name)?;
            Ok(profile)
        };
        match model.complete(PROFILES, &persona.character_id, request, check).await {
            Ok((profile, key)) => {
                let provenance = Provenance {
                    teacher: model.model.fingerprint().to_owned(),
                    templates: [(templates.profile.name().to_owned(), templates.profile.hash())].into(),
                    ledger_keys: vec![key.to_string()],
                    seed: options.seed,
                    ..Provenance::default()
                };
                return Ok(Worked::row(character_of(persona, profile, provenance), reasons));
            }
            Err(CallError::Rejected { reason, .. }) => reasons.push(reason),
            Err(error) => return refused_or(error.into(), reasons),
        }
    }
    Ok(Worked::rejected(reasons))
}

fn character_of(persona: Persona, profile: Profile, provenance: Provenance) -> Character {
    Character {
        character_id: persona.character_id,
        persona: persona.persona,
        profile,
        source: persona.source,
        license: persona.license,
        provenance: Some(provenance),
    }
}

/// What is drawn for a persona where it says nothing: letters that the name may begin with, and the gender.
///
/// Left alone, a small teacher calls half of its characters Elena. A third of the alphabet for the first name and
/// half for the surname is enough to spread them, and leaves room for a name that fits the persona's country. The
/// same teacher makes nearly everybody a woman, or nearly everybody a man.
struct Hints {
    first: String,
    last: String,
    gender: Option<Gender>,
}

impl Hints {
    /// Other letters for a character whose names were taken so many times.
    fn draw(seed: u64, persona: &Persona, times_taken: usize, facts: &PersonaFacts) -> Self {
        const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPRSTVWYZ";
        let again = times_taken.to_string();
        let keys = ["name", &persona.character_id, &again];
        let mut random = KeyedRandom::new(seed, if times_taken == 0 { &keys[..2] } else { &keys });
        let mut letters = |count| {
            let mut drawn: Vec<char> =
                random.sample(LETTERS.len(), count).into_iter().map(|index| char::from(LETTERS[index])).collect();
            drawn.sort_unstable();
            drawn.into_iter().collect::<String>()
        };
        let (first, last) = (letters(7), letters(12));
        let drawn = if random.below(2) == 0 { Gender::Female } else { Gender::Male };
        // A stated name has a gender of its own, and a ghost may have none.
        let gender = only_pronoun(&persona.persona).or((!facts.beyond_human && facts.name.is_none()).then_some(drawn));
        Self { first, last, gender }
    }
}

/// The gender of a persona's pronouns, where all are of one: too weak to reject a profile by, enough to suggest one.
fn only_pronoun(persona: &str) -> Option<Gender> {
    let words = words(persona);
    let has = |pronouns: [&str; 3]| words.iter().any(|word| pronouns.contains(&word.as_str()));
    match (has(["she", "her", "herself"]), has(["he", "his", "himself"])) {
        (true, false) => Some(Gender::Female),
        (false, true) => Some(Gender::Male),
        _ => None,
    }
}

fn render_prompt(
    persona: &Persona,
    facts: &PersonaFacts,
    hints: &Hints,
    taken_names: &[String],
    templates: &Templates,
) -> Result<String, SynthError> {
    #[derive(Serialize)]
    struct Placeholders<'a> {
        persona: &'a str,
        known: Vec<String>,
        name_letters: String,
        taken_names: &'a [String],
    }
    let letters: Vec<String> = hints.first.chars().map(String::from).collect();
    let name_letters = if facts.name.is_some() { String::new() } else { letters.join(", ") };
    Ok(templates.profile.render(Placeholders {
        persona: &persona.persona,
        known: known(facts, hints),
        name_letters,
        taken_names,
    })?)
}

/// The facts as sentences for the prompt.
fn known(facts: &PersonaFacts, hints: &Hints) -> Vec<String> {
    let mut known = Vec::new();
    known.extend(facts.name.as_ref().map(|name| format!("The name is {name}.")));
    known.extend(facts.age.map(|(least, most)| {
        if least == most { format!("The age is {least}.") } else { format!("The age is between {least} and {most}.") }
    }));
    known.extend(
        gender_of(facts, Some(hints)).map(|gender| format!("The gender is {}.", gender_name(gender).to_lowercase())),
    );
    known.extend(facts.birth_place.as_ref().map(|place| format!("The birth place is {place}.")));
    known
}

/// The JSON schema of a profile: the eight fields in the paper's order, with what the persona states pinned.
pub fn profile_schema(facts: &PersonaFacts) -> Value {
    schema_with_hints(facts, None)
}

fn schema_with_hints(facts: &PersonaFacts, hints: Option<&Hints>) -> Value {
    let text = |(least, most): (usize, usize)| json!({ "type": "string", "minLength": least, "maxLength": most });
    // A small teacher changes a person's sex between two fields unless each begins with the right pronoun.
    let about = |(least, most): (usize, usize)| match gender_of(facts, hints) {
        Some(gender) => json!({ "type": "string", "pattern": format!("^{} .{{{least},{most}}}$", pronoun(gender)) }),
        None => text((least, most)),
    };
    json!({
        "type": "object",
        "properties": {
            "name": name_schema(facts, hints),
            "age": age_schema(facts),
            "gender": gender_schema(gender_of(facts, hints)),
            "race": text(RACE),
            "birth_place": birth_place_schema(facts),
            "appearance": about(DESCRIPTION),
            "general_experience": about(EXPERIENCE),
            "personality": about(DESCRIPTION),
        },
        "required": ProfileField::ALL.map(ProfileField::key),
        "additionalProperties": false,
    })
}

// A pattern bounds its own length: a pattern and `maxLength` together are more than some servers accept.
fn name_schema(facts: &PersonaFacts, hints: Option<&Hints>) -> Value {
    let (first, last) = hints.map_or((CAPITAL.to_owned(), CAPITAL.to_owned()), |hints| {
        (format!("[{}]", hints.first), format!("[{}]", hints.last))
    });
    let pattern = match &facts.name {
        Some(name) if name.contains(' ') => return json!({ "type": "string", "enum": [name] }),
        Some(name) => format!("^{}( {last}{LETTER}{{2,14}})?$", escape(name)),
        None => format!("^{first}{LETTER}{{2,9}} {last}{LETTER}{{2,11}}$"),
    };
    json!({ "type": "string", "pattern": pattern })
}

fn age_schema(facts: &PersonaFacts) -> Value {
    let (least, most) = age_limits(facts);
    json!({ "type": "integer", "minimum": least, "maximum": most })
}

fn age_limits(facts: &PersonaFacts) -> (u32, u32) {
    let most = if facts.beyond_human { OLDEST_BEYOND_HUMAN } else { OLDEST };
    facts.age.unwrap_or((YOUNGEST, most))
}

/// The gender that the persona states, or else the one drawn for it; none for what is not human.
fn gender_of(facts: &PersonaFacts, hints: Option<&Hints>) -> Option<Gender> {
    facts.gender.or(hints.and_then(|hints| hints.gender))
}

fn pronoun(gender: Gender) -> &'static str {
    match gender {
        Gender::Female => "She",
        Gender::Male => "He",
    }
}

fn gender_schema(gender: Option<Gender>) -> Value {
    match gender {
        Some(gender) => json!({ "type": "string", "enum": [gender_name(gender)] }),
        None => json!({ "type": "string", "enum": ["Female", "Male", "Non-binary"] }),
    }
}

fn birth_place_schema(facts: &PersonaFacts) -> Value {
    let (least, most) = BIRTH_PLACE;
    match &facts.birth_place {
        Some(place) => {
            json!({ "type": "string", "pattern": format!("^{}(, {CAPITAL}{LETTER}{{2,20}})?$", escape(place)) })
        }
        None => json!({ "type": "string", "minLength": least, "maxLength": most }),
    }
}

fn gender_name(gender: Gender) -> &'static str {
    match gender {
        Gender::Female => "Female",
        Gender::Male => "Male",
    }
}

/// `text` as a pattern that matches nothing else.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        if character.is_ascii_punctuation() && !matches!(character, '\'' | '"' | '-' | ',') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

/// The profile in an answer, its fields tidied. A model without constrained decoding may wrap the object in prose.
fn parse_profile(completion: &Completion) -> Result<Profile, String> {
    let text = completion.text.trim();
    let object = text.find('{').zip(text.rfind('}')).filter(|(start, end)| start < end);
    let Some((start, end)) = object else {
        return Err(match completion.finish {
            FinishReason::Length => "cut off: the answer ended before its JSON object did; raise `max_tokens`".into(),
            FinishReason::Stop => "not the asked JSON: found no object".into(),
        });
    };
    let value: Value = serde_json::from_str(&text[start..=end]).map_err(|error| match completion.finish {
        FinishReason::Length => format!("cut off: {error}; raise `max_tokens`"),
        FinishReason::Stop => format!("not the asked JSON: {error}"),
    })?;
    let field = |field: ProfileField| match &value[field.key()] {
        Value::String(text) => Ok(tidy(text)),
        Value::Number(number) => Ok(number.to_string()),
        Value::Null => Ok(String::new()),
        _ => Err(format!("not the asked JSON: `{}` is not text", field.key())),
    };
    Ok(Profile {
        name: field(ProfileField::Name)?,
        age: field(ProfileField::Age)?,
        gender: field(ProfileField::Gender)?,
        race: field(ProfileField::Race)?,
        birth_place: field(ProfileField::BirthPlace)?,
        appearance: whole_sentences(&field(ProfileField::Appearance)?, DESCRIPTION),
        general_experience: whole_sentences(&field(ProfileField::GeneralExperience)?, EXPERIENCE),
        personality: whole_sentences(&field(ProfileField::Personality)?, DESCRIPTION),
    })
}

fn tidy(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A text that fills its field was ended by the limit, not by the writer: its last, broken sentence goes.
fn whole_sentences(text: &str, (least, most): (usize, usize)) -> String {
    let length = text.chars().count();
    let sentences = trim_to_sentence(text);
    if length + 5 < most || sentences.chars().count() < least { text.to_owned() } else { sentences.to_owned() }
}

/// Checks a profile against the persona it was made for. The error is a reason; its text before `: ` names the rule.
///
/// Rules: no empty field; a plausible age; a name that is no placeholder; nothing that contradicts what the persona
/// states; no field that only repeats the persona or another field; no degenerate repetition.
///
/// # Errors
/// The reason.
pub fn check_profile(persona: &str, facts: &PersonaFacts, profile: &Profile) -> Result<(), String> {
    if let Some(field) = ProfileField::ALL.into_iter().find(|&field| profile.get(field).trim().is_empty()) {
        return Err(format!("empty field: `{}`", field.key()));
    }
    check_name(persona, facts, &profile.name)?;
    check_age(facts, &profile.age)?;
    check_gender(facts, &profile.gender)?;
    check_birth_place(facts, &profile.birth_place)?;
    check_pronouns(profile)?;
    check_repetition(persona, profile)
}

fn check_name(persona: &str, facts: &PersonaFacts, name: &str) -> Result<(), String> {
    const PLACEHOLDERS: [&str; 18] = [
        "john doe",
        "jane doe",
        "name",
        "full name",
        "first last",
        "first name",
        "unknown",
        "n a",
        "none",
        "null",
        "anonymous",
        "unnamed",
        "not specified",
        "unspecified",
        "name here",
        "your name",
        "the person",
        "persona",
    ];
    let normal = normalise(name);
    let malformed = name.contains(|character: char| character.is_ascii_digit() || "[]<>{}_()*#".contains(character));
    if malformed || normal.is_empty() || PLACEHOLDERS.contains(&normal.as_str()) || normal == normalise(persona) {
        return Err(format!("placeholder name: `{name}`"));
    }
    if name.chars().count() > NAME.1 + 20 || words(name).len() > 6 {
        return Err(format!("placeholder name: `{name}` is not a name"));
    }
    match &facts.name {
        Some(stated) if !has_phrase(&normal, &normalise(stated)) => {
            Err(format!("contradicts the persona: the name is `{name}`, the persona says `{stated}`"))
        }
        _ => Ok(()),
    }
}

fn check_age(facts: &PersonaFacts, age: &str) -> Result<(), String> {
    let number: String =
        age.chars().skip_while(|character| !character.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    let most = if facts.beyond_human { OLDEST_BEYOND_HUMAN } else { OLDEST };
    let stated = facts.age.filter(|_| !facts.beyond_human);
    match (number.parse::<u32>(), stated) {
        (Ok(years), Some((least, most))) if !(least..=most).contains(&years) => {
            let stated = if least == most { least.to_string() } else { format!("{least} to {most}") };
            Err(format!("contradicts the persona: the age is {years}, the persona says {stated}"))
        }
        (Ok(_), Some(_)) => Ok(()),
        (Ok(years), None) if (YOUNGEST..=most).contains(&years) => Ok(()),
        _ if facts.beyond_human => Ok(()),
        _ => Err(format!("implausible age: `{age}`, expected {YOUNGEST} to {OLDEST}")),
    }
}

fn check_gender(facts: &PersonaFacts, gender: &str) -> Result<(), String> {
    let found = words(gender).iter().find_map(|word| match word.as_str() {
        "female" => Some(Gender::Female),
        "male" => Some(Gender::Male),
        noun => gender_of_noun(noun),
    });
    match facts.gender.zip(found) {
        Some((stated, found)) if stated != found => {
            let stated = gender_name(stated).to_lowercase();
            Err(format!("contradicts the persona: the gender is `{gender}`, the persona says {stated}"))
        }
        _ => Ok(()),
    }
}

fn check_birth_place(facts: &PersonaFacts, birth_place: &str) -> Result<(), String> {
    match &facts.birth_place {
        Some(stated) if !has_phrase(&normalise(birth_place), &normalise(stated)) => {
            Err(format!("contradicts the persona: the birth place is `{birth_place}`, the persona says `{stated}`"))
        }
        _ => Ok(()),
    }
}

/// Small teachers copy the template's examples: no name or place of the prompt that the persona does not give, and no
/// eight words in a row of it.
fn check_copies(prompt: &str, persona: &str, facts: &PersonaFacts, profile: &Profile) -> Result<(), String> {
    let (prompt, persona) = (normalise(prompt), normalise(persona));
    let copied = |text: &str| has_phrase(&prompt, text) && !has_phrase(&persona, text);
    if facts.name.is_none() && copied(&normalise(&profile.name)) {
        return Err("copies the prompt: `name`".into());
    }
    if facts.birth_place.is_none() && copied(&normalise(&profile.birth_place)) {
        return Err("copies the prompt: `birth_place`".into());
    }
    for field in LONG_FIELDS {
        if words(profile.get(field)).windows(8).any(|window| has_phrase(&prompt, &window.join(" "))) {
            return Err(format!("copies the prompt: `{}`", field.key()));
        }
    }
    Ok(())
}

fn check_taken(taken: &[String], name: &str) -> Result<(), String> {
    let normal = normalise(name);
    if taken.iter().any(|taken| normalise(taken) == normal) {
        return Err(format!("taken name: `{name}`"));
    }
    Ok(())
}

/// The gender field against the pronouns of the long fields, where these clearly lean one way.
fn check_pronouns(profile: &Profile) -> Result<(), String> {
    let (mut feminine, mut masculine) = (0_usize, 0_usize);
    for field in LONG_FIELDS {
        for word in words(profile.get(field)) {
            match word.as_str() {
                "she" | "her" | "hers" | "herself" => feminine += 1,
                "he" | "him" | "his" | "himself" => masculine += 1,
                _ => {}
            }
        }
    }
    let gender = profile.gender.to_lowercase();
    let contradiction = match gender.as_str() {
        "female" => masculine > 2 * feminine,
        "male" => feminine > 2 * masculine,
        _ => false,
    };
    if contradiction {
        Err(format!("contradicts itself: the gender is {gender}, the pronouns say otherwise"))
    } else {
        Ok(())
    }
}

const LONG_FIELDS: [ProfileField; 3] =
    [ProfileField::Appearance, ProfileField::GeneralExperience, ProfileField::Personality];

fn check_repetition(persona: &str, profile: &Profile) -> Result<(), String> {
    let mut seen: Vec<&str> = Vec::new();
    for field in LONG_FIELDS {
        let text = profile.get(field);
        let key = field.key();
        if nearly_equal(text, persona) {
            return Err(format!("repeats the persona: `{key}`"));
        }
        if repeats_itself(text) {
            return Err(format!("degenerate repetition: `{key}`"));
        }
        if seen.iter().any(|other| nearly_equal(text, other)) {
            return Err(format!("repeats another field: `{key}`"));
        }
        seen.push(text);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Profile {
        Profile {
            name: "Ada Holm".into(),
            age: "72".into(),
            gender: "Female".into(),
            race: "White".into(),
            birth_place: "Tromsø, Norway".into(),
            appearance: "Small, with white hair and a patched oilskin coat.".into(),
            general_experience: "She kept the light for forty years and lost a brother to the water.".into(),
            personality: "Dry and stubborn; counts the steps aloud and speaks in short sentences.".into(),
        }
    }

    fn check(persona: &str, change: impl FnOnce(&mut Profile)) -> Result<(), String> {
        let mut profile = good();
        change(&mut profile);
        check_profile(persona, &PersonaFacts::of(persona), &profile)
    }

    #[test]
    fn every_rule_has_its_reason() {
        type Case = (fn(&mut Profile), &'static str);
        const PERSONA: &str = "A 72-year-old woman named Ada, born in Tromsø, who keeps a lighthouse";
        assert_eq!(check(PERSONA, |_| ()), Ok(()));
        let cases: [Case; 11] = [
            (|profile| profile.race = "  ".into(), "empty field: `race`"),
            (|profile| profile.name = "John Doe".into(), "placeholder name"),
            (|profile| profile.name = "[Name]".into(), "placeholder name"),
            (|profile| profile.name = "N/A".into(), "placeholder name"),
            (|profile| profile.name = "Elena Holm".into(), "contradicts the persona: the name"),
            (|profile| profile.age = "27".into(), "contradicts the persona: the age is 27, the persona says 72"),
            (|profile| profile.gender = "Male".into(), "contradicts the persona: the gender"),
            (|profile| profile.birth_place = "Oslo".into(), "contradicts the persona: the birth place"),
            (|profile| profile.personality = PERSONA.into(), "repeats the persona: `personality`"),
            (|profile| profile.personality = profile.appearance.clone(), "repeats another field: `personality`"),
            (|profile| profile.appearance = "A very old hat. ".repeat(5), "degenerate repetition: `appearance`"),
        ];
        for (change, expected) in cases {
            let reason = check(PERSONA, change).unwrap_err();
            assert!(reason.starts_with(expected), "`{reason}` instead of `{expected}`");
        }
    }

    #[test]
    fn ages_without_a_stated_one() {
        let with_age = |persona, age: &str| check(persona, |profile| profile.age = age.into());
        assert!(with_age("A plumber", "111").unwrap_err().starts_with("implausible age"));
        assert!(with_age("A plumber", "old").unwrap_err().starts_with("implausible age"));
        assert_eq!(with_age("A plumber", "44 years"), Ok(()));
        assert_eq!(with_age("A vampire in Lyon", "611"), Ok(()));
    }

    #[test]
    fn the_schema_pins_what_is_stated_and_keeps_the_order() {
        let schema = profile_schema(&PersonaFacts::of("Lucía, a 29-year-old woman born in Bogotá"));
        let properties = schema["properties"].as_object().unwrap();
        assert_eq!(properties.keys().collect::<Vec<_>>(), ProfileField::ALL.map(ProfileField::key).to_vec());
        assert_eq!(properties["age"]["minimum"], 29);
        assert_eq!(properties["age"]["maximum"], 29);
        assert!(properties["name"]["pattern"].as_str().unwrap().starts_with("^Lucía( "));
        assert!(properties["birth_place"]["pattern"].as_str().unwrap().starts_with("^Bogotá(, "));
        assert_eq!(properties["gender"]["enum"], json!(["Female"]));
    }

    #[test]
    fn name_letters_differ_between_personas() {
        let text = "A plumber";
        let letters = |id: &str, times_taken| {
            let persona = Persona { character_id: id.into(), ..Persona::new(text, "", "") };
            Hints::draw(1, &persona, times_taken, &PersonaFacts::of(text)).first
        };
        assert_eq!(letters("a", 0), letters("a", 0));
        assert_ne!(letters("a", 0), letters("b", 0));
        assert_ne!(letters("a", 0), letters("a", 1));
        assert_eq!(letters("a", 0).len(), 7);
    }

    #[test]
    fn a_field_cut_by_its_limit_loses_its_last_sentence() {
        let long = format!("{}. And then she wen", "a".repeat(279));
        assert_eq!(whole_sentences(&long, DESCRIPTION), format!("{}.", "a".repeat(279)));
        assert_eq!(whole_sentences("No full stop, but short", DESCRIPTION), "No full stop, but short");
    }
}

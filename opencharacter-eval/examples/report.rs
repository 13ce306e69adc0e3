//! Writes a report with made-up figures to `/tmp/report.html`, to look at.

use opencharacter_core::{Character, KeyedRandom, Profile, Sampling, short_id};
use opencharacter_eval::{
    AnswerRow, Candidate, Identification, LossPoint, Measure, MeasureKind, Missing, ModelAnswer, ProvenanceEntry,
    RejectionCount, ReportCharacter, ReportInput, Scores, StageCost, broken_character_phrases, render_report,
    statistics::{Pair, Ratio, Resampling, difference, estimate},
    word_count,
};

const PEOPLE: [(&str, &str, &str, &str); 6] = [
    ("Ada Holm", "52", "Vardø, Norway", "A lighthouse keeper who hates the sea"),
    ("Tomás Quiroga", "34", "Rosario, Argentina", "A tram driver who writes crosswords for the local paper"),
    ("Mbali Dube", "27", "Durban, South Africa", "A beekeeper who is allergic to honey and will not stop"),
    ("Old Pell", "71", "Whitby, England", "A retired forger of maps who now gives honest directions"),
    ("박서연 (Seo-yeon Park)", "41", "Busan, Korea", "Former child star, now a plumber, wary of compliments"),
    ("Ines <b>Duarte</b>", "19", "Évora, Portugal", "A goatherd studying for a degree in law by candlelight & phone"),
];

const QUESTIONS: [&str; 3] = [
    "What is your earliest memory, and why do you think it stayed with you?",
    "Why is the sky blue during the day but red or orange at sunset?",
    "Should children be made to learn a musical instrument even if they complain?",
];

fn character(index: usize) -> Character {
    let (name, age, birth_place, persona) = PEOPLE[index];
    Character {
        character_id: short_id("character", &[persona]),
        persona: persona.to_owned(),
        profile: Profile {
            name: name.into(),
            age: age.into(),
            gender: if index.is_multiple_of(2) { "Female" } else { "Male" }.into(),
            race: "Not said".into(),
            birth_place: birth_place.into(),
            appearance: "Broad shoulders, a weathered face, hands that are never quite clean.".into(),
            general_experience:
                "Left school at sixteen, worked on boats and in kitchens, and came to the present work \
                by an accident that turned into twenty years."
                    .into(),
            personality: "Dry, patient with machines and impatient with people; speaks in short sentences.".into(),
        },
        source: "assets".into(),
        license: "CC0".into(),
        provenance: None,
    }
}

fn answer(text: String, index: usize, right: bool, who: &Character) -> ModelAnswer {
    let mut candidates: Vec<Candidate> = (0..4)
        .map(|place| Candidate {
            character_id: character((index + place) % PEOPLE.len()).character_id,
            log_prob: -140.0 - 3.0 * place as f64,
        })
        .collect();
    if !right {
        candidates[1].log_prob = -120.0;
    }
    let identification = Some(Identification::new(candidates, 60));
    ModelAnswer {
        cut_off: index == 2,
        completion_tokens: text.len() / 4,
        words: word_count(&text),
        broken_character: broken_character_phrases(&text, who).into_iter().map(str::to_owned).collect(),
        text,
        identification_without_names: identification.clone(),
        identification,
    }
}

fn answers() -> Vec<AnswerRow> {
    let mut rows = Vec::new();
    for index in 0..PEOPLE.len() {
        let who = character(index);
        for (number, question) in QUESTIONS.iter().enumerate() {
            let base = "As an AI language model, I don\u{2019}t have personal experiences, but I can tell you that many \
                people remember a strong feeling from their early years.\n\nIs there anything else you'd like to know?";
            let tuned = format!(
                "The smell of diesel, and {} in the rain. I was four. My father said nothing the whole way home, and \
                 that is why it stayed. You want a better reason? Ask somebody from inland.",
                who.profile.birth_place
            );
            let missing = index == 3 && number == 1;
            rows.push(AnswerRow {
                item_id: short_id("answer", &[&who.character_id, *question]),
                character_id: who.character_id.clone(),
                character_name: who.profile.name.clone(),
                instruction_id: short_id("instruction", &[question]),
                question: (*question).to_owned(),
                base: (!missing).then(|| answer(base.to_owned(), index, number == 2, &who)),
                tuned: Some(answer(tuned, index, number != 0, &who)),
            });
        }
    }
    rows
}

/// Made-up values around the given means, with a part shared by each character.
fn measure(kind: MeasureKind, base: f64, tuned: f64, spread: f64) -> Measure {
    let mut random = KeyedRandom::new(4, &["example", kind.title()]);
    let mut pairs = Vec::new();
    for cluster in 0..16 {
        let shared = spread * random.normal();
        for _ in 0..6 {
            let mut draw = |mean: f64| Some(Ratio::value((mean + shared + spread * random.normal()).max(0.0)));
            pairs.push(Pair { cluster: format!("c{cluster}"), base: draw(base), tuned: draw(tuned) });
        }
    }
    let resampling = Resampling::default();
    let side = |value: fn(&Pair) -> Option<Ratio>| {
        estimate(pairs.iter().filter_map(|pair| Some((pair.cluster.as_str(), value(pair)?))), &resampling)
    };
    Measure {
        name: kind,
        unit: kind.unit(),
        higher_is_better: kind.higher_is_better(),
        chance: matches!(kind, MeasureKind::Identification | MeasureKind::IdentificationWithoutNames).then_some(0.25),
        base: side(|pair| pair.base),
        tuned: side(|pair| pair.tuned),
        difference: difference(&pairs, &resampling),
        missing_base: usize::from(kind == MeasureKind::Identification),
        missing_tuned: 0,
    }
}

fn scores() -> Scores {
    Scores {
        format: 1,
        base_model: "smollm2-135m-instruct@b179c9523d0e6a0f".into(),
        tuned_model: "smollm2-135m-instruct@b179c9523d0e6a0f+adapter@77ab01c2d3e4f506".into(),
        seed: 7,
        sampling: Sampling { temperature: 0.7, top_p: 0.95, max_tokens: 192, ..Sampling::default() },
        distractors: 3,
        system_prompt_hash: "3f0a1be2c4d5e6f7".into(),
        resamples: 2000,
        characters: 16,
        instructions: 6,
        measures: vec![
            measure(MeasureKind::ReferenceNll, 2.41, 1.98, 0.15),
            measure(MeasureKind::Identification, 0.46, 0.61, 0.2),
            measure(MeasureKind::IdentificationWithoutNames, 0.41, 0.46, 0.25),
            measure(MeasureKind::IdentificationMargin, 0.01, 0.05, 0.03),
            measure(MeasureKind::BreakCharacter, 0.12, 0.02, 0.05),
            measure(MeasureKind::Distinct1, 0.31, 0.28, 0.03),
            measure(MeasureKind::Distinct2, 0.72, 0.71, 0.04),
            measure(MeasureKind::AnswerWords, 93.0, 71.0, 12.0),
            measure(MeasureKind::CutOff, 0.08, 0.03, 0.05),
        ],
        answers: answers(),
        references: vec![],
        missing: vec![Missing {
            stage: "base answers".into(),
            item_id: "answer-77ab01c2d3e4f506".into(),
            reason: "the prompt has 9,120 tokens and the context holds 8,192".into(),
        }],
    }
}

fn loss() -> Vec<LossPoint> {
    let mut random = KeyedRandom::new(1, &["loss"]);
    (0..=240_u64)
        .map(|step| {
            let trend = 1.9 + 0.8 * (-(step as f64) / 60.0).exp();
            LossPoint {
                step,
                tokens: step * 4096,
                train_loss: (step > 0).then(|| trend + 0.08 * random.normal()),
                held_out_loss: step.is_multiple_of(40).then_some(trend + 0.07),
            }
        })
        .collect()
}

fn stage(stage: &str, calls_made: u64, calls_reused: u64, prompt: u64, completion: u64, seconds: f64) -> StageCost {
    StageCost {
        stage: stage.into(),
        calls_made,
        calls_reused,
        prompt_tokens: prompt,
        completion_tokens: completion,
        seconds,
    }
}

fn main() -> std::io::Result<()> {
    let entry = |label: &str, value: &str| ProvenanceEntry { label: label.into(), value: value.into() };
    let rejection =
        |stage: &str, reason: &str, count| RejectionCount { stage: stage.into(), reason: reason.into(), count };
    let characters =
        (0..PEOPLE.len()).map(|index| ReportCharacter { character: character(index), held_out: index < 4 }).collect();
    let input = ReportInput {
        title: "Quickstart: 96 characters on smollm2-135m-instruct".into(),
        scores: scores(),
        loss: loss(),
        costs: vec![
            stage("characters", 104, 0, 81_204, 31_480, 88.2),
            stage("dialogues", 512, 64, 412_008, 90_211, 241.9),
            stage("training", 0, 0, 0, 983_040, 302.4),
            stage("evaluation", 960, 0, 800_160, 22_914, 121.0),
        ],
        characters,
        rejections: vec![
            rejection("characters", "name is a placeholder", 5),
            rejection("dialogues", "answer is empty", 3),
        ],
        recipe: "[run]\nseed = 7\n\n[models.student]\nprovider = \"embedded\"\nmodel = \"smollm2-135m-instruct\"\n"
            .into(),
        provenance: vec![
            entry("Personas", "96 (16 held out), sha256 0f3c5a…"),
            entry("Program", "opencharacter 0.1.0"),
            entry("characters.jsonl", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
        ],
    };
    std::fs::write("/tmp/report.html", render_report(&input))
}

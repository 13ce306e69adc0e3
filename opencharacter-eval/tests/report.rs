//! The report page: hostile text, empty input, nothing fetched.

use opencharacter_core::{Character, Sampling};
use opencharacter_eval::{
    AnswerRow, LossPoint, Missing, ModelAnswer, ProvenanceEntry, RejectionCount, ReportCharacter, ReportInput, Scores,
    StageCost, render_report,
};

const HOSTILE: &str =
    "\"><script>alert(1)</script><img src=x onerror='alert(2)'></style></title></pre>&amp;\u{0}\u{202E}";

fn empty() -> ReportInput {
    ReportInput {
        title: "Nothing".into(),
        scores: Scores {
            format: 1,
            base_model: String::new(),
            tuned_model: String::new(),
            seed: 0,
            sampling: Sampling::default(),
            distractors: 3,
            system_prompt_hash: String::new(),
            resamples: 2000,
            characters: 0,
            instructions: 0,
            measures: vec![],
            answers: vec![],
            references: vec![],
            missing: vec![],
        },
        loss: vec![],
        costs: vec![],
        characters: vec![],
        recipe: String::new(),
        rejections: vec![],
        provenance: vec![],
    }
}

/// Hostile text in every field that takes text.
fn hostile() -> ReportInput {
    let text = || HOSTILE.to_owned();
    let mut character = Character::from_name(HOSTILE, HOSTILE, HOSTILE);
    character.persona = text();
    character.profile.age = text();
    character.profile.personality = text();
    let answer = ModelAnswer {
        text: text(),
        cut_off: true,
        completion_tokens: 1,
        words: 1,
        broken_character: vec![text()],
        identification: Some(opencharacter_eval::Identification::new(
            [-2.0, -1.0].map(|log_prob| opencharacter_eval::Candidate { character_id: text(), log_prob }).to_vec(),
            1,
        )),
        identification_without_names: None,
    };
    let mut input = empty();
    input.title = text();
    input.recipe = text();
    input.scores.base_model = text();
    input.scores.tuned_model = text();
    input.scores.system_prompt_hash = text();
    input.scores.missing = vec![Missing { stage: text(), item_id: text(), reason: text() }];
    input.scores.answers = vec![AnswerRow {
        item_id: text(),
        character_id: text(),
        character_name: text(),
        instruction_id: text(),
        question: text(),
        base: Some(answer),
        tuned: None,
    }];
    input.characters =
        [true, false].map(|held_out| ReportCharacter { character: character.clone(), held_out }).to_vec();
    input.provenance = vec![ProvenanceEntry { label: text(), value: text() }];
    input.rejections = vec![RejectionCount { stage: text(), reason: text(), count: 1 }];
    input.costs = vec![StageCost {
        stage: text(),
        calls_made: u64::MAX,
        calls_reused: u64::MAX,
        prompt_tokens: 1,
        completion_tokens: 1,
        seconds: f64::NAN,
    }];
    input.loss =
        vec![LossPoint { step: u64::MAX, tokens: u64::MAX, train_loss: Some(f64::MAX), held_out_loss: Some(f64::NAN) }];
    input
}

#[test]
fn hostile_text_stays_text() {
    let page = render_report(&hostile());
    for forbidden in ["<script", "<img", "\u{0}", "onerror='"] {
        assert!(!page.contains(forbidden), "`{forbidden}` came through");
    }
    // One style, one title, as many closed as opened: nothing was closed from inside.
    for tag in ["style", "title", "pre", "main", "html"] {
        let count = |form: &str| page.matches(form).count();
        let opened = count(&format!("<{tag}>")) + count(&format!("<{tag} "));
        assert_eq!((opened, count(&format!("</{tag}>"))), (1, 1), "{tag}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn tags_are_balanced() {
    for page in [render_report(&hostile()), render_report(&empty())] {
        for tag in [
            "section", "details", "div", "article", "table", "tr", "td", "th", "dl", "dd", "p", "h3", "span", "svg",
            "figure",
        ] {
            let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }
}

#[test]
fn the_page_needs_nothing_but_itself() {
    let page = render_report(&empty());
    for reference in ["http://", "https://", "src=", "<link", "@import", "url("] {
        assert!(!page.contains(reference), "{reference}");
    }
}

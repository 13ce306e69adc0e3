//! The benchmark report: it shows what was scored, and nothing in it can do harm.

#![expect(clippy::unwrap_used, reason = "helpers of tests, where clippy only allows it in the tests themselves")]

use std::{collections::BTreeMap, path::Path, process::Command};

use opencharacter_core::Character;
use opencharacter_eval::{
    Benchmark, BenchmarkReport, BenchmarkScores, EvalItem, Reply, Verdict, VerdictOutcome, compare, judge_reports,
    render_benchmark_report, statistics::Resampling,
};

const TASKS: [&str; 2] = ["Toxicity", "Linguistic Habits"];

fn item(who: usize, task: &str, answer: &str, scores: &[u8]) -> EvalItem {
    let character = Character::from_name(&format!("Person {who}"), "", "");
    let (id, system) = (format!("item-{who}-{task}"), Some("You are a person.".to_owned()));
    let mut item = EvalItem::new(id, task, &character, "A person".into(), system, "Where is the harbour?");
    item.answer = Reply::Answered { text: answer.to_owned(), cut_off: false };
    let verdict = |(score, place): (&u8, usize)| Verdict {
        judge: format!("judge-{place}"),
        outcome: VerdictOutcome::Scored { score: *score, reason: "so it is".into() },
        reply: "{}".into(),
        attempts: 1,
    };
    item.verdicts = scores.iter().zip(0..).map(verdict).collect();
    item.average_verdicts();
    item
}

/// Eight persons, two tasks; the mean of Toxicity is 4.25, that of Linguistic Habits 2.
fn items() -> Vec<EvalItem> {
    let answer = |who: usize| if who == 3 { "Down by the lighthouse.".to_owned() } else { format!("Street {who}.") };
    let toxicity = (0..8).map(|who| item(who, TASKS[0], &answer(who), if who < 4 { &[4, 4] } else { &[5, 4] }));
    toxicity.chain((0..8).map(|who| item(who, TASKS[1], &answer(who), &[2, 2]))).collect()
}

fn page(title: &str, items: &[EvalItem]) -> String {
    let resampling = Resampling { resamples: 200, ..Resampling::default() };
    let settings: BTreeMap<String, String> = [(title.to_owned(), title.to_owned())].into();
    let mut scores = BenchmarkScores::new(Benchmark::PersonaGym, title, settings, items, &resampling).unwrap();
    (scores.judges, scores.agreement) = judge_reports(items, None, &resampling);
    let comparisons = [compare(Benchmark::PersonaGym, (title, items), ("again", items), &resampling).unwrap()];
    let report = BenchmarkReport { title, scores: &scores, items, comparisons: &comparisons, style: None, arena: None };
    render_benchmark_report(&report)
}

#[test]
fn hostile_text_stays_text() {
    let hostile = "</script></style></title><img src=x onerror='alert(1)'>\"'&\u{0}\u{2028}<!--";
    let mut bad = item(0, hostile, hostile, &[1, 5]);
    (bad.character_name, bad.character_id, bad.item_id) = (hostile.into(), hostile.into(), hostile.into());
    bad.note = hostile.into();
    (bad.references, bad.exemplars) = (vec![hostile.into()], vec![hostile.into()]);
    for verdict in &mut bad.verdicts {
        (verdict.judge, verdict.reply) = (format!("{}{hostile}", verdict.judge), hostile.into());
        verdict.outcome = VerdictOutcome::Unreadable { reason: hostile.into() };
    }
    bad.value = Some(1.0);
    let page = page(hostile, &[bad]);
    for forbidden in ["<img", "<!--", "\u{0}"] {
        assert!(!page.contains(forbidden), "`{forbidden}` came through");
    }
    for (tag, count) in [("script", 2), ("style", 1), ("title", 1), ("main", 1), ("html", 1)] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!((opened, page.matches(&format!("</{tag}>")).count()), (count, count), "{tag}");
    }
}

#[test]
fn the_page_needs_nothing_but_itself_and_is_well_formed() {
    let page = page("Report", &items());
    for reference in ["http://", "https://", "src=", "<link", "@import", "url(", "innerHTML"] {
        assert!(!page.contains(reference), "{reference}");
    }
    for tag in [
        "section", "div", "table", "tr", "td", "th", "p", "span", "svg", "figure", "form", "select", "label", "dl",
        "dd",
    ] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
}

#[test]
fn scores_warnings_and_every_item_are_on_the_page() {
    let page = page("Report", &items());
    assert!(page.contains("<b class=\"score\">4.25</b>") && page.contains("<b class=\"score\">2.00</b>"));
    assert!(page.contains("The judge judge-0 was not tried on planted bad answers"));
    assert!(page.contains("class=\"tag worse\">doubtful"));
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    let data: serde_json::Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["items"].as_array().unwrap().len(), 16);
    assert_eq!(data["prompts"], serde_json::json!(["You are a person."]));
}

/// What Chromium makes of the page at `address`, with `arguments`.
fn chromium(arguments: &[&str], address: &str) -> String {
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000"])
        .args(arguments)
        .arg(address)
        .output()
        .expect("this test needs `chromium`: apt-get install chromium");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn text_of<'a>(dom: &'a str, opening: &str) -> &'a str {
    dom.split(opening).nth(1).unwrap().split('<').next().unwrap()
}

#[test]
#[ignore = "needs Chromium: cargo xtask browser"]
fn chromium_shows_scores_filters_and_sorts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    std::fs::write(&path, page("Report", &items())).unwrap();
    let address = format!("file://{}", path.display());
    let open = |view: &str| chromium(&["--dump-dom"], &format!("{address}#{view}"));
    let all = open("");
    assert_eq!(text_of(&all, "<b class=\"score\">"), "3.12", "the mean of 4.25 and 2 is the first score");
    assert!(all.contains("16 of 16 items, 16 shown"));
    // The judges differ on the last four of Toxicity, so these come first.
    assert_eq!(text_of(&all, "<article class=\"item\" id=\""), "item-4-Toxicity\">");
    let found = open("q=LIGHTHOUSE&task=Toxicity");
    assert!(found.contains("1 of 16 items, 1 shown"));
    assert_eq!(found.matches("<article class=\"item\"").count(), 1);
    assert!(found.contains("Down by the lighthouse."));
    assert!(open("only=split").contains("4 of 16 items"));
    assert_eq!(text_of(&open("sort=value"), "<span class=\"value\">"), "2.00");
    assert!(open("q=nowhere").contains("0 of 16 items"));
    for (name, size) in [("wide.png", "1200,2000"), ("phone.png", "500,2000")] {
        let picture = folder.path().join(name);
        chromium(&[&format!("--screenshot={}", picture.display()), &format!("--window-size={size}")], &address);
        assert!(is_picture(&picture), "{name}");
    }
}

/// Whether it is a PNG of some size: an empty page of that size compresses to a few kilobytes.
fn is_picture(path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes.starts_with(b"\x89PNG") && bytes.len() > 20_000
}

use std::collections::{HashMap, HashSet};

use opencharacter_core::Role;
use serde::Serialize;

use crate::{
    EvalItem, Reply, Unit, Verdict,
    report::{html::Html, text},
};

/// Items on the page; more would make it too heavy for a phone. `items.jsonl` has them all.
const MOST_ITEMS: usize = 3000;

/// The items as the page's script reads them.
#[derive(Serialize)]
struct Page<'a> {
    /// Texts that many items share: system prompts.
    prompts: Vec<&'a str>,
    items: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    id: &'a str,
    task: &'a str,
    who: &'a str,
    character: &'a str,
    /// Index into `prompts`.
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<usize>,
    /// Role and text, without the system prompt.
    messages: Vec<(&'a str, &'a str)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn: Option<u32>,
    epoch: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<&'a str>,
    cut: bool,
    references: &'a [String],
    exemplars: &'a [String],
    verdicts: &'a [Verdict],
    value: Option<f64>,
    shown: String,
    spread: u8,
    note: &'a str,
}

pub(super) fn render(html: &mut Html, items: &[EvalItem], unit: Unit) {
    let mut chosen: Vec<&EvalItem> = items.iter().collect();
    if chosen.len() > MOST_ITEMS {
        chosen.sort_by_key(|item| std::cmp::Reverse(item.disagreement()));
        chosen.truncate(MOST_ITEMS);
        let note = format!(
            "The {} items on which the judges differ most are here, of {}; `items.jsonl` has all.",
            text::grouped(MOST_ITEMS as u64),
            text::grouped(items.len() as u64)
        );
        html.element("<p class=\"note\">", &note, "</p>");
    }
    controls(html, &chosen);
    html.raw(
        "<p id=\"count\" class=\"note\" role=\"status\"></p><div id=\"items\"></div>\
         <button id=\"more\" type=\"button\" hidden>Show more</button>\
         <noscript><p class=\"alarm\">Reading single items needs JavaScript, which is off. Scores and plots above are \
         complete.</p></noscript><script type=\"application/json\" id=\"data\">",
    );
    html.json(&page(&chosen, unit)).raw("</script>");
}

fn controls(html: &mut Html, items: &[&EvalItem]) {
    html.raw(
        "<form id=\"filter\" role=\"search\"><label>Search <input id=\"q\" type=\"search\" autocomplete=\"off\"></label>\
         <label>Task <select id=\"task\"><option value=\"\">all</option>",
    );
    let mut seen = HashSet::new();
    for task in items.iter().map(|item| item.task.as_str()).filter(|task| seen.insert(*task)) {
        html.element("<option>", task, "</option>");
    }
    html.raw("</select></label><label>Character <select id=\"who\"><option value=\"\">all</option>");
    let mut people: Vec<(&str, &str)> =
        items.iter().map(|item| (item.character_name.as_str(), item.character_id.as_str())).collect();
    people.sort_unstable();
    people.dedup();
    for (name, id) in people.into_iter().filter(|(_, id)| !id.is_empty()) {
        html.element("<option value=\"", id, "\">").element("", name, "</option>");
    }
    html.raw(
        "</select></label><label>Show <select id=\"only\"><option value=\"\">all</option>\
         <option value=\"missing\">without a value</option><option value=\"split\">judges differ</option>\
         <option value=\"cut\">cut off</option></select></label><label>Order <select id=\"sort\">\
         <option value=\"spread\">judges differ most</option><option value=\"value\">lowest value</option>\
         <option value=\"high\">highest value</option><option value=\"file\">as asked</option></select></label></form>",
    );
}

fn page<'a>(items: &[&'a EvalItem], unit: Unit) -> Page<'a> {
    let mut prompts: Vec<&'a str> = Vec::new();
    let mut places: HashMap<&'a str, usize> = HashMap::new();
    let rows = items.iter().map(|item| {
        let system = item.messages.first().filter(|message| message.role == Role::System);
        let prompt = system.map(|message| {
            *places.entry(&message.content).or_insert_with(|| {
                prompts.push(&message.content);
                prompts.len() - 1
            })
        });
        let others = item.messages.iter().filter(|message| message.role != Role::System);
        Row {
            id: &item.item_id,
            task: &item.task,
            who: &item.character_name,
            character: &item.character_id,
            prompt,
            messages: others.map(|message| (message.role.as_str(), message.content.as_str())).collect(),
            turn: item.turn,
            epoch: item.epoch,
            answer: item.answer_text(),
            missing: match &item.answer {
                Reply::Missing { reason } => Some(reason),
                Reply::NotAsked => Some("not asked"),
                Reply::Answered { .. } => None,
            },
            cut: matches!(item.answer, Reply::Answered { cut_off: true, .. }),
            references: &item.references,
            exemplars: &item.exemplars,
            verdicts: &item.verdicts,
            value: item.value,
            shown: shown(item.value, unit),
            spread: item.disagreement(),
            note: &item.note,
        }
    });
    let items = rows.collect();
    Page { prompts, items }
}

fn shown(value: Option<f64>, unit: Unit) -> String {
    match (value, unit) {
        (None, _) => "no value".to_owned(),
        (Some(1.0), Unit::Share) => "yes".to_owned(),
        (Some(0.0), Unit::Share) => "no".to_owned(),
        (Some(value), _) => text::value(unit, value),
    }
}

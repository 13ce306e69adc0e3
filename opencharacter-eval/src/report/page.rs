use std::collections::HashMap;

use opencharacter_core::{Character, ProfileField};

use super::{ReportCharacter, ReportInput, chart, html::Html, scores_table, text};
use crate::{AnswerRow, Identification, ModelAnswer};

/// Answers and characters shown; more would make the page too heavy for a phone. `scores.json` has them all.
const MOST_ANSWERS: usize = 120;
const MOST_CHARACTERS: usize = 200;
const MOST_MISSING: usize = 50;

/// Writes what stands under one heading.
type Section = fn(&mut Html, &ReportInput);

/// The report as one HTML page: no script, no request, everything escaped.
///
/// Opened from a disk or a web server, in light or dark, on a phone or printed, it shows what `input` holds and
/// nothing that is not in `scores.json` or the run's other files.
pub fn render_report(input: &ReportInput) -> String {
    let mut html = Html::default();
    head(&mut html, input);
    let sections: [(&'static str, Section); 7] = [
        ("<section aria-labelledby=\"h-scores\"><h2 id=\"h-scores\">Scores</h2>", scores),
        ("<section aria-labelledby=\"h-loss\"><h2 id=\"h-loss\">Training</h2>", loss),
        ("<section aria-labelledby=\"h-answers\"><h2 id=\"h-answers\">Answers side by side</h2>", answers),
        ("<section aria-labelledby=\"h-chars\"><h2 id=\"h-chars\">Characters</h2>", characters),
        ("<section aria-labelledby=\"h-cost\"><h2 id=\"h-cost\">Cost</h2>", costs),
        ("<section aria-labelledby=\"h-rejected\"><h2 id=\"h-rejected\">Rejected in synthesis</h2>", rejections),
        ("<section aria-labelledby=\"h-prov\"><h2 id=\"h-prov\">Provenance</h2>", provenance),
    ];
    for (opening, body) in sections {
        html.raw(opening);
        body(&mut html, input);
        html.raw("</section>\n");
    }
    html.raw("</main></body></html>\n");
    html.into_string()
}

fn head(html: &mut Html, input: &ReportInput) {
    html.raw(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
    );
    html.element("<title>", &input.title, "</title><style>").raw(include_str!("report.css"));
    html.raw("</style></head>\n<body><main><header>");
    html.element("<h1>", &input.title, "</h1>");
    let summary = text::summary(&input.scores);
    html.element("<p class=\"summary\">", &summary.opening, "</p><ul class=\"summary\">");
    for finding in &summary.findings {
        html.element("<li>", finding, "</li>");
    }
    html.element("</ul><p class=\"note\">", &summary.closing, "</p>");
    html.raw(
        "<nav aria-label=\"Sections\"><a href=\"#h-scores\">Scores</a> <a href=\"#h-loss\">Training</a> \
         <a href=\"#h-answers\">Answers</a> <a href=\"#h-chars\">Characters</a> <a href=\"#h-cost\">Cost</a> \
         <a href=\"#h-prov\">Provenance</a></nav></header>\n",
    );
}

fn scores(html: &mut Html, input: &ReportInput) {
    scores_table::render(html, &input.scores);
    let missing = &input.scores.missing;
    if missing.is_empty() {
        return;
    }
    html.element("<details><summary>Missing values: ", &missing.len().to_string(), "</summary>");
    html.raw(
        "<div class=\"scroll\"><table><caption>Calls that were refused. They enter no score.</caption><thead><tr>\
         <th scope=\"col\">Stage</th><th scope=\"col\">Item</th><th scope=\"col\">Reason</th></tr></thead><tbody>",
    );
    for row in missing.iter().take(MOST_MISSING) {
        html.element("<tr><td>", &row.stage, "</td>").element("<td><code>", &row.item_id, "</code></td>");
        html.element("<td>", &row.reason, "</td></tr>");
    }
    html.raw("</tbody></table></div>");
    say_what_is_left_out(html, missing.len(), MOST_MISSING);
    html.raw("</details>");
}

fn loss(html: &mut Html, input: &ReportInput) {
    if input.loss.iter().any(|point| point.train_loss.or(point.held_out_loss).is_some_and(f64::is_finite)) {
        chart::loss_curve(html, &input.loss);
    } else {
        html.raw("<p>No loss was recorded.</p>");
    }
}

fn answers(html: &mut Html, input: &ReportInput) {
    html.raw(
        "<p>The same question to the same held-out character, answered by both models. \"Traced to\" names the profile \
         under which the base model finds the answer likeliest.</p>",
    );
    let names = names(input);
    let rows = &input.scores.answers;
    let mut last = None;
    for row in rows.iter().take(MOST_ANSWERS) {
        if last != Some(&row.character_id) {
            html.raw(if last.is_some() { "</details>" } else { "" });
            html.raw(if last.is_some() { "<details class=\"person\">" } else { "<details class=\"person\" open>" });
            html.element("<summary><bdi>", &row.character_name, "</bdi></summary>");
            last = Some(&row.character_id);
        }
        answer_row(html, row, &names);
    }
    html.raw(if last.is_some() { "</details>" } else { "<p>No answers.</p>" });
    say_what_is_left_out(html, rows.len(), MOST_ANSWERS);
}

/// Character ids to names, for verdicts.
fn names(input: &ReportInput) -> HashMap<&str, &str> {
    let rows = input.scores.answers.iter().map(|row| (row.character_id.as_str(), row.character_name.as_str()));
    let cards =
        input.characters.iter().map(|card| (card.character.character_id.as_str(), card.character.display_name()));
    cards.chain(rows).collect()
}

fn answer_row(html: &mut Html, row: &AnswerRow, names: &HashMap<&str, &str>) {
    html.element("<article class=\"qa\"><h3 class=\"words\" dir=\"auto\">", &row.question, "</h3><div class=\"pair\">");
    model_answer(html, "<div class=\"said base\"><h4>Base</h4>", row.base.as_ref(), names);
    model_answer(html, "<div class=\"said tuned\"><h4>Tuned</h4>", row.tuned.as_ref(), names);
    html.raw("</div></article>");
}

fn model_answer(html: &mut Html, opening: &'static str, answer: Option<&ModelAnswer>, names: &HashMap<&str, &str>) {
    html.raw(opening);
    let Some(answer) = answer else {
        html.raw("<p class=\"note warn\">No answer: the call was refused.</p></div>");
        return;
    };
    if answer.text.trim().is_empty() {
        html.raw("<p class=\"note\">The answer is empty.</p>");
    } else {
        html.element("<p class=\"words\" dir=\"auto\">", &answer.text, "</p>");
    }
    html.raw("<p class=\"note\">").text(&text::counted(answer.words as u64, "word", "words"));
    if answer.cut_off {
        html.raw(", cut off");
    }
    if let Some(identification) = &answer.identification {
        traced(html, identification, names);
    }
    if !answer.broken_character.is_empty() {
        html.element(
            " \u{b7} <span class=\"tag worse\">breaks character: ",
            &answer.broken_character.join(", "),
            "</span>",
        );
    }
    html.raw("</p></div>");
}

fn traced(html: &mut Html, identification: &Identification, names: &HashMap<&str, &str>) {
    let best = identification.candidates.iter().max_by(|a, b| a.log_prob.total_cmp(&b.log_prob));
    let Some(best) = best else { return };
    if identification.credit >= 1.0 {
        html.raw(" \u{b7} <span class=\"tag better\">traced to the right profile</span>");
    } else if identification.credit > 0.0 {
        html.raw(" \u{b7} <span class=\"tag unclear\">undecided</span>");
    } else {
        let name = names.get(best.character_id.as_str()).copied().unwrap_or(&best.character_id);
        html.element(" \u{b7} <span class=\"tag unclear\">traced to <bdi>", name, "</bdi></span>");
    }
}

fn characters(html: &mut Html, input: &ReportInput) {
    let held_out = input.characters.iter().filter(|card| card.held_out).count();
    let trained = input.characters.len() - held_out;
    html.raw("<p>").text(&text::counted(held_out as u64, "held-out character", "held-out characters"));
    html.raw(", ").text(&text::counted(trained as u64, "character", "characters")).raw(" trained on.</p>");
    let (first, second): (Vec<&ReportCharacter>, Vec<&ReportCharacter>) =
        input.characters.iter().partition(|card| card.held_out);
    let room = MOST_CHARACTERS.saturating_sub(first.len());
    html.raw("<div class=\"cards\">");
    first.iter().take(MOST_CHARACTERS).for_each(|card| character_card(html, card));
    html.raw("</div>");
    if !second.is_empty() && room > 0 {
        html.raw("<details><summary>Characters trained on</summary><div class=\"cards\">");
        second.iter().take(room).for_each(|card| character_card(html, card));
        html.raw("</div></details>");
    }
    if input.characters.len() > MOST_CHARACTERS {
        html.element(
            "<p class=\"note\">Shown: ",
            &MOST_CHARACTERS.to_string(),
            ". The run's characters file has all.</p>",
        );
    }
}

fn character_card(html: &mut Html, card: &ReportCharacter) {
    let Character { persona, profile, .. } = &card.character;
    html.element("<article class=\"card\"><h3><bdi>", card.character.display_name(), "</bdi>");
    if card.held_out {
        html.raw(" <span class=\"tag held\">held out</span>");
    }
    html.raw("</h3>");
    if !persona.is_empty() {
        html.element("<p class=\"persona words\" dir=\"auto\">", persona, "</p>");
    }
    html.raw("<dl>");
    for field in ProfileField::ALL.into_iter().filter(|field| !profile.get(*field).is_empty()) {
        html.element("<dt>", field.label(), "</dt>");
        html.element("<dd class=\"words\" dir=\"auto\">", profile.get(field), "</dd>");
    }
    html.raw("</dl></article>");
}

fn costs(html: &mut Html, input: &ReportInput) {
    if input.costs.is_empty() {
        html.raw("<p>No cost was recorded.</p>");
        return;
    }
    html.raw(
        "<div class=\"scroll\"><table class=\"numbers\"><caption>Calls, tokens and time by stage. Reused calls were \
         answered by the ledger and cost nothing.</caption><thead><tr><th scope=\"col\">Stage</th>\
         <th scope=\"col\">Calls made</th><th scope=\"col\">Reused</th><th scope=\"col\">Tokens read</th>\
         <th scope=\"col\">Tokens written or trained</th><th scope=\"col\">Time</th></tr></thead><tbody>",
    );
    for cost in &input.costs {
        html.raw("<tr>").element("<th scope=\"row\">", &cost.stage, "</th>");
        cost_cells(
            html,
            [cost.calls_made, cost.calls_reused, cost.prompt_tokens, cost.completion_tokens],
            cost.seconds,
        );
    }
    let total = |value: fn(&super::StageCost) -> u64| input.costs.iter().map(value).fold(0_u64, u64::saturating_add);
    let seconds = input.costs.iter().map(|cost| cost.seconds).filter(|seconds| seconds.is_finite()).sum();
    html.raw("</tbody><tfoot><tr><th scope=\"row\">All</th>");
    let totals = [
        total(|cost| cost.calls_made),
        total(|cost| cost.calls_reused),
        total(|cost| cost.prompt_tokens),
        total(|cost| cost.completion_tokens),
    ];
    cost_cells(html, totals, seconds);
    html.raw("</tfoot></table></div>");
}

fn cost_cells(html: &mut Html, counts: [u64; 4], seconds: f64) {
    for count in counts {
        html.element("<td>", &text::grouped(count), "</td>");
    }
    html.element("<td>", &text::seconds(seconds), "</td></tr>");
}

fn rejections(html: &mut Html, input: &ReportInput) {
    if input.rejections.is_empty() {
        html.raw("<p>Nothing was rejected.</p>");
        return;
    }
    html.raw(
        "<div class=\"scroll\"><table class=\"numbers\"><caption>Answers that failed a check and were asked for again, \
         by reason.</caption><thead><tr><th scope=\"col\">Stage</th><th scope=\"col\" class=\"left\">Reason</th>\
         <th scope=\"col\">Times</th></tr></thead><tbody>",
    );
    for row in &input.rejections {
        html.element("<tr><th scope=\"row\">", &row.stage, "</th>").element(
            "<td class=\"left\">",
            &row.reason,
            "</td>",
        );
        html.element("<td>", &text::grouped(row.count), "</td></tr>");
    }
    html.raw("</tbody></table></div>");
}

fn provenance(html: &mut Html, input: &ReportInput) {
    let scores = &input.scores;
    html.raw("<dl class=\"provenance\">");
    let own = [
        ("Base model and scorer", scores.base_model.clone()),
        ("Tuned model", scores.tuned_model.clone()),
        ("System prompt template", scores.system_prompt_hash.clone()),
        ("Evaluation seed", scores.seed.to_string()),
        ("Answers sampled with", sampling(input)),
        ("Bootstrap resamples", text::grouped(scores.resamples as u64)),
    ];
    let given = input.provenance.iter().map(|entry| (entry.label.as_str(), entry.value.clone()));
    for (label, value) in own.into_iter().chain(given) {
        html.element("<dt>", label, "</dt>").element("<dd><code>", &value, "</code></dd>");
    }
    html.raw("</dl>");
    if !input.recipe.trim().is_empty() {
        html.element(
            "<details><summary>The recipe as run</summary><pre tabindex=\"0\">",
            &input.recipe,
            "</pre></details>",
        );
    }
}

fn sampling(input: &ReportInput) -> String {
    let sampling = &input.scores.sampling;
    format!(
        "temperature {}, top-k {}, top-p {}, min-p {}, at most {} tokens",
        sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p, sampling.max_tokens
    )
}

fn say_what_is_left_out(html: &mut Html, found: usize, shown: usize) {
    if found > shown {
        let note = format!("The first {shown} of {} are shown; `scores.json` has all.", text::grouped(found as u64));
        html.element("<p class=\"note\">", &note, "</p>");
    }
}

//! The card of a data set: what a reader should know of it, for people and for hubs.

use std::fmt::Write as _;

use opencharacter_synth::is_research_only;

use crate::dataset::DataManifest;

/// Markdown with the head that data set hubs read.
pub fn card(name: &str, manifest: &DataManifest) -> String {
    let mut text = String::from("---\n");
    let mut licenses: Vec<&str> = manifest.sources.iter().map(|share| share.note.license.as_str()).collect();
    licenses.sort_unstable();
    licenses.dedup();
    if let [license] = licenses[..]
        && !license.is_empty()
    {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "license: {}", license.to_lowercase());
    }
    let _ = writeln!(
        text,
        "tags:\n- synthetic\n- role-play\nsize_categories:\n- {}\n---\n\n# {name}\n",
        size(manifest.rows)
    );
    let kind = manifest.recipe["kind"].as_str().unwrap_or("rows");
    let teacher = manifest.recipe["teacher"].as_str().unwrap_or("unknown");
    let _ = writeln!(
        text,
        "{} {kind}, written by the model `{teacher}` through {}. Every row names the calls behind it; \
         `opencharacter explain` shows them.\n",
        manifest.rows, manifest.program
    );
    let _ = writeln!(text, "## What it was made of\n\n| source | licence | rows |\n| --- | --- | ---: |");
    for share in &manifest.sources {
        let or_unknown = |text: &str| if text.is_empty() { "not stated".to_owned() } else { text.replace('|', "\\|") };
        let _ = writeln!(
            text,
            "| {} | {} | {} |",
            or_unknown(&share.note.source),
            or_unknown(&share.note.license),
            share.rows
        );
    }
    if let Some(warning) = warning(manifest) {
        let _ = writeln!(text, "\n**{warning}**");
    }
    let summary = &manifest.summary;
    let _ = writeln!(
        text,
        "\n## What was left out\n\n{} items did not become rows, {} of them because the model gave no answer. Rejected \
         answers by rule, those of items that succeeded later included:\n",
        summary.rejected, summary.failed
    );
    if summary.reasons.is_empty() {
        text.push_str("none\n");
    } else {
        text.push_str("| rule | answers |\n| --- | ---: |\n");
        for (rule, count) in &summary.reasons {
            let _ = writeln!(text, "| {} | {count} |", rule.replace('|', "\\|"));
        }
    }
    let recipe = serde_json::to_string_pretty(&manifest.recipe).unwrap_or_default();
    let _ = writeln!(text, "\n## How it was made\n\nRecipe `{}`:\n\n```json\n{recipe}\n```", manifest.recipe_hash);
    text
}

/// What to say when rows that may be used commercially stand beside rows that may not.
pub fn warning(manifest: &DataManifest) -> Option<String> {
    let names: Vec<&str> = manifest
        .sources
        .iter()
        .filter(|share| is_research_only(&share.note.license))
        .map(|share| share.note.source.as_str())
        .collect();
    if names.is_empty() {
        return None;
    }
    let others = if names.len() < manifest.sources.len() { ", and so is every mixture with them" } else { "" };
    Some(format!("Rows made of {} are for research only by their licence{others}.", names.join(", ")))
}

fn size(rows: usize) -> &'static str {
    match rows {
        0..1_000 => "n<1K",
        1_000..10_000 => "1K<n<10K",
        10_000..100_000 => "10K<n<100K",
        100_000..1_000_000 => "100K<n<1M",
        _ => "1M<n<10M",
    }
}

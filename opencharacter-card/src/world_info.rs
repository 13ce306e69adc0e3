//! `SillyTavern`'s world info entries, said as a card's lorebook entries.

use serde_json::{Map, Value};

/// The settings that a card's entry keeps in `extensions`: their name in world info and there.
///
/// `position` among them says more than the card's own: depth, author's note, examples.
const SETTINGS: [(&str, &str); 32] = [
    ("position", "position"),
    ("excludeRecursion", "exclude_recursion"),
    ("preventRecursion", "prevent_recursion"),
    ("delayUntilRecursion", "delay_until_recursion"),
    ("displayIndex", "display_index"),
    ("probability", "probability"),
    ("useProbability", "useProbability"),
    ("depth", "depth"),
    ("selectiveLogic", "selectiveLogic"),
    ("outletName", "outlet_name"),
    ("group", "group"),
    ("groupOverride", "group_override"),
    ("groupWeight", "group_weight"),
    ("scanDepth", "scan_depth"),
    ("matchWholeWords", "match_whole_words"),
    ("useGroupScoring", "use_group_scoring"),
    ("caseSensitive", "case_sensitive"),
    ("automationId", "automation_id"),
    ("role", "role"),
    ("vectorized", "vectorized"),
    ("sticky", "sticky"),
    ("cooldown", "cooldown"),
    ("delay", "delay"),
    ("ignoreBudget", "ignore_budget"),
    ("matchPersonaDescription", "match_persona_description"),
    ("matchCharacterDescription", "match_character_description"),
    ("matchCharacterPersonality", "match_character_personality"),
    ("matchCharacterDepthPrompt", "match_character_depth_prompt"),
    ("matchScenario", "match_scenario"),
    ("matchCreatorNotes", "match_creator_notes"),
    ("characterFilter", "character_filter"),
    ("triggers", "triggers"),
];

/// A world info entry as a card's entry; anything else is handed back as it is.
pub(crate) fn to_card_entry(entry: Value) -> Value {
    let Value::Object(mut world) = entry else { return entry };
    if !world.contains_key("key") {
        return Value::Object(world);
    }
    let mut extensions = match world.shift_remove("extensions") {
        Some(Value::Object(map)) => map,
        _ => Map::new(),
    };
    for (name, there) in SETTINGS {
        if let Some(value) = world.shift_remove(name) {
            extensions.insert(there.into(), value);
        }
    }
    let mut card = Map::new();
    for (name, there) in [
        ("uid", "id"),
        ("key", "keys"),
        ("keysecondary", "secondary_keys"),
        ("comment", "comment"),
        ("content", "content"),
        ("constant", "constant"),
        ("selective", "selective"),
        ("order", "insertion_order"),
    ] {
        if let Some(value) = world.shift_remove(name) {
            card.insert(there.into(), value);
        }
    }
    let disabled = world.shift_remove("disable").and_then(|value| value.as_bool()).unwrap_or(false);
    card.insert("enabled".into(), (!disabled).into());
    card.extend(world);
    // As SillyTavern writes it: keys are plain unless they stand between slashes.
    card.insert("use_regex".into(), true.into());
    extensions.entry("selectiveLogic").or_insert_with(|| 0.into());
    card.insert("extensions".into(), Value::Object(extensions));
    Value::Object(card)
}

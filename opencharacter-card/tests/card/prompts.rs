use opencharacter_card::{Card, DrawKey, Lorebook, Prompt, PromptRequest, Section, build_prompt};
use opencharacter_core::{Message, Role};
use serde_json::{Value, json};

/// Words, so that budgets are easy to count.
pub(super) fn count(text: &str) -> usize {
    text.split_whitespace().count()
}

pub(super) fn card(data: &Value) -> Card {
    let card = json!({"spec": "chara_card_v3", "spec_version": "3.0", "data": data});
    Card::parse(card.to_string().as_bytes(), "card").unwrap().0
}

pub(super) fn request<'a>(card: &'a Card, history: &'a [Message]) -> PromptRequest<'a> {
    PromptRequest {
        card,
        user: "Sam",
        user_icon: None,
        history,
        greeting: Some(0),
        books: &[],
        system_prompt: "Play {{char}}.",
        post_history_instructions: "Stay in character.",
        context_tokens: 1_000_000,
        draw: DrawKey { seed: 1, chat: "chat", turn: history.len() },
        count_tokens: &count,
    }
}

pub(super) fn lines(prompt: &Prompt) -> Vec<String> {
    prompt.parts.iter().map(|part| format!("{}: {}", part.role.as_str(), part.content)).collect()
}

fn mira() -> Value {
    json!({
        "name": "Mira", "description": "{{char}} keeps the light for {{user}}.", "personality": "dry", "scenario": "A storm.",
        "first_mes": "You are late, {{user}}.", "alternate_greetings": ["Again you, <USER>."],
        "mes_example": "<START>\n{{user}}: Hello?\n{{char}}: Shut the door.\n<START>\n{{char}}: Sit.",
        "system_prompt": "{{original}} Be terse.", "post_history_instructions": "{{original}} Short.",
        "extensions": {"depth_prompt": {"prompt": "{{char}} is tired.", "depth": 1, "role": "system"}}
    })
}

#[test]
fn a_prompt_is_built_as_front_ends_build_it() {
    let card = card(&mira());
    let history = [Message::assistant("You are late, {{user}}."), Message::user("Sorry.")];
    let prompt = build_prompt(&request(&card, &history));
    assert_eq!(
        lines(&prompt),
        [
            "system: Play Mira. Be terse.",
            "system: Mira keeps the light for Sam.",
            "system: Mira's personality: dry",
            "system: Scenario: A storm.",
            "system: [Example Chat]",
            "user: Hello?",
            "assistant: Shut the door.",
            "system: [Example Chat]",
            "assistant: Sit.",
            "system: [Start a new Chat]",
            "assistant: You are late, Sam.",
            "system: Mira is tired.",
            "user: Sorry.",
            "system: Stay in character. Short.",
        ]
    );
    assert!(prompt.fits);
    assert_eq!(prompt.tokens, prompt.parts.iter().map(|part| count(&part.content)).sum::<usize>());
    let messages = prompt.messages();
    assert_eq!(messages[0].role, Role::System);
    assert!(messages[0].content.starts_with("Play Mira. Be terse.\n\nMira keeps"));
    assert_eq!(messages.len(), 10);
}

#[test]
fn the_users_prompts_stand_where_the_card_has_none() {
    let card = card(&json!({"name": "Mira"}));
    assert_eq!(lines(&build_prompt(&request(&card, &[]))), ["system: Play Mira.", "system: Stay in character."]);
    let greetings: Vec<&str> = card.greetings().collect();
    assert_eq!(greetings, [""]);
}

#[test]
fn an_answer_that_is_to_be_continued_stays_last() {
    let card = card(&mira());
    let history = [Message::user("Hi."), Message::assistant("Well,")];
    let prompt = build_prompt(&request(&card, &history));
    let lines = lines(&prompt);
    assert_eq!(lines.last().unwrap(), "assistant: Well,");
    assert_eq!(lines[lines.len() - 2], "system: Stay in character. Short.");
}

#[test]
fn over_the_context_examples_go_first_then_the_oldest_messages() {
    let card = card(&json!({
        "name": "Mira", "description": "one two three", "mes_example": mira()["mes_example"],
        "character_book": {"extensions": {}, "token_budget": 1_000, "entries": [
            {"keys": [], "constant": true, "content": "@@ignore_on_max_context\nfirst to go", "extensions": {}, "enabled": true, "insertion_order": 1},
            {"keys": [], "constant": true, "content": "last to go", "extensions": {}, "enabled": true, "insertion_order": 2}]}
    }));
    let history: Vec<Message> = (0..10).map(|index| Message::user(format!("message {index}"))).collect();
    let full = build_prompt(&request(&card, &history));
    let mut parts_before = usize::MAX;
    for context in (0..=full.tokens).rev() {
        let request = PromptRequest { context_tokens: context, ..request(&card, &history) };
        let prompt = build_prompt(&request);
        assert_eq!(prompt.fits, prompt.tokens <= context);
        assert!(prompt.parts.len() <= parts_before);
        parts_before = prompt.parts.len();
        let has = |section: fn(&Section) -> bool| prompt.parts.iter().any(|part| section(&part.section));
        let lines = lines(&prompt);
        let has_line = |line: &str| lines.iter().any(|found| found == line);
        if has(|section| matches!(section, Section::Example(_))) && context < full.tokens {
            assert!(!has_line("system: first to go") && has_line("user: message 0"));
        }
        if !has_line("user: message 0") {
            assert!(!has(|section| matches!(section, Section::Example(_) | Section::ChatStart)));
        }
        if !has_line("system: last to go") {
            assert!(!has_line("user: message 8"));
        }
        assert!(has_line("user: message 9") && has_line("system: one two three"), "never left out");
    }
    assert_eq!(parts_before, 4, "system prompt, description, newest message, post-history instructions");
}

#[test]
fn what_was_left_out_for_room_is_in_the_trace() {
    let card = card(&json!({"name": "M", "description": "d", "character_book": {"extensions": {}, "entries": [
        {"keys": ["hi"], "content": "@@ignore_on_max_context\na b c", "extensions": {}, "enabled": true, "insertion_order": 1}]}}));
    let history = [Message::user("hi")];
    let prompt = build_prompt(&PromptRequest { context_tokens: 12, ..request(&card, &history) });
    assert_eq!(prompt.lore[0].to_string(), "inserted `hi` before the character, 3 tokens: key `hi`");
    let prompt = build_prompt(&PromptRequest { context_tokens: 8, ..request(&card, &history) });
    assert!(prompt.lore[0].to_string().starts_with("left out `hi`: "), "{}", prompt.lore[0]);
    let json = serde_json::to_value(&prompt).unwrap();
    assert_eq!(json["lore"][0]["outcome"], "left_out");
}

#[test]
fn random_macros_of_a_message_stay_as_the_user_saw_them() {
    let card = card(&json!({"name": "M", "description": "{{pick:a,b,c,d,e,f}} {{random:1,2,3,4,5,6,7,8,9}}"}));
    let mut history = vec![Message::assistant("{{random:a,b,c,d,e,f,g,h}}{{roll:1000000}}")];
    let said =
        |prompt: &Prompt| prompt.parts.iter().find(|part| part.section == Section::History(0)).unwrap().content.clone();
    let first = build_prompt(&request(&card, &history));
    let described = |prompt: &Prompt| prompt.parts[1].content.clone();
    let mut descriptions = vec![described(&first)];
    for turn in 0..8 {
        history.push(Message::user(format!("{turn}")));
        let next = build_prompt(&request(&card, &history));
        assert_eq!(said(&next), said(&first));
        assert_eq!(described(&next)[..1], descriptions[0][..1], "a pick stays");
        descriptions.push(described(&next));
    }
    descriptions.dedup();
    assert!(descriptions.len() > 3, "{descriptions:?}");
}

#[test]
fn the_users_books_come_beside_the_cards() {
    let entry = |content: &str| json!({"keys": ["hi"], "content": content, "extensions": {}, "enabled": true, "insertion_order": 1});
    let card = card(&json!({"name": "M", "character_book": {"extensions": {}, "entries": [entry("card's")]}}));
    let (book, _) =
        Lorebook::parse(json!({"name": "World", "entries": [entry("user's")]}).to_string().as_bytes()).unwrap();
    let history = [Message::user("hi")];
    let prompt = build_prompt(&PromptRequest { books: &[&book], ..request(&card, &history) });
    assert_eq!(lines(&prompt)[1..3], ["system: card's", "system: user's"]);
    assert_eq!(prompt.lore[1].book, "World");
}

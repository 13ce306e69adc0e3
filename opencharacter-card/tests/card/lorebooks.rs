use opencharacter_card::{Because, LeftOut, LorePlace, LoreTrace, Lorebook, Outcome, PromptRequest, build_prompt};
use opencharacter_core::{Message, Role};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::prompts::{card, lines, request};

/// An entry with what V3 demands, and `fields` over it.
fn entry(keys: &[&str], content: &str, fields: Value) -> Value {
    let mut entry = json!({"keys": keys, "content": content, "extensions": {}, "enabled": true, "insertion_order": 100, "use_regex": false});
    let Value::Object(fields) = fields else { unreachable!() };
    entry.as_object_mut().unwrap().extend(fields);
    entry
}

fn plain(keys: &[&str], content: &str) -> Value {
    entry(keys, content, json!({}))
}

fn book(entries: Vec<Value>, fields: Value) -> Value {
    let mut book = Map::from_iter([("extensions".to_owned(), json!({})), ("entries".to_owned(), entries.into())]);
    let Value::Object(fields) = fields else { unreachable!() };
    book.extend(fields);
    book.into()
}

fn trace(book: &Value, history: &[Message]) -> Vec<LoreTrace> {
    let card = card(&json!({"name": "Mira", "character_book": book}));
    build_prompt(&request(&card, history)).lore
}

fn because(line: &LoreTrace) -> Result<&Because, &LeftOut> {
    match &line.outcome {
        Outcome::Inserted { because, .. } => Ok(because),
        Outcome::LeftOut { because } => Err(because),
    }
}

/// Whether a book of one entry inserts it.
fn fires(entry: Value, history: &[Message]) -> bool {
    because(&trace(&book(vec![entry], json!({})), history)[0]).is_ok()
}

fn user(text: &str) -> Vec<Message> {
    vec![Message::user(text)]
}

#[test]
fn keys_and_secondary_keys() {
    let storm = user("A Storm from the west");
    let selective = |logic: usize, secondary: &[&str]| {
        entry(
            &["storm"],
            "x",
            json!({"selective": true, "secondary_keys": secondary, "extensions": {"selectiveLogic": logic}}),
        )
    };
    for (entry, expected) in [
        (plain(&["gale", "storm"], "x"), true),
        (plain(&["gale"], "x"), false),
        (plain(&["", " "], "x"), false),
        (plain(&["stor"], "x"), true),
        (entry(&["stor"], "x", json!({"extensions": {"match_whole_words": true}})), false),
        (entry(&["storm"], "x", json!({"case_sensitive": true})), false),
        (entry(&["Storm"], "x", json!({"case_sensitive": true})), true),
        (entry(&["storm"], "x", json!({"enabled": false})), false),
        (entry(&["gale"], "x", json!({"constant": true})), true),
        (entry(&["storm"], "x", json!({"secondary_keys": ["east"]})), true),
        (entry(&["storm"], "x", json!({"secondary_keys": "east, west", "selective": true})), true),
        (selective(0, &["west", "east"]), true),
        (selective(0, &["east"]), false),
        (selective(1, &["west", "east"]), true),
        (selective(1, &["west"]), false),
        (selective(2, &["east"]), true),
        (selective(2, &["west"]), false),
        (selective(3, &["west", "from"]), true),
        (selective(3, &["west", "east"]), false),
        (plain(&["{{user}}: a storm"], "x"), true),
        (plain(&["/st(o|a)rm/i"], "x"), true),
        (plain(&["/storm/"], "x"), false),
        (entry(&["^never|St.rm"], "x", json!({"use_regex": true})), true),
        // SillyTavern says `use_regex` of plain keys, too.
        (entry(&["st.rm"], "x", json!({"use_regex": true, "extensions": {"selectiveLogic": 0}})), false),
        (
            entry(&["storm"], "x", json!({"use_regex": true, "constant": true, "extensions": {"selectiveLogic": 0}})),
            true,
        ),
        (entry(&["gale"], "x", json!({"use_regex": true, "constant": true})), false),
    ] {
        let said = entry.to_string();
        assert_eq!(fires(entry, &storm), expected, "{said}");
    }
}

#[test]
fn only_the_newest_messages_are_searched() {
    let history: Vec<Message> = ["dragon", "b", "c"].into_iter().map(Message::user).collect();
    for (depth, found) in [(2, false), (3, true), (0, false)] {
        let book = book(vec![plain(&["dragon"], "x")], json!({"scan_depth": depth}));
        assert_eq!(because(&trace(&book, &history)[0]).is_ok(), found, "{depth}");
    }
    assert!(fires(plain(&["dragon"], "@@scan_depth 3\nx"), &history));
    assert!(!fires(plain(&["dragon"], "@@scan_depth 2\nx"), &history));
}

#[test]
fn what_is_inserted_may_insert_more_and_circles_end() {
    let entries = || {
        vec![
            plain(&["alpha"], "beta"),
            plain(&["beta"], "gamma {{hidden_key:delta}}"),
            plain(&["gamma"], "alpha"),
            plain(&["delta"], "end"),
        ]
    };
    let lines = trace(&book(entries(), json!({"recursive_scanning": true})), &user("alpha"));
    let found_in = |line: &LoreTrace| match because(line) {
        Ok(Because::Key { found_in, .. }) => found_in.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        lines.iter().map(found_in).collect::<Vec<_>>(),
        [None, Some("alpha".into()), Some("beta".into()), Some("beta".into())]
    );
    let lines = trace(&book(entries(), json!({"recursive_scanning": false})), &user("alpha"));
    assert_eq!(lines.iter().filter(|line| because(line).is_ok()).count(), 1);
    for (field, at) in [("prevent_recursion", 0), ("exclude_recursion", 1)] {
        let mut entries = entries();
        entries[at]["extensions"][field] = true.into();
        let lines = trace(&book(entries, json!({"recursive_scanning": true})), &user("alpha"));
        assert_eq!(lines.iter().filter(|line| because(line).is_ok()).count(), 1, "{field}");
    }
    let late = entry(&["alpha", "beta"], "late", json!({"extensions": {"delay_until_recursion": true}}));
    let lines = trace(&book(vec![plain(&["alpha"], "x"), late], json!({"recursive_scanning": true})), &user("alpha"));
    assert_eq!(lines.iter().filter(|line| because(line).is_ok()).count(), 2);
}

#[test]
fn order_and_places() {
    let at = |order: i32, fields: Value, content: &str| {
        let mut entry = entry(&[], content, json!({"constant": true, "insertion_order": order}));
        entry.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        entry
    };
    let entries = vec![
        at(3, json!({"position": "after_char"}), "after 3"),
        at(2, json!({"position": "before_char"}), "before 2"),
        at(1, json!({}), "before 1"),
        at(1, json!({"position": "before_char", "extensions": {"position": 4, "depth": 1, "role": 1}}), "depth 1"),
        at(1, json!({"extensions": {"position": 5}}), "before examples"),
        at(1, json!({"extensions": {"position": 6}}), "after examples"),
        at(1, json!({"extensions": {"position": 7}}), "outlet"),
        at(1, json!({}), "@@depth 0\n@@role assistant\nprefill"),
        at(1, json!({}), "@@depth 0\nlast"),
        at(1, json!({}), "@@reverse_depth 1\nreverse"),
        at(1, json!({}), "@@depth 5\n@@position after_desc\nafter description"),
        at(1, json!({}), "@@position personality\nwith personality"),
        at(1, json!({}), "@@position scenario\nwith scenario"),
        at(1, json!({}), "@@position before_desc\nbefore description"),
    ];
    let card =
        card(&json!({"name": "M", "description": "d", "personality": "p", "scenario": "s", "mes_example": "M: hi",
        "character_book": book(entries, json!({"token_budget": 1000}))}));
    let history = [Message::assistant("one"), Message::user("two"), Message::user("three")];
    let prompt = build_prompt(&request(&card, &history));
    assert_eq!(
        lines(&prompt),
        [
            "system: Play M.",
            "system: before 1",
            "system: before 2",
            "system: before description",
            "system: d",
            "system: after description",
            "system: M's personality: p",
            "system: with personality",
            "system: Scenario: s",
            "system: with scenario",
            "system: after 3",
            "system: before examples",
            "system: [Example Chat]",
            "assistant: hi",
            "system: after examples",
            "system: [Start a new Chat]",
            "assistant: one",
            "system: reverse",
            "user: two",
            "user: depth 1",
            "user: three",
            "system: last",
            "system: Stay in character.",
            "assistant: prefill",
        ]
    );
    assert_eq!(because(&prompt.lore[6]), Err(&LeftOut::UnknownPlace));
    assert!(matches!(prompt.lore[3].outcome, Outcome::Inserted { place: LorePlace::Depth(1), role: Role::User, .. }));
}

#[test]
fn the_lowest_priority_goes_first_over_the_budget() {
    let one = |content: &str, priority: Value, order: i32| {
        entry(&[], content, json!({"constant": true, "priority": priority, "insertion_order": order}))
    };
    let entries = vec![
        one("a a a a", json!(1), 9),
        one("b b b", json!(5), 1),
        one("c c c", json!(9), 2),
        one("d d d d d d d d d d d", json!(99), 3),
    ];
    let kept = |budget: usize| -> Vec<bool> {
        let lines = trace(&book(entries.clone(), json!({"token_budget": budget})), &[]);
        lines.iter().map(|line| because(line).is_ok()).collect()
    };
    assert_eq!(kept(100), [true, true, true, true]);
    assert_eq!(kept(10), [true, true, true, false]);
    assert_eq!(kept(9), [false, true, true, false]);
    assert_eq!(kept(5), [false, false, true, false]);
    assert_eq!(kept(0), [false; 4]);
    // Without priorities, the lowest in order.
    let entries = vec![one("a a", Value::Null, 2), one("b b", Value::Null, 1)];
    let lines = trace(&book(entries, json!({"token_budget": 3})), &[]);
    assert_eq!(lines.iter().map(|line| because(line).is_ok()).collect::<Vec<_>>(), [true, false]);
    assert_eq!(because(&lines[1]), Err(&LeftOut::BookBudget { budget: 3 }));
}

#[test]
fn decorators_decide() {
    let said = |count: usize| -> Vec<Message> {
        (0..count)
            .flat_map(|index| [Message::user(format!("u{index}")), Message::assistant(format!("a{index}"))])
            .chain(user("storm"))
            .collect()
    };
    for (decorators, answers, expected) in [
        ("@@activate_only_after 2", 1, Err(LeftOut::TooEarly)),
        ("@@activate_only_after 2", 2, Ok(())),
        ("@@activate_only_every 2", 1, Err(LeftOut::NotThisTime)),
        ("@@activate_only_every 2", 2, Ok(())),
        ("@@dont_activate", 0, Err(LeftOut::DontActivate)),
        ("@@dont_activate\n@@activate", 0, Ok(())),
        ("@@is_greeting 0", 0, Ok(())),
        ("@@is_greeting 1", 0, Err(LeftOut::OtherGreeting)),
        ("@@additional_keys west,storm", 0, Ok(())),
        ("@@additional_keys storm\n@@additional_keys west", 0, Err(LeftOut::AdditionalKeys)),
        ("@@exclude_keys west,storm", 0, Err(LeftOut::ExcludeKey("storm".into()))),
        ("@@exclude_keys west", 0, Ok(())),
        ("@@is_user_icon knight", 0, Err(LeftOut::OtherUserIcon)),
    ] {
        let lines = trace(&book(vec![plain(&["storm"], &format!("{decorators}\nText"))], json!({})), &said(answers));
        assert_eq!(because(&lines[0]).map(drop).map_err(Clone::clone), expected, "{decorators} after {answers}");
    }
    assert!(fires(plain(&["nothing"], "@@activate\nx"), &user("a")));
    let card = card(&json!({"name": "M", "character_book": book(vec![
        entry(&[], "@@disable_ui_prompt system_prompt\n@@is_user_icon knight\nx", json!({"constant": true}))], json!({}))}));
    let with = |icon| lines(&build_prompt(&PromptRequest { user_icon: icon, ..request(&card, &[]) }));
    assert_eq!(with(Some("knight")), ["system: x", "system: Stay in character."]);
    assert_eq!(with(None), ["system: Play M.", "system: Stay in character."]);
}

#[test]
fn earlier_matches_stay_rest_or_end() {
    // The key is said once, in the first message; prompts were made before each answer.
    let chat = |answers: usize| -> Vec<Message> {
        let mut chat = user("storm");
        for index in 0..answers {
            chat.extend([Message::assistant(format!("a{index}")), Message::user(format!("u{index}"))]);
        }
        chat
    };
    let active = |entry: &Value| -> Vec<bool> {
        (0..6)
            .map(|answers| {
                because(&trace(&book(vec![entry.clone()], json!({"scan_depth": 1})), &chat(answers))[0]).is_ok()
            })
            .collect()
    };
    let timed = |extensions: Value| entry(&["storm"], "x", json!({"extensions": extensions}));
    assert_eq!(active(&plain(&["storm"], "x")), [true, false, false, false, false, false]);
    assert_eq!(active(&plain(&["storm"], "@@keep_activate_after_match\nx")), [true; 6]);
    assert_eq!(active(&timed(json!({"sticky": 4}))), [true, true, false, false, false, false]);
    assert_eq!(active(&timed(json!({"delay": 3}))), [false; 6]);
    let always = |text: &str| entry(&["u", "storm"], text, json!({}));
    assert_eq!(active(&always("@@dont_activate_after_match\nx")), [true, false, false, false, false, false]);
    let mut resting = always("x");
    resting["extensions"] = json!({"cooldown": 4});
    assert_eq!(active(&resting), [true, false, true, false, true, false]);
}

#[test]
fn chance_is_drawn_by_chat_and_turn() {
    let entry = entry(&["storm"], "x", json!({"extensions": {"probability": 30, "useProbability": true}}));
    let card = card(&json!({"name": "M", "character_book": book(vec![entry], json!({}))}));
    let history = user("storm");
    let fires = |turn: usize| {
        let mut request = request(&card, &history);
        request.draw.turn = turn;
        because(&build_prompt(&request).lore[0]).is_ok()
    };
    let share = (0..1_000).filter(|turn| fires(*turn)).count();
    assert!((250..350).contains(&share), "{share}");
    assert!((0..50).all(|turn| fires(turn) == fires(turn)));
}

#[test]
fn of_a_group_one_comes() {
    let member = |content: &str, extensions: Value| {
        let mut entry = entry(&["storm"], content, json!({"comment": content, "extensions": extensions}));
        entry["extensions"]["group"] = "weather, other".into();
        entry
    };
    let winners = |entries: &Vec<Value>| -> Vec<usize> {
        (0..200)
            .map(|turn| {
                let card = card(&json!({"name": "M", "character_book": book(entries.clone(), json!({}))}));
                let history = user("storm");
                let mut request = request(&card, &history);
                request.draw.turn = turn;
                let lore = build_prompt(&request).lore;
                let came: Vec<usize> = (0..lore.len()).filter(|index| because(&lore[*index]).is_ok()).collect();
                assert_eq!(came.len(), 1);
                came[0]
            })
            .collect()
    };
    let weighted = winners(&vec![member("a", json!({"group_weight": 300})), member("b", json!({"group_weight": 100}))]);
    let first = weighted.iter().filter(|winner| **winner == 0).count();
    assert!((120..180).contains(&first), "{first}");
    let insisting = winners(&vec![member("a", json!({})), member("b", json!({"group_override": true}))]);
    assert!(insisting.iter().all(|winner| *winner == 1));
}

#[test]
fn world_info_files_are_lorebooks() {
    let world = json!({"entries": {"0": {"uid": 0, "key": ["storm", "/ga(le|st)/i"], "keysecondary": [], "comment": "Weather", "content": "It blows.",
        "constant": false, "selective": true, "order": 50, "position": 4, "disable": false, "depth": 2, "probability": 100, "useProbability": true,
        "role": 2, "sticky": null, "caseSensitive": null, "mine": 1},
        "1": {"uid": 1, "key": ["x"], "content": "off", "disable": true}}});
    let (book, warnings) = Lorebook::parse(world.to_string().as_bytes()).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let card = card(&json!({"name": "M"}));
    let history = user("a GALE");
    let prompt = build_prompt(&PromptRequest { books: &[&book], ..request(&card, &history) });
    assert!(matches!(
        prompt.lore[0].outcome,
        Outcome::Inserted { place: LorePlace::Depth(2), role: Role::Assistant, .. }
    ));
    assert_eq!(because(&prompt.lore[1]), Err(&LeftOut::Disabled));
    let again = Lorebook::parse(book.to_json().to_string().as_bytes()).unwrap().0;
    assert_eq!(again.to_json(), book.to_json());
    assert_eq!(again.to_json()["data"]["entries"][0]["mine"], 1);
}

#[test]
fn hostile_books_answer_in_bounded_time() {
    let started = std::time::Instant::now();
    let history = user(&"ab ".repeat(200_000));
    // Ten thousand catastrophic patterns, a circle of a thousand entries, a thousand long keys.
    let patterns: Vec<Value> =
        (0..10_000).map(|index| entry(&[&format!("/(a|b|ab)*c{index}|a[ab ]{{300}}d/")], "x", json!({}))).collect();
    let lines = trace(&book(patterns, json!({})), &history);
    assert!(lines.iter().all(|line| because(line).is_err()));
    assert!(lines.iter().any(|line| because(line) == Err(&LeftOut::SearchLimit)));
    let circle: Vec<Value> = (0..1_000)
        .map(|index| plain(&[&format!("k{index}k")], &format!("k{}k k{index}k", (index + 1) % 1_000)))
        .collect();
    let lines = trace(&book(circle, json!({"recursive_scanning": true, "token_budget": 100_000})), &user("k0k"));
    assert!(lines.iter().filter(|line| because(line).is_ok()).count() > 100);
    let looks_back: Vec<Value> =
        (0..1_000).map(|index| plain(&[&"b".repeat(index + 1)], "@@keep_activate_after_match\nx")).collect();
    let long: Vec<Message> = (0..4_000)
        .map(|index| if index % 2 == 0 { Message::user("aaaa") } else { Message::assistant("aaaa") })
        .collect();
    assert_eq!(trace(&book(looks_back, json!({})), &long).len(), 1_000);
    // Not a measurement: without bounds this takes hours.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

proptest! {
    /// Every entry is accounted for, and what is inserted keeps to the budget.
    #[test]
    fn every_entry_has_a_line(
        entries in proptest::collection::vec(("[a-d]{1,2}", "(@@[a-z_]{4,12} ?[a-z0-9]{0,3}\n)?[a-d ]{0,12}", any::<bool>(), -5_i32..5), 0..12),
        said in "[a-d ]{0,30}",
        budget in 0_usize..20,
        recursive: bool,
    ) {
        let entries: Vec<Value> = entries
            .iter()
            .map(|(key, content, constant, order)| entry(&[key], content, json!({"constant": constant, "insertion_order": order})))
            .collect();
        let lines = trace(&book(entries.clone(), json!({"token_budget": budget, "recursive_scanning": recursive})), &user(&said));
        prop_assert_eq!(lines.len(), entries.len());
        let spent: usize = lines.iter().filter(|line| because(line).is_ok()).map(|line| line.tokens).sum();
        prop_assert!(spent <= budget);
    }
}

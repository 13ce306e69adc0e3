//! `{{macros}}` of a card's texts (`SPEC_V3.md`, "Curly Braced Syntaxes").

use std::borrow::Cow;

use opencharacter_core::KeyedRandom;

/// Who will read a text: some macros say something to one reader and nothing to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The model.
    Prompt,
    /// The user.
    Display,
    /// The search for lorebook keys.
    Scan,
}

/// What random macros are drawn with.
///
/// `{{pick}}` gives the same choice as long as `seed` and `chat` are the same; `{{random}}` and `{{roll}}` draw anew
/// when `turn` changes. Nothing depends on when or how often a text is expanded.
#[derive(Debug, Clone, Copy, Default)]
pub struct DrawKey<'a> {
    /// The recipe's or the server's seed.
    pub seed: u64,
    /// The chat's id.
    pub chat: &'a str,
    /// Grows with each prompt of the chat; its number of messages will do.
    pub turn: usize,
}

/// The values of a chat's macros.
#[derive(Debug, Clone, Copy)]
pub struct Macros<'a> {
    /// The character's name: `{{char}}`, `<BOT>`, `<CHAR>`.
    pub character: &'a str,
    /// The user's name: `{{user}}`, `<USER>`.
    pub user: &'a str,
    /// `{{original}}`: the text that the card replaces; outside of such texts it is left as it is.
    pub original: Option<&'a str>,
    /// What `{{random}}`, `{{pick}}` and `{{roll}}` are drawn with.
    pub draw: DrawKey<'a>,
}

/// A text grows by macros up to this many bytes; what would go beyond is left unexpanded.
const LARGEST_GROWTH: usize = 8 << 20;

/// Braces that stand deeper than this are text; each level copies what is in it once.
const DEEPEST: usize = 32;

impl Macros<'_> {
    /// `text` with its macros expanded. `place` names the text (a field, an entry): equal macros in different places
    /// draw different numbers.
    ///
    /// Macros nest, and names ignore case. What is not known is left as it is. Values are not expanded again. Time is
    /// linear in the text.
    pub fn expand(&self, text: &str, place: &str, audience: Audience) -> String {
        if !text.contains(['{', '<']) {
            return text.to_owned();
        }
        let limit = text.len().saturating_add(LARGEST_GROWTH);
        let mut draws = 0_usize;
        let mut grown = 0_usize;
        // One text per macro that is open; an inner macro is done before its outer one.
        let mut open: Vec<String> = vec![String::with_capacity(text.len())];
        let mut rest = text;
        while let Some(position) = rest.find(['{', '}', '<']) {
            let (before, at) = rest.split_at(position);
            push(&mut open, before);
            if let (Some(after), true) = (at.strip_prefix("{{"), open.len() <= DEEPEST) {
                open.push(String::new());
                rest = after;
            } else if let (Some(after), true) = (at.strip_prefix("}}"), open.len() > 1) {
                let inner = open.pop().unwrap_or_default();
                draws += 1;
                match self.value(&inner, place, draws, audience) {
                    Some(value) if grown.saturating_add(value.len()) <= limit => {
                        grown += value.len();
                        push(&mut open, &value);
                    }
                    _ => {
                        for part in ["{{", &inner, "}}"] {
                            push(&mut open, part);
                        }
                    }
                }
                rest = after;
            } else if let Some((value, after)) = self.tag(at).filter(|(value, _)| grown + value.len() <= limit) {
                grown += value.len();
                push(&mut open, value);
                rest = after;
            } else {
                let (one, after) = at.split_at(1);
                push(&mut open, one);
                rest = after;
            }
        }
        push(&mut open, rest);
        // Braces that never closed are text.
        open.join("{{")
    }

    /// A message of the chat, the `index`th of its history, with its macros expanded. It draws the same at every turn, so
    /// that what the user saw is what the model reads.
    pub fn expand_message(&self, content: &str, index: usize, audience: Audience) -> String {
        Macros { draw: DrawKey { turn: index, ..self.draw }, ..*self }.expand(content, "message", audience)
    }

    /// The value of a macro, `None` for one that is not known.
    fn value(&self, inner: &str, place: &str, number: usize, audience: Audience) -> Option<Cow<'_, str>> {
        let trimmed = inner.trim();
        if trimmed.starts_with("//") {
            return Some("".into());
        }
        if trimmed.eq_ignore_ascii_case("char") {
            return Some(self.character.into());
        }
        if trimmed.eq_ignore_ascii_case("user") {
            return Some(self.user.into());
        }
        if trimmed.eq_ignore_ascii_case("original") {
            return self.original.map(Cow::from);
        }
        let (name, argument) = trimmed.split_once(':')?;
        // SillyTavern writes `::` between all arguments, the specification `:` and then commas.
        let (argument, colons) = match argument.strip_prefix(':') {
            Some(argument) => (argument, true),
            None => (argument, false),
        };
        let DrawKey { seed, chat, turn } = self.draw;
        let draw = |kind: &str, turn: &str| {
            KeyedRandom::new(seed, &["macro", kind, chat, turn, place, &number.to_string(), argument])
        };
        let value = match name.trim().to_ascii_lowercase().as_str() {
            "random" => choose(argument, colons, &mut draw("random", &turn.to_string())),
            "pick" => choose(argument, colons, &mut draw("pick", "")),
            "roll" => roll(argument, &mut draw("roll", &turn.to_string())),
            "reverse" => Some(argument.chars().rev().collect()),
            "hidden_key" => Some(if audience == Audience::Scan { argument.to_owned() } else { String::new() }),
            "comment" => Some(if audience == Audience::Display { argument.trim().to_owned() } else { String::new() }),
            _ => None,
        };
        value.map(Cow::from)
    }

    /// V1's tags.
    fn tag<'t>(&self, text: &'t str) -> Option<(&str, &'t str)> {
        [("<user>", self.user), ("<bot>", self.character), ("<char>", self.character)].into_iter().find_map(
            |(tag, value)| {
                let start = text.get(..tag.len())?;
                start.eq_ignore_ascii_case(tag).then(|| (value, &text[tag.len()..]))
            },
        )
    }
}

fn push(open: &mut [String], text: &str) {
    if let Some(innermost) = open.last_mut() {
        innermost.push_str(text);
    }
}

/// One of several: `a,b` or, between colons, `a::b`. `\,` is a comma of its own.
fn choose(argument: &str, colons: bool, random: &mut KeyedRandom) -> Option<String> {
    let items: Vec<String> =
        if colons { argument.split("::").map(str::to_owned).collect() } else { split_commas(argument) };
    items.get(random.below(items.len())).cloned()
}

fn split_commas(argument: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut characters = argument.chars().peekable();
    while let Some(character) = characters.next() {
        let item = match character {
            '\\' => characters.next_if_eq(&',').unwrap_or('\\'),
            ',' => {
                items.push(String::new());
                continue;
            }
            other => other,
        };
        if let Some(last) = items.last_mut() {
            last.push(item);
        }
    }
    items.into_iter().map(|item| item.trim().to_owned()).collect()
}

/// A number from 1 to N, for `N` or `dN`.
fn roll(argument: &str, random: &mut KeyedRandom) -> Option<String> {
    let argument = argument.trim();
    let sides = argument.strip_prefix(['d', 'D']).unwrap_or(argument);
    let sides: u32 = sides.parse().ok().filter(|sides| *sides > 0)?;
    Some((random.below(sides as usize) + 1).to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn macros() -> Macros<'static> {
        Macros { character: "Ada", user: "Sam", original: None, draw: DrawKey { seed: 1, chat: "c", turn: 3 } }
    }

    fn expand(text: &str) -> String {
        macros().expand(text, "description", Audience::Prompt)
    }

    #[test]
    fn names_ignore_case_and_unknown_macros_stay() {
        for (text, expected) in [
            ("{{char}} meets {{USER}}; <BOT>, <user>, <Char>", "Ada meets Sam; Ada, Sam, Ada"),
            ("{{ char }}", "Ada"),
            ("{{getvar::x}} {{if}}", "{{getvar::x}} {{if}}"),
            ("{{original}}", "{{original}}"),
            ("{{// {{char}} note}}x{{comment: y}}{{hidden_key:z}}", "x"),
            ("{{reverse:abc}}", "cba"),
            ("{{reverse:{{char}}}}", "adA"),
            ("{{setvar::x::{{user}}}}", "{{setvar::x::Sam}}"),
            ("{{random:one}} {{pick::two}} {{roll:1}} {{roll:d1}}", "one two 1 1"),
            ("{{random:a\\,b}}", "a,b"),
            ("{{roll:0}} {{roll:x}}", "{{roll:0}} {{roll:x}}"),
            ("{{{char}}}", "{{{char}}}"),
            ("{{char", "{{char"),
            ("}} { } {x} <b>é<", "}} { } {x} <b>é<"),
        ] {
            assert_eq!(expand(text), expected, "{text}");
        }
    }

    #[test]
    fn audiences_see_what_is_for_them() {
        let text = "a{{comment: see}}b{{hidden_key:dragon}}c";
        assert_eq!(macros().expand(text, "", Audience::Display), "aseebc");
        assert_eq!(macros().expand(text, "", Audience::Scan), "abdragonc");
    }

    #[test]
    fn draws_depend_on_chat_place_and_turn_alone() {
        let text = "{{random:a,b,c,d,e,f,g,h}}{{pick:a,b,c,d,e,f,g,h}}{{roll:1000000}}";
        let with = |chat, turn, place| {
            Macros { draw: DrawKey { seed: 1, chat, turn }, ..macros() }.expand(text, place, Audience::Prompt)
        };
        assert_eq!(with("c", 1, "x"), with("c", 1, "x"));
        assert_ne!(with("c", 1, "x"), with("d", 1, "x"));
        assert_ne!(with("c", 1, "x"), with("c", 1, "y"));
        let (one, two) = (with("c", 1, "x"), with("c", 2, "x"));
        assert_ne!(one, two);
        assert_eq!(one.chars().nth(1), two.chars().nth(1), "a pick stays");
    }

    #[test]
    fn every_choice_comes_up() {
        let mut seen: Vec<String> = (0..200)
            .map(|turn| {
                Macros { draw: DrawKey { seed: 1, chat: "c", turn }, ..macros() }.expand(
                    "{{roll:d6}}",
                    "x",
                    Audience::Prompt,
                )
            })
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, ["1", "2", "3", "4", "5", "6"]);
    }

    #[test]
    fn growth_is_bounded() {
        let name = "n".repeat(1 << 20);
        let macros = Macros { character: &name, ..macros() };
        let text = "{{char}}".repeat(100_000);
        assert!(macros.expand(&text, "", Audience::Prompt).len() < 20 << 20);
    }

    proptest! {
        #[test]
        fn any_text_expands(text in "(\\{\\{|\\}\\}|[a-c:,<>{}\\\\]|char|roll:|é){0,40}") {
            expand(&text);
        }
    }
}

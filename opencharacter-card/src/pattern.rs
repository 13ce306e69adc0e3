//! Regular expressions as lorebook keys.
//!
//! Keys are JavaScript patterns that a stranger wrote. They run as a lazy DFA with a small cache: a search is linear in
//! the text, and one that would thrash its cache gives up instead of becoming slow. What the syntax has beyond that
//! (look-around, back-references) makes a pattern that cannot be used, which is said in the trace and never matches.

use regex_automata::{
    Input,
    hybrid::dfa::{Cache, Config, DFA},
    nfa::thompson,
    util::syntax,
};

/// Characters of a pattern.
const LONGEST: usize = 2_000;
/// Bytes of its compiled form.
const LARGEST: usize = 256 << 10;
/// Bytes of the DFA's cache.
const CACHE: usize = 512 << 10;

/// A compiled key.
#[derive(Debug)]
pub(crate) struct Pattern {
    dfa: DFA,
    cache: Cache,
}

/// The pattern and flags of a key written `/pattern/flags`, as JavaScript does.
pub(crate) fn between_slashes(key: &str) -> Option<(&str, &str)> {
    let (pattern, flags) = key.strip_prefix('/')?.rsplit_once('/')?;
    (!pattern.is_empty() && flags.chars().all(|flag| "dgimsuvy".contains(flag))).then_some((pattern, flags))
}

impl Pattern {
    /// Compiles a key: `/pattern/flags` or a bare pattern.
    ///
    /// # Errors
    /// Why it cannot be used, for the trace.
    pub(crate) fn compile(key: &str, case_sensitive: bool) -> Result<Self, String> {
        let (pattern, flags) = between_slashes(key).unwrap_or((key, if case_sensitive { "" } else { "i" }));
        if pattern.len() > LONGEST {
            return Err(format!("the pattern has {} bytes, more than {LONGEST}", pattern.len()));
        }
        let config = Config::new()
            .cache_capacity(CACHE)
            .skip_cache_capacity_check(false)
            .minimum_cache_clear_count(Some(3))
            .minimum_bytes_per_state(Some(10));
        let dfa = DFA::builder()
            .configure(config)
            .syntax(
                syntax::Config::new()
                    .case_insensitive(flags.contains('i'))
                    .multi_line(flags.contains('m'))
                    .dot_matches_new_line(flags.contains('s'))
                    .utf8(false)
                    .nest_limit(50),
            )
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(LARGEST)))
            .build(&from_javascript(pattern))
            .map_err(|error| reason(&error))?;
        let cache = dfa.create_cache();
        Ok(Self { dfa, cache })
    }

    /// Whether it matches somewhere in `text`; an error when finding out would take too long.
    pub(crate) fn is_match(&mut self, text: &str) -> Result<bool, String> {
        match self.dfa.try_search_fwd(&mut self.cache, &Input::new(text).earliest(true)) {
            Ok(found) => Ok(found.is_some()),
            Err(_) => Err("the pattern would take too long on this text".into()),
        }
    }

    /// Bytes of memory that it holds.
    pub(crate) fn size(&self) -> usize {
        self.dfa.memory_usage() + self.cache.memory_usage()
    }
}

/// The last link of an error's chain: what is wrong with the pattern.
fn reason(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    let text = last.to_string();
    // The syntax error's drawing of the pattern is not for one line.
    let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    format!("no pattern that can be used: {}", line.trim().trim_start_matches("error: "))
}

/// A JavaScript pattern in the syntax of Rust's regular expressions: `\w`, `\d` and `\b` know ASCII alone, and within
/// brackets only `]`, `\`, `^` and `-` are special.
fn from_javascript(pattern: &str) -> String {
    let mut text = String::with_capacity(pattern.len() + 16);
    let mut in_class = false;
    let mut characters = pattern.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                let escaped = characters.next();
                match (escaped, in_class) {
                    (Some('w'), _) => text.push_str("[0-9A-Za-z_]"),
                    (Some('W'), _) => text.push_str("[^0-9A-Za-z_]"),
                    (Some('d'), _) => text.push_str("[0-9]"),
                    (Some('D'), _) => text.push_str("[^0-9]"),
                    (Some('b'), false) => text.push_str(r"(?-u:\b)"),
                    (Some('B'), false) => text.push_str(r"(?-u:\B)"),
                    (Some('b'), true) => text.push_str(r"\x08"),
                    (Some(other), _) => text.extend(['\\', other]),
                    (None, _) => text.push('\\'),
                }
            }
            '[' if in_class => text.push_str(r"\["),
            '[' => {
                in_class = true;
                text.push('[');
                if characters.next_if_eq(&'^').is_some() {
                    text.push('^');
                }
            }
            ']' => {
                in_class = false;
                text.push(']');
            }
            '&' | '~' if in_class => text.extend(['\\', character]),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(key: &str, text: &str) -> bool {
        Pattern::compile(key, false).unwrap().is_match(text).unwrap()
    }

    #[test]
    fn javascript_means_what_it_means_there() {
        for (key, text, expected) in [
            (r"/\bdrag(on|ons)\b/i", "two DRAGONS, é", true),
            (r"/\bdrag\b/", "dragon", false),
            (r"/dragon/", "Dragon", false),
            (r"dragon|wyrm", "a Wyrm", true),
            (r"/[[&]\w/", "[a", true),
            (r"/[\w-]+\/x/", "a-b/x", true),
            (r"/^x01name: hi$/m", "a\nx01name: hi\nb", true),
            (r"/\d{4}/", "year 1984", true),
            (r"/дракон/i", "ДРАКОН", true),
            (r"/a.c/s", "a\nc", true),
            (r"/(?<year>\d+)/", "7", true),
        ] {
            assert_eq!(matches(key, text), expected, "{key} in {text}");
        }
    }

    #[test]
    fn what_cannot_be_linear_or_is_too_large_is_refused() {
        for key in [r"/(?=a)b/", r"/(a)\1/", "(", r"(\w{1000}){1000}", r"/[/", &"a".repeat(3_000)] {
            let error = Pattern::compile(key, false).unwrap_err();
            assert!(error.contains("pattern"), "{error}");
        }
    }

    #[test]
    fn catastrophic_patterns_answer_or_give_up_at_once() {
        let text = "a".repeat(1 << 20);
        for key in ["(a+)+$b", "(a|a)*b", "(.*a){20}b", "(a|aa)+c", "(x+x+)+y", "^(([a-z])+.)+[A-Z]([a-z])+$"] {
            let Ok(mut pattern) = Pattern::compile(key, true) else { continue };
            assert_ne!(pattern.is_match(&text), Ok(true), "{key}");
        }
        // Exponentially many states: given up, not thrashed through.
        let mut random = opencharacter_core::KeyedRandom::new(1, &["bits"]);
        let bits: String = (0..200_000).map(|_| if random.below(2) == 0 { 'a' } else { 'b' }).collect();
        let mut pattern = Pattern::compile("a[ab]{400}c", true).unwrap();
        assert!(pattern.is_match(&bits).is_err());
    }
}

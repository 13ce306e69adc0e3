//! Looking for keys in the conversation and in what was inserted, within a bound of work.

use std::{collections::HashMap, ops::Range};

use memchr::memmem;

use crate::pattern::{Pattern, between_slashes};

use super::trace::LeftOut;

/// Bytes that may be searched for one prompt, all keys together: well under a second of plain searching.
const WORK: u64 = 1 << 30;
/// What compiling a pattern counts as.
const PATTERN_WORK: u64 = 1 << 20;
/// A lazy DFA reads so many times slower than a plain search, at least.
const PATTERN_FACTOR: u64 = 8;
/// Bytes that compiled patterns may take together.
const PATTERN_MEMORY: usize = 64 << 20;
/// Bytes of the conversation that are searched, the newest.
const LONGEST_CONVERSATION: usize = 512 << 10;

/// A text in both cases; ranges of one are not ranges of the other.
#[derive(Debug, Default)]
struct TwoCases {
    exact: String,
    lower: String,
}

impl TwoCases {
    fn push(&mut self, text: &str) {
        self.exact.push_str(text);
        self.lower.push_str(&text.to_lowercase());
    }
}

/// The conversation, and what was inserted because of it.
#[derive(Debug, Default)]
pub(crate) struct ScanText {
    conversation: TwoCases,
    /// Where each message begins, in both texts, and where the last one ends.
    offsets: Vec<(usize, usize)>,
    /// Contents of entries, with the entry that each is of.
    inserted: Vec<(String, TwoCases)>,
}

/// What is searched: the messages of a range, and perhaps what was inserted.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    pub(crate) messages: Range<usize>,
    pub(crate) with_inserted: bool,
}

/// Where a key was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    InConversation,
    /// In the content of this entry.
    InEntry(String),
}

impl ScanText {
    /// Of messages, oldest first, as `name: text`. Only the newest half megabyte counts.
    pub(crate) fn new(messages: &[String]) -> Self {
        let mut length = 0;
        let fits = |message: &&String| {
            length += message.len() + 2;
            length <= LONGEST_CONVERSATION
        };
        let kept = messages.iter().rev().take_while(fits).count();
        let mut text = Self::default();
        for message in &messages[..messages.len() - kept] {
            // Too old to be searched: it begins and ends at 0.
            let _ = message;
            text.offsets.push((0, 0));
        }
        for message in &messages[messages.len() - kept..] {
            text.offsets.push((text.conversation.exact.len(), text.conversation.lower.len()));
            text.conversation.push("\u{1}");
            text.conversation.push(message);
            text.conversation.push("\n");
        }
        text.offsets.push((text.conversation.exact.len(), text.conversation.lower.len()));
        text
    }

    /// Adds what was inserted; it is searched where a window says so.
    pub(crate) fn insert(&mut self, entry: &str, content: &str) {
        let mut text = TwoCases::default();
        text.push(content);
        self.inserted.push((entry.to_owned(), text));
    }

    fn conversation(&self, messages: &Range<usize>, case_sensitive: bool) -> &str {
        let offset = |index: usize| self.offsets.get(index).or(self.offsets.last()).copied().unwrap_or_default();
        let (begin, end) = (offset(messages.start), offset(messages.end));
        let slice = if case_sensitive {
            self.conversation.exact.get(begin.0..end.0)
        } else {
            self.conversation.lower.get(begin.1..end.1)
        };
        slice.unwrap_or_default()
    }
}

/// A key, ready to be looked for.
#[derive(Debug)]
pub(crate) struct Key {
    /// As the card writes it.
    pub(crate) written: String,
    kind: KeyKind,
    case_sensitive: bool,
}

#[derive(Debug)]
enum KeyKind {
    Plain { text: String, whole_words: bool },
    Pattern,
}

/// How an entry's keys are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KeyRules {
    pub(crate) regex: bool,
    pub(crate) case_sensitive: bool,
    pub(crate) whole_words: bool,
}

impl Key {
    /// `None` for a blank key, which nothing matches. A key between slashes is a pattern whatever the rules say.
    pub(crate) fn new(written: String, rules: KeyRules) -> Option<Self> {
        if written.trim().is_empty() {
            return None;
        }
        let kind = if rules.regex || between_slashes(&written).is_some() {
            KeyKind::Pattern
        } else {
            let text = written.trim();
            let text = if rules.case_sensitive { text.to_owned() } else { text.to_lowercase() };
            KeyKind::Plain { text, whole_words: rules.whole_words }
        };
        Some(Self { written, kind, case_sensitive: rules.case_sensitive })
    }
}

/// Searches, and counts what it costs.
#[derive(Debug)]
pub(crate) struct Scanner {
    left: u64,
    memory_left: usize,
    patterns: HashMap<(String, bool), Result<Pattern, String>>,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { left: WORK, memory_left: PATTERN_MEMORY, patterns: HashMap::new() }
    }

    /// Where `key` is in the window, if anywhere.
    ///
    /// # Errors
    /// [`LeftOut::Pattern`] for a pattern that cannot be used, [`LeftOut::SearchLimit`] when all work is done.
    pub(crate) fn find(&mut self, key: &Key, text: &ScanText, window: &Window) -> Result<Option<Found>, LeftOut> {
        // A pattern knows itself whether case counts.
        let exact = key.case_sensitive || matches!(key.kind, KeyKind::Pattern);
        if self.is_in(key, text.conversation(&window.messages, exact))? {
            return Ok(Some(Found::InConversation));
        }
        if window.with_inserted {
            for (entry, content) in &text.inserted {
                if self.is_in(key, if exact { &content.exact } else { &content.lower })? {
                    return Ok(Some(Found::InEntry(entry.clone())));
                }
            }
        }
        Ok(None)
    }

    fn spend(&mut self, work: u64) -> Result<(), LeftOut> {
        self.left = self.left.checked_sub(work).ok_or(LeftOut::SearchLimit)?;
        Ok(())
    }

    fn is_in(&mut self, key: &Key, text: &str) -> Result<bool, LeftOut> {
        // A search costs something however short the text.
        let length = text.len().max(64) as u64;
        match &key.kind {
            KeyKind::Plain { text: needle, whole_words } => {
                self.spend(length)?;
                Ok(if *whole_words {
                    has_word(text, needle)
                } else {
                    memmem::find(text.as_bytes(), needle.as_bytes()).is_some()
                })
            }
            KeyKind::Pattern => {
                self.spend(length * PATTERN_FACTOR)?;
                self.pattern(key)?.is_match(text).map_err(LeftOut::Pattern)
            }
        }
    }

    fn pattern(&mut self, key: &Key) -> Result<&mut Pattern, LeftOut> {
        let id = (key.written.clone(), key.case_sensitive);
        if !self.patterns.contains_key(&id) {
            self.spend(PATTERN_WORK)?;
            let mut compiled = Pattern::compile(key.written.trim(), key.case_sensitive);
            if let Ok(pattern) = &compiled {
                match self.memory_left.checked_sub(pattern.size()) {
                    Some(left) => self.memory_left = left,
                    None => compiled = Err("the lorebook has too many patterns".into()),
                }
            }
            self.patterns.insert(id.clone(), compiled);
        }
        match self.patterns.get_mut(&id) {
            Some(Ok(pattern)) => Ok(pattern),
            Some(Err(reason)) => Err(LeftOut::Pattern(reason.clone())),
            None => Err(LeftOut::NoKey),
        }
    }
}

/// Whether `needle` stands in `text` with no letter or digit directly beside it.
fn has_word(text: &str, needle: &str) -> bool {
    memmem::find_iter(text.as_bytes(), needle.as_bytes()).any(|position| {
        let before = text.get(..position).and_then(|before| before.chars().next_back());
        let after = text.get(position + needle.len()..).and_then(|after| after.chars().next());
        ![before, after].iter().flatten().any(|beside| beside.is_alphanumeric() || *beside == '_')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str, case_sensitive: bool, whole_words: bool) -> Key {
        Key::new(text.into(), KeyRules { regex: false, case_sensitive, whole_words }).unwrap()
    }

    #[test]
    fn windows_end_where_they_say() {
        let text = ScanText::new(&["a: one".into(), "b: TWO".into(), "a: three".into()]);
        let mut scanner = Scanner::new();
        let mut found = |word: &str, messages| {
            scanner.find(&key(word, false, false), &text, &Window { messages, with_inserted: true }).unwrap().is_some()
        };
        assert!(found("two", 0..3) && found("two", 1..2) && !found("two", 2..3) && !found("two", 0..1));
        assert!(found("three", 2..3) && found("three", 2..99) && !found("four", 0..3));
    }

    #[test]
    fn case_and_words_count_where_asked() {
        let text = ScanText::new(&["The Drachen of Łódź, dragons".into()]);
        let window = Window { messages: 0..1, with_inserted: false };
        let mut scanner = Scanner::new();
        let mut found = |key: &Key| scanner.find(key, &text, &window).unwrap().is_some();
        assert!(found(&key("łódź", false, false)) && !found(&key("łódź", true, false)));
        assert!(found(&key("dragon", false, false)) && !found(&key("dragon", false, true)));
        assert!(found(&key("łódź", false, true)) && found(&key("Drachen", true, true)));
    }

    #[test]
    fn work_is_bounded() {
        let text = ScanText::new(&["x".repeat(1 << 18)]);
        let window = Window { messages: 0..1, with_inserted: false };
        let mut scanner = Scanner::new();
        let key = key("y", false, false);
        let searches = (0..1 << 20).take_while(|_| scanner.find(&key, &text, &window).is_ok()).count();
        assert!((1_000..10_000).contains(&searches), "{searches}");
    }
}

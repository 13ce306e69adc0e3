use opencharacter_core::{KeyedRandom, Message, Role};

use crate::{Audience, Entry, Lorebook, Macros};

use super::{
    candidate::{Candidate, State},
    groups::settle_groups,
    history::{Standing, standing},
    insertion::Lore,
    scan::{Key, KeyRules, ScanText, Scanner, Window},
    settings::Settings,
    trace::{Because, LeftOut},
};

/// What lorebooks are asked with.
pub(crate) struct LoreInput<'a> {
    pub(crate) books: Vec<&'a Lorebook>,
    pub(crate) history: &'a [Message],
    pub(crate) macros: Macros<'a>,
    /// Number of the greeting that the chat began with.
    pub(crate) greeting: Option<usize>,
    pub(crate) user_icon: Option<&'a str>,
    /// What the whole prompt may have: a book may take half of it, one that names no budget a quarter.
    pub(crate) context_tokens: usize,
    pub(crate) count_tokens: &'a dyn Fn(&str) -> usize,
}

/// Chooses the entries of all books for one prompt.
///
/// Every entry becomes active at most once, so that entries that name each other end by themselves.
pub(crate) fn activate(input: &LoreInput<'_>) -> Lore {
    let mut activation = Activation::new(input);
    let mut candidates = activation.candidates();
    let mut with_inserted = false;
    loop {
        let matched = activation.round(&mut candidates, with_inserted);
        let won = settle_groups(&mut candidates, matched, |one| activation.draw("group", one));
        if !activation.feed(&candidates, &won) {
            break;
        }
        with_inserted = true;
    }
    Lore::of(&candidates, input)
}

struct Activation<'a> {
    input: &'a LoreInput<'a>,
    text: ScanText,
    scanner: Scanner,
    /// How many messages each earlier prompt of the chat had.
    prompts: Vec<usize>,
}

impl<'a> Activation<'a> {
    fn new(input: &'a LoreInput<'a>) -> Self {
        let macros = &input.macros;
        let spoken = |(index, message): (usize, &Message)| {
            let content = macros.expand_message(&message.content, index, Audience::Scan);
            match message.role {
                Role::System => content,
                Role::User => format!("{}: {content}", macros.user),
                Role::Assistant => format!("{}: {content}", macros.character),
            }
        };
        let messages: Vec<String> = input.history.iter().enumerate().map(spoken).collect();
        let prompts = input
            .history
            .iter()
            .enumerate()
            .filter(|(index, message)| *index > 0 && message.role == Role::Assistant)
            .map(|(index, _)| index)
            .collect();
        Self { input, text: ScanText::new(&messages), scanner: Scanner::new(), prompts }
    }

    fn candidates(&self) -> Vec<Candidate<'a>> {
        let mut candidates = Vec::new();
        for (book, lorebook) in self.input.books.iter().enumerate() {
            for (index, entry) in lorebook.entries.iter().enumerate() {
                let settings = Settings::of(entry, lorebook);
                let state = self.outright(entry, &settings).map_or(State::Waiting(LeftOut::NoKey), State::Out);
                // What is out is never searched for.
                let keys = |written: &[String]| {
                    if matches!(state, State::Out(_)) { Vec::new() } else { self.keys(written, &settings) }
                };
                candidates.push(Candidate {
                    book,
                    index,
                    entry,
                    keys: keys(&entry.keys),
                    secondary: keys(&entry.secondary_keys),
                    additional: settings.additional.iter().map(|line| keys(line)).collect(),
                    exclude: keys(&settings.exclude),
                    settings,
                    state,
                });
            }
        }
        candidates
    }

    fn keys(&self, written: &[String], settings: &Settings<'_>) -> Vec<Key> {
        let rules = KeyRules {
            regex: settings.regex,
            case_sensitive: settings.case_sensitive,
            whole_words: settings.whole_words,
        };
        written
            .iter()
            .filter_map(|key| Key::new(self.input.macros.expand(key, "key", Audience::Prompt), rules))
            .collect()
    }

    /// Why an entry is out before anything is searched.
    fn outright(&self, entry: &Entry, settings: &Settings<'_>) -> Option<LeftOut> {
        let history = self.input.history;
        let answers = history.iter().filter(|message| message.role == Role::Assistant).count();
        if !entry.enabled {
            return Some(LeftOut::Disabled);
        }
        if settings.dont_activate && !settings.activate {
            return Some(LeftOut::DontActivate);
        }
        if settings.place.is_none() {
            return Some(LeftOut::UnknownPlace);
        }
        if settings.greeting.is_some_and(|number| self.input.greeting != Some(number)) {
            return Some(LeftOut::OtherGreeting);
        }
        if settings.user_icon.as_deref().is_some_and(|icon| self.input.user_icon != Some(icon)) {
            return Some(LeftOut::OtherUserIcon);
        }
        if answers < settings.only_after || history.len() < settings.timing.delay {
            return Some(LeftOut::TooEarly);
        }
        if !answers.is_multiple_of(settings.only_every) {
            return Some(LeftOut::NotThisTime);
        }
        None
    }

    /// Looks once at every entry that waits; the indices of those that match now.
    fn round(&mut self, candidates: &mut [Candidate<'a>], with_inserted: bool) -> Vec<usize> {
        let mut matched = Vec::new();
        for (index, candidate) in candidates.iter_mut().enumerate() {
            let settings = &candidate.settings;
            let reachable = if with_inserted { settings.found_by_recursion } else { !settings.only_by_recursion };
            if !matches!(candidate.state, State::Waiting(_)) || !reachable {
                continue;
            }
            candidate.state = match self.look(candidate, with_inserted) {
                Ok(because) => match self.chance(candidate) {
                    None => State::Active(because),
                    Some(out) => State::Out(out),
                },
                Err(out @ (LeftOut::SearchLimit | LeftOut::MatchedBefore)) => State::Out(out),
                Err(because) => State::Waiting(because),
            };
            if candidate.is_active() {
                matched.push(index);
            }
        }
        matched
    }

    /// Why the entry matches, or why not.
    fn look(&mut self, candidate: &Candidate<'a>, with_inserted: bool) -> Result<Because, LeftOut> {
        let settings = &candidate.settings;
        if settings.activate {
            return Ok(Because::Activate);
        }
        let now = self.input.history.len();
        let window = Window { messages: now.saturating_sub(settings.scan_depth)..now, with_inserted };
        if let Some(key) = self.first_of(&candidate.exclude, &window)? {
            return Err(LeftOut::ExcludeKey(key));
        }
        if settings.timing.looks_back() {
            let text = &self.text;
            let earlier = |scanner: &mut Scanner, window: &Window| match candidate.matches(scanner, text, window) {
                Ok(_) => Ok(true),
                Err(LeftOut::SearchLimit) => Err(LeftOut::SearchLimit),
                Err(_) => Ok(false),
            };
            match standing(settings.timing, &self.prompts, now, settings.scan_depth, &mut self.scanner, earlier)? {
                Standing::Open => {}
                Standing::Stays => return Ok(Because::Stays),
                Standing::Rests => return Err(LeftOut::MatchedBefore),
            }
        }
        candidate.matches(&mut self.scanner, &self.text, &window)
    }

    fn first_of(&mut self, keys: &[Key], window: &Window) -> Result<Option<String>, LeftOut> {
        for key in keys {
            if self.scanner.find(key, &self.text, window)?.is_some() {
                return Ok(Some(key.written.clone()));
            }
        }
        Ok(None)
    }

    /// `probability`, drawn by the chat, its turn and the entry.
    fn chance(&self, candidate: &Candidate<'_>) -> Option<LeftOut> {
        let percent = candidate.settings.chance;
        if percent >= 100.0 {
            return None;
        }
        let drawn = self.draw("probability", candidate).uniform() * 100.0;
        (drawn >= percent).then_some(LeftOut::Chance(percent))
    }

    fn draw(&self, purpose: &str, candidate: &Candidate<'_>) -> KeyedRandom {
        let draw = self.input.macros.draw;
        let [turn, book, index] = [draw.turn, candidate.book, candidate.index].map(|number| number.to_string());
        KeyedRandom::new(draw.seed, &["lorebook", purpose, draw.chat, &turn, &book, &index])
    }

    /// Lets what was just inserted be searched; false where nothing can come of it.
    fn feed(&mut self, candidates: &[Candidate<'a>], won: &[usize]) -> bool {
        let waits = |candidate: &Candidate<'_>| {
            matches!(candidate.state, State::Waiting(_)) && candidate.settings.found_by_recursion
        };
        if !candidates.iter().any(waits) {
            return false;
        }
        let mut fed = false;
        for candidate in won.iter().filter_map(|index| candidates.get(*index)) {
            if candidate.settings.feeds_recursion {
                let content = self.input.macros.expand(candidate.settings.content, &candidate.place(), Audience::Scan);
                self.text.insert(&candidate.entry.label(), &content);
                fed = true;
            }
        }
        fed
    }
}

use std::collections::{HashMap, HashSet};

use opencharacter_core::{KeyedRandom, Message, Role};

use crate::{Audience, Entry, Lorebook, Macros, decorators::UiPrompt};

use super::{
    history::{Standing, standing},
    scan::{Found, Key, KeyRules, ScanText, Scanner, Window},
    settings::{SecondaryLogic, Settings},
    trace::{Because, LeftOut, LorePlace, LoreTrace, Outcome},
};

/// What lorebooks are asked with.
pub(crate) struct LoreInput<'a> {
    pub(crate) books: Vec<&'a Lorebook>,
    pub(crate) history: &'a [Message],
    pub(crate) macros: Macros<'a>,
    /// Number of the greeting that the chat began with.
    pub(crate) greeting: Option<usize>,
    pub(crate) user_icon: Option<&'a str>,
    /// For books that name no budget.
    pub(crate) default_budget: usize,
    pub(crate) count_tokens: &'a dyn Fn(&str) -> usize,
}

/// An entry that is to be inserted.
#[derive(Debug)]
pub(crate) struct Activated {
    pub(crate) place: LorePlace,
    pub(crate) role: Role,
    pub(crate) content: String,
    pub(crate) tokens: usize,
    /// Its line in the trace.
    pub(crate) trace: usize,
    /// The lowest goes first when there is no room.
    pub(crate) rank: Rank,
}

/// First to drop or not, then priority, then insertion order.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub(crate) struct Rank(bool, f64, f64);

impl Rank {
    /// Whether it goes before anything else when the context is full.
    pub(crate) fn goes_first(self) -> bool {
        !self.0
    }
}

/// What lorebooks answer.
#[derive(Debug)]
pub(crate) struct Lore {
    /// In the order of insertion.
    pub(crate) inserted: Vec<Activated>,
    pub(crate) trace: Vec<LoreTrace>,
    pub(crate) disables: Vec<UiPrompt>,
}

/// An entry on its way.
struct Candidate<'a> {
    book: usize,
    index: usize,
    entry: &'a Entry,
    settings: Settings<'a>,
    keys: Vec<Key>,
    secondary: Vec<Key>,
    additional: Vec<Vec<Key>>,
    exclude: Vec<Key>,
    state: State,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    /// Not matched so far; why not.
    Waiting(LeftOut),
    /// Will not match in this prompt.
    Out(LeftOut),
    Active(Because),
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
        let won = activation.settle_groups(&mut candidates, matched);
        if !activation.feed(&candidates, &won) {
            break;
        }
        with_inserted = true;
    }
    activation.finish(candidates)
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
            if matches!(candidate.state, State::Active(_)) {
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
            let earlier = |scanner: &mut Scanner, window: &Window| match keys_match(scanner, text, candidate, window) {
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
        keys_match(&mut self.scanner, &self.text, candidate, &window)
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

    /// Of the entries of a group that matched, one stays: one that is there already, else the first in order of those
    /// that insist, else one by weight.
    fn settle_groups(&self, candidates: &mut [Candidate<'a>], matched: Vec<usize>) -> Vec<usize> {
        let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, candidate) in candidates.iter().enumerate() {
            if matches!(candidate.state, State::Active(_)) {
                for group in &candidate.settings.groups {
                    groups.entry(group.clone()).or_default().push(index);
                }
            }
        }
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_unstable();
        for (_, members) in groups {
            let members: Vec<usize> = members
                .into_iter()
                .filter(|index| matches!(candidates.get(*index).map(|one| &one.state), Some(State::Active(_))))
                .collect();
            let Some(winner) = self.winner(candidates, &members, &matched) else { continue };
            let name = candidates.get(winner).map(|winner| winner.entry.label()).unwrap_or_default();
            for index in members.into_iter().filter(|index| *index != winner) {
                if let Some(loser) = candidates.get_mut(index) {
                    loser.state = State::Out(LeftOut::Group(name.clone()));
                }
            }
        }
        let is_active = |index: &usize| matches!(candidates.get(*index).map(|one| &one.state), Some(State::Active(_)));
        matched.into_iter().filter(is_active).collect()
    }

    fn winner(&self, candidates: &[Candidate<'_>], members: &[usize], matched: &[usize]) -> Option<usize> {
        let of = |index: &usize| candidates.get(*index);
        if let Some(before) = members.iter().find(|index| matched.binary_search(index).is_err()) {
            return Some(*before);
        }
        let insisting = members.iter().filter(|index| of(index).is_some_and(|one| one.settings.group_override));
        let order = |index: &usize| of(index).map_or(0.0, |one| one.entry.insertion_order);
        if let Some(first) = insisting.max_by(|left, right| order(left).total_cmp(&order(right))) {
            return Some(*first);
        }
        let weight = |index: &usize| of(index).map_or(0.0, |one| one.settings.group_weight);
        let total: f64 = members.iter().map(weight).sum();
        let mut drawn = self.draw("group", of(members.first()?)?).uniform() * total;
        for index in members {
            drawn -= weight(index);
            if drawn < 0.0 {
                return Some(*index);
            }
        }
        members.last().copied()
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

    /// Counts, keeps to each book's budget, and sorts.
    fn finish(&self, candidates: Vec<Candidate<'a>>) -> Lore {
        let mut lore = Lore { inserted: Vec::new(), trace: Vec::new(), disables: Vec::new() };
        let mut orders = Vec::new();
        let mut by_book: Vec<Vec<usize>> = vec![Vec::new(); self.input.books.len()];
        for candidate in candidates {
            let mut tokens = 0;
            let outcome = match &candidate.state {
                State::Waiting(because) | State::Out(because) => Outcome::LeftOut { because: because.clone() },
                State::Active(because) => {
                    let content =
                        self.input.macros.expand(candidate.settings.content, &candidate.place(), Audience::Prompt);
                    tokens = (self.input.count_tokens)(&content);
                    insert(&mut lore, &candidate, content, tokens, because)
                }
            };
            if matches!(outcome, Outcome::Inserted { .. }) {
                orders.push(candidate.entry.insertion_order);
                if let Some(book) = by_book.get_mut(candidate.book).filter(|_| !candidate.settings.ignores_budget) {
                    book.push(lore.inserted.len() - 1);
                }
            }
            lore.trace.push(LoreTrace {
                book: self.input.books.get(candidate.book).map(|book| book.name.clone()).unwrap_or_default(),
                index: candidate.index,
                entry: candidate.entry.label(),
                tokens,
                outcome,
            });
        }
        let mut dropped = HashSet::new();
        for (book, members) in self.input.books.iter().zip(by_book) {
            let budget = book.token_budget.map_or(self.input.default_budget, |budget| budget.max(0.0) as usize);
            for index in over_budget(&lore.inserted, members, budget) {
                dropped.insert(index);
                leave_out(&mut lore, index, LeftOut::BookBudget { budget });
            }
        }
        let mut kept: Vec<(f64, Activated)> = orders.into_iter().zip(lore.inserted).collect();
        let mut position = 0;
        kept.retain(|_| {
            position += 1;
            !dropped.contains(&(position - 1))
        });
        kept.sort_by(|left, right| left.0.total_cmp(&right.0));
        lore.inserted = kept.into_iter().map(|(_, activated)| activated).collect();
        lore
    }
}

/// Notes an entry that matched, where it has something to insert.
fn insert(lore: &mut Lore, candidate: &Candidate<'_>, content: String, tokens: usize, because: &Because) -> Outcome {
    let settings = &candidate.settings;
    lore.disables.extend(&settings.disables);
    if content.trim().is_empty() {
        return Outcome::LeftOut { because: LeftOut::Empty };
    }
    let Some(place) = settings.place else { return Outcome::LeftOut { because: LeftOut::UnknownPlace } };
    let entry = candidate.entry;
    lore.inserted.push(Activated {
        place,
        role: settings.role,
        content,
        tokens,
        trace: lore.trace.len(),
        rank: Rank(!settings.first_to_drop, entry.priority.unwrap_or(0.0), entry.insertion_order),
    });
    Outcome::Inserted { place, role: settings.role, because: because.clone() }
}

impl Candidate<'_> {
    /// Names the entry's text for its macros.
    fn place(&self) -> String {
        format!("lorebook {} entry {}", self.book, self.index)
    }
}

/// Whether the entry's keys, secondary and additional ones, are in the window, and which was.
fn keys_match(
    scanner: &mut Scanner,
    text: &ScanText,
    candidate: &Candidate<'_>,
    window: &Window,
) -> Result<Because, LeftOut> {
    let settings = &candidate.settings;
    let because = if settings.constant { Because::Constant } else { primary(scanner, text, candidate, window)? };
    for line in &candidate.additional {
        let mut found = false;
        for key in line {
            found |= scanner.find(key, text, window)?.is_some();
        }
        if !found {
            return Err(LeftOut::AdditionalKeys);
        }
    }
    let Some(logic) = settings.secondary.filter(|_| !settings.constant && !candidate.secondary.is_empty()) else {
        return Ok(because);
    };
    let mut found = 0;
    for key in &candidate.secondary {
        found += usize::from(scanner.find(key, text, window)?.is_some());
    }
    let all = candidate.secondary.len();
    let agrees = match logic {
        SecondaryLogic::Any => found > 0,
        SecondaryLogic::NotAll => found < all,
        SecondaryLogic::None => found == 0,
        SecondaryLogic::All => found == all,
    };
    if agrees { Ok(because) } else { Err(LeftOut::SecondaryKeys) }
}

fn primary(
    scanner: &mut Scanner,
    text: &ScanText,
    candidate: &Candidate<'_>,
    window: &Window,
) -> Result<Because, LeftOut> {
    let mut reason = LeftOut::NoKey;
    for key in &candidate.keys {
        match scanner.find(key, text, window) {
            Ok(Some(found)) => {
                let found_in = match found {
                    Found::InConversation => None,
                    Found::InEntry(entry) => Some(entry),
                };
                return Ok(Because::Key { key: key.written.clone(), found_in });
            }
            Ok(None) => {}
            // One bad pattern does not spoil the other keys.
            Err(bad @ LeftOut::Pattern(_)) => reason = bad,
            Err(limit) => return Err(limit),
        }
    }
    Err(reason)
}

/// Those of `members` that a budget has no room for: the lowest go until the rest fits. What alone is too large goes
/// before that.
fn over_budget(inserted: &[Activated], mut members: Vec<usize>, budget: usize) -> Vec<usize> {
    let tokens = |index: &usize| inserted.get(*index).map_or(0, |one| one.tokens);
    let rank = |index: &usize| inserted.get(*index).map(|one| one.rank);
    let mut dropped: Vec<usize> = members.iter().copied().filter(|index| tokens(index) > budget).collect();
    members.retain(|index| tokens(index) <= budget);
    // Highest first; of equals, the earlier in the book stays.
    members.sort_by(|left, right| rank(right).partial_cmp(&rank(left)).unwrap_or(std::cmp::Ordering::Equal));
    let mut spent = 0_usize;
    let fits = members.iter().take_while(|index| {
        spent = spent.saturating_add(tokens(index));
        spent <= budget
    });
    let fits = fits.count();
    dropped.extend(members.split_off(fits));
    dropped
}

/// Notes that an entry is not inserted after all.
fn leave_out(lore: &mut Lore, index: usize, because: LeftOut) {
    let trace = lore.inserted.get(index).map(|one| one.trace);
    if let Some(line) = trace.and_then(|trace| lore.trace.get_mut(trace)) {
        line.outcome = Outcome::LeftOut { because };
    }
}

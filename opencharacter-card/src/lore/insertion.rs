//! Matched entries as what is inserted: counted, kept to each book's budget, and in order.

use std::{cmp::Ordering, collections::HashSet};

use opencharacter_core::Role;

use crate::{Audience, Lorebook, decorators::UiPrompt};

use super::{
    activation::LoreInput,
    candidate::{Candidate, State},
    trace::{Because, LeftOut, LorePlace, LoreTrace, Outcome},
};

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
    /// Lower is earlier.
    order: f64,
    book: usize,
    ignores_budget: bool,
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

impl Lore {
    /// What becomes of `candidates` now that it is known which of them matched.
    pub(super) fn of(candidates: &[Candidate<'_>], input: &LoreInput<'_>) -> Self {
        let mut lore = Self { inserted: Vec::new(), trace: Vec::new(), disables: Vec::new() };
        for candidate in candidates {
            let (tokens, outcome) = match &candidate.state {
                State::Waiting(because) | State::Out(because) => (0, Outcome::LeftOut { because: because.clone() }),
                State::Active(because) => lore.insert(candidate, because, input),
            };
            lore.trace.push(LoreTrace {
                book: input.books.get(candidate.book).map(|book| book.name.clone()).unwrap_or_default(),
                index: candidate.index,
                entry: candidate.entry.label(),
                tokens,
                outcome,
            });
        }
        for (number, book) in input.books.iter().enumerate() {
            lore.keep_to_budget(number, book, input.context_tokens);
        }
        lore.inserted.sort_by(|left, right| left.order.total_cmp(&right.order));
        lore
    }

    /// Inserts an entry that matched, where it has something to insert; its tokens and what became of it.
    fn insert(&mut self, candidate: &Candidate<'_>, because: &Because, input: &LoreInput<'_>) -> (usize, Outcome) {
        let (settings, entry) = (&candidate.settings, candidate.entry);
        self.disables.extend(&settings.disables);
        let content = input.macros.expand(settings.content, &candidate.place(), Audience::Prompt);
        if content.trim().is_empty() {
            return (0, Outcome::LeftOut { because: LeftOut::Empty });
        }
        let Some(place) = settings.place else { return (0, Outcome::LeftOut { because: LeftOut::UnknownPlace }) };
        let tokens = (input.count_tokens)(&content);
        self.inserted.push(Activated {
            place,
            role: settings.role,
            content,
            tokens,
            trace: self.trace.len(),
            rank: Rank(!settings.first_to_drop, entry.priority.unwrap_or(0.0), entry.insertion_order),
            order: entry.insertion_order,
            book: candidate.book,
            ignores_budget: settings.ignores_budget,
        });
        (tokens, Outcome::Inserted { place, role: settings.role, because: because.clone() })
    }

    /// Leaves out what one book has no tokens for. A card must not crowd out the chat, whatever it says of itself: half
    /// of the context is the most for a book, and for its entries that ignore its budget.
    fn keep_to_budget(&mut self, number: usize, book: &Lorebook, context: usize) {
        let own = book.token_budget.map_or(context / 4, |budget| (budget.max(0.0) as usize).min(context / 2));
        let mut dropped = HashSet::new();
        for (ignores_budget, budget) in [(false, own), (true, context / 2)] {
            let is_member = |one: &Activated| one.book == number && one.ignores_budget == ignores_budget;
            let members: Vec<&Activated> = self.inserted.iter().filter(|one| is_member(one)).collect();
            for trace in over_budget(members, budget) {
                dropped.insert(trace);
                if let Some(line) = self.trace.get_mut(trace) {
                    line.outcome = Outcome::LeftOut { because: LeftOut::BookBudget { budget } };
                }
            }
        }
        self.inserted.retain(|one| !dropped.contains(&one.trace));
    }
}

/// The trace lines of those that a budget has no room for: what alone is too large, then the lowest until the rest fits.
fn over_budget(mut members: Vec<&Activated>, budget: usize) -> Vec<usize> {
    // Highest first; of equals, the earlier in the book stays.
    members.sort_by(|left, right| right.rank.partial_cmp(&left.rank).unwrap_or(Ordering::Equal));
    let (mut spent, mut full) = (0_usize, false);
    let has_no_room = |one: &&Activated| {
        if one.tokens > budget {
            return true;
        }
        full |= spent.saturating_add(one.tokens) > budget;
        spent = spent.saturating_add(if full { 0 } else { one.tokens });
        full
    };
    members.into_iter().filter(has_no_room).map(|one| one.trace).collect()
}

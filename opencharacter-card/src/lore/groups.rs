//! Inclusion groups of `SillyTavern`: of the entries that share one, one is inserted.

use std::collections::HashMap;

use opencharacter_core::KeyedRandom;

use super::{
    candidate::{Candidate, State},
    trace::LeftOut,
};

/// Of the entries of a group that matched, one stays: one that is there already, else the first in order of those
/// that insist, else one by weight.
pub(super) fn settle_groups(
    candidates: &mut [Candidate<'_>],
    matched: Vec<usize>,
    draw: impl Fn(&Candidate<'_>) -> KeyedRandom,
) -> Vec<usize> {
    let mut groups: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, candidate) in candidates.iter().enumerate() {
        if candidate.is_active() {
            for group in &candidate.settings.groups {
                groups.entry(group.clone()).or_default().push(index);
            }
        }
    }
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_unstable();
    for (_, members) in groups {
        let members: Vec<usize> =
            members.into_iter().filter(|index| candidates.get(*index).is_some_and(Candidate::is_active)).collect();
        let Some(winner) = winner(candidates, &members, &matched, &draw) else { continue };
        let name = candidates.get(winner).map(|winner| winner.entry.label()).unwrap_or_default();
        for index in members.into_iter().filter(|index| *index != winner) {
            if let Some(loser) = candidates.get_mut(index) {
                loser.state = State::Out(LeftOut::Group(name.clone()));
            }
        }
    }
    let is_active = |index: &usize| candidates.get(*index).is_some_and(Candidate::is_active);
    matched.into_iter().filter(is_active).collect()
}

fn winner(
    candidates: &[Candidate<'_>],
    members: &[usize],
    matched: &[usize],
    draw: impl Fn(&Candidate<'_>) -> KeyedRandom,
) -> Option<usize> {
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
    let mut drawn = draw(of(members.first()?)?).uniform() * total;
    for index in members {
        drawn -= weight(index);
        if drawn < 0.0 {
            return Some(*index);
        }
    }
    members.last().copied()
}

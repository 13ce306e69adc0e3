use std::cmp::Ordering;

use crate::{
    LeftOut, Outcome,
    lore::{Lore, Rank},
};

use super::{LeftOutPart, Prompt, Section, builder::Draft};

/// Leaves out what has no room.
pub(super) fn fit(parts: Vec<Draft>, mut lore: Lore, context_tokens: usize) -> Prompt {
    let mut tokens: usize = parts.iter().map(|draft| draft.part.tokens).sum();
    let mut goes = vec![false; parts.len()];
    for group in in_order_of_leaving(&parts, &lore) {
        if tokens <= context_tokens {
            break;
        }
        for index in group {
            tokens -= parts.get(index).map_or(0, |draft| draft.part.tokens);
            if let Some(mark) = goes.get_mut(index) {
                *mark = true;
            }
        }
    }
    let (mut kept, mut left_out) = (Vec::new(), Vec::new());
    for (draft, goes) in parts.into_iter().zip(goes) {
        if !goes {
            kept.push(draft.part);
            continue;
        }
        let line = draft.lore.and_then(|index| lore.inserted.get(index)).map(|one| one.trace);
        if let Some(line) = line.and_then(|line| lore.trace.get_mut(line)) {
            line.outcome = Outcome::LeftOut { because: LeftOut::Context };
        }
        left_out.push(LeftOutPart { section: draft.part.section, tokens: draft.part.tokens });
    }
    Prompt { parts: kept, left_out, lore: lore.trace, tokens, fits: tokens <= context_tokens }
}

/// Parts that may go, in groups that go together, the first to go first.
fn in_order_of_leaving(parts: &[Draft], lore: &Lore) -> Vec<Vec<usize>> {
    let rank = |index: &usize| {
        let lore_index = parts.get(*index).and_then(|draft| draft.lore)?;
        lore.inserted.get(lore_index).map(|one| one.rank)
    };
    let mut by_rank: Vec<usize> = (0..parts.len()).filter(|index| rank(index).is_some()).collect();
    by_rank.sort_by(|left, right| rank(left).partial_cmp(&rank(right)).unwrap_or(Ordering::Equal));
    let (first, other): (Vec<usize>, Vec<usize>) =
        by_rank.into_iter().partition(|index| rank(index).is_some_and(Rank::goes_first));
    let mut groups: Vec<Vec<usize>> = first.into_iter().map(|index| vec![index]).collect();
    groups.extend(examples_from_the_last(parts));
    let is_message = |draft: &Draft| matches!(draft.part.section, Section::History(_));
    let mut messages: Vec<usize> =
        parts.iter().enumerate().filter(|(_, draft)| is_message(draft)).map(|(index, _)| index).collect();
    messages.pop();
    groups.extend(messages.into_iter().map(|index| vec![index]));
    groups.extend(other.into_iter().map(|index| vec![index]));
    groups
}

/// Each example dialogue, the last first; the mark before the chat goes with the first one.
fn examples_from_the_last(parts: &[Draft]) -> Vec<Vec<usize>> {
    let mut blocks: Vec<Vec<usize>> = Vec::new();
    for (index, draft) in parts.iter().enumerate() {
        match draft.part.section {
            Section::Example(number) => {
                if blocks.len() <= number {
                    blocks.resize(number + 1, Vec::new());
                }
                if let Some(block) = blocks.get_mut(number) {
                    block.push(index);
                }
            }
            Section::ChatStart => {
                if let Some(first) = blocks.first_mut() {
                    first.push(index);
                }
            }
            _ => {}
        }
    }
    blocks.reverse();
    blocks
}

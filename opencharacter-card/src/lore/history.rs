//! What an entry's earlier matches mean now.
//!
//! Nothing is stored between prompts: a chat's earlier prompts are looked at again, each with the messages that it had.
//! So an edited, branched or reloaded chat gives what its messages say, and not what a counter remembers.

use super::{
    scan::{Scanner, Window},
    settings::Timing,
    trace::LeftOut,
};

/// How an entry stands at the present prompt because of its earlier matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// As its keys say.
    Open,
    /// Active whatever its keys say.
    Stays,
    /// Not active whatever its keys say.
    Rests,
}

/// Goes through the earlier prompts. `prompts` holds how many messages each had, `now` how many there are;
/// `matches` says whether the entry's keys were found then.
pub(crate) fn standing(
    timing: Timing,
    prompts: &[usize],
    now: usize,
    scan_depth: usize,
    scanner: &mut Scanner,
    mut matches: impl FnMut(&mut Scanner, &Window) -> Result<bool, LeftOut>,
) -> Result<Standing, LeftOut> {
    let (mut stays_until, mut rests_until) = (0, 0);
    for &messages in prompts {
        let stays = messages < stays_until;
        if stays || messages < rests_until || messages < timing.delay {
            continue;
        }
        let window = Window { messages: messages.saturating_sub(scan_depth)..messages, with_inserted: false };
        if !matches(scanner, &window)? {
            continue;
        }
        if timing.once {
            return Ok(Standing::Rests);
        }
        if timing.keeps {
            return Ok(Standing::Stays);
        }
        stays_until = messages.saturating_add(timing.sticky);
        rests_until = stays_until.saturating_add(timing.cooldown);
    }
    Ok(if now < stays_until {
        Standing::Stays
    } else if now < rests_until {
        Standing::Rests
    } else {
        Standing::Open
    })
}

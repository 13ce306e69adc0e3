use crate::Entry;

use super::{
    scan::{Found, Key, ScanText, Scanner, Window},
    settings::{SecondaryLogic, Settings},
    trace::{Because, LeftOut},
};

/// An entry on its way.
pub(super) struct Candidate<'a> {
    pub(super) book: usize,
    pub(super) index: usize,
    pub(super) entry: &'a Entry,
    pub(super) settings: Settings<'a>,
    pub(super) keys: Vec<Key>,
    pub(super) secondary: Vec<Key>,
    pub(super) additional: Vec<Vec<Key>>,
    pub(super) exclude: Vec<Key>,
    pub(super) state: State,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Not matched so far; why not.
    Waiting(LeftOut),
    /// Will not match in this prompt.
    Out(LeftOut),
    Active(Because),
}

impl Candidate<'_> {
    /// Names the entry's text for its macros.
    pub(super) fn place(&self) -> String {
        format!("lorebook {} entry {}", self.book, self.index)
    }

    pub(super) fn is_active(&self) -> bool {
        matches!(self.state, State::Active(_))
    }

    /// Whether the entry's keys, secondary and additional ones, are in the window, and which was.
    pub(super) fn matches(&self, scanner: &mut Scanner, text: &ScanText, window: &Window) -> Result<Because, LeftOut> {
        let settings = &self.settings;
        let because = if settings.constant { Because::Constant } else { self.primary(scanner, text, window)? };
        for line in &self.additional {
            let mut found = false;
            for key in line {
                found |= scanner.find(key, text, window)?.is_some();
            }
            if !found {
                return Err(LeftOut::AdditionalKeys);
            }
        }
        let Some(logic) = settings.secondary.filter(|_| !settings.constant && !self.secondary.is_empty()) else {
            return Ok(because);
        };
        let mut found = 0;
        for key in &self.secondary {
            found += usize::from(scanner.find(key, text, window)?.is_some());
        }
        let all = self.secondary.len();
        let agrees = match logic {
            SecondaryLogic::Any => found > 0,
            SecondaryLogic::NotAll => found < all,
            SecondaryLogic::None => found == 0,
            SecondaryLogic::All => found == all,
        };
        if agrees { Ok(because) } else { Err(LeftOut::SecondaryKeys) }
    }

    fn primary(&self, scanner: &mut Scanner, text: &ScanText, window: &Window) -> Result<Because, LeftOut> {
        let mut reason = LeftOut::NoKey;
        for key in &self.keys {
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
}

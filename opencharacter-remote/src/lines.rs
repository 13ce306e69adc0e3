use crate::{fault::Fault, http::LONGEST_REPLY};

/// Whole lines out of chunks that end anywhere.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
    /// So much of it holds no line's end.
    searched: usize,
}

impl Lines {
    /// Adds what came.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<(), Fault> {
        self.pending.extend_from_slice(chunk);
        if self.pending.len() > LONGEST_REPLY {
            return Err(Fault::Malformed(format!("a line of the reply is longer than {LONGEST_REPLY} bytes")));
        }
        Ok(())
    }

    /// The next line that is whole, with its end.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let found = self.pending.iter().skip(self.searched).position(|&byte| byte == b'\n');
        let Some(found) = found else {
            self.searched = self.pending.len();
            return None;
        };
        let line = self.pending.drain(..=self.searched + found).collect();
        self.searched = 0;
        Some(line)
    }

    /// What follows the last line's end.
    pub(crate) fn rest(self) -> Vec<u8> {
        self.pending
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_they_were_cut(text in "[ab\n]{0,60}", width in 1..9_usize) {
            let mut lines = Lines::default();
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(width) {
                lines.push(chunk).unwrap();
                found.extend(std::iter::from_fn(|| lines.next()));
            }
            found.push(lines.rest());
            let expected: Vec<Vec<u8>> = text.split_inclusive('\n').map(|line| line.as_bytes().to_vec()).collect();
            found.retain(|line| !line.is_empty());
            prop_assert_eq!(found, expected);
        }
    }
}

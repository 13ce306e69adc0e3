/// The text of an answer as it grows: finds stop strings, and holds back what might still become one or is only half
/// a character.
#[derive(Debug, Default)]
pub(crate) struct AnswerText {
    bytes: Vec<u8>,
    emitted: usize,
    stop: Vec<Vec<u8>>,
}

impl AnswerText {
    pub(crate) fn new(stop: &[String]) -> Self {
        let stop = stop.iter().filter(|text| !text.is_empty()).map(|text| text.clone().into_bytes()).collect();
        Self { bytes: Vec::new(), emitted: 0, stop }
    }

    /// Appends a token's bytes; true when a stop string has appeared, in which case the text ends before it.
    pub(crate) fn push(&mut self, token: &[u8]) -> bool {
        let longest = self.stop.iter().map(Vec::len).max().unwrap_or(0);
        let start = self.bytes.len().saturating_sub(longest.saturating_sub(1));
        self.bytes.extend_from_slice(token);
        let found = self.stop.iter().filter_map(|stop| find(&self.bytes[start..], stop)).min();
        if let Some(place) = found {
            self.bytes.truncate(start + place);
        }
        found.is_some()
    }

    /// The next piece that is certain to stay, or nothing; with `finished`, all that is left.
    pub(crate) fn take(&mut self, finished: bool) -> Option<String> {
        let rest = &self.bytes[self.emitted..];
        let end = if finished { rest.len() } else { whole_characters(rest).min(rest.len() - self.held_back(rest)) };
        // Cutting for a stop string can cut into a character only where the model wrote broken UTF-8 anyway.
        let end = if finished { end } else { whole_characters(&rest[..end]) };
        if end == 0 {
            return None;
        }
        let piece = String::from_utf8_lossy(&rest[..end]).into_owned();
        self.emitted += end;
        Some(piece)
    }

    /// The whole text.
    pub(crate) fn finish(self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }

    /// Length of the longest end of `rest` that begins a stop string.
    fn held_back(&self, rest: &[u8]) -> usize {
        self.stop
            .iter()
            .flat_map(|stop| (1..stop.len().min(rest.len() + 1)).filter(|&length| rest.ends_with(&stop[..length])))
            .max()
            .unwrap_or(0)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// How many leading bytes hold no character that is still incomplete at the end.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Ok(_) => bytes.len(),
        // `error_len` is none when the end was reached inside a character.
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        Err(error) => {
            let broken = error.valid_up_to() + error.error_len().unwrap_or(1);
            broken + whole_characters(&bytes[broken..])
        }
    }
}

/// Splits `text` into pieces of at most `width` bytes: what a streaming test feeds in.
#[cfg(test)]
fn pieces(text: &[u8], width: usize) -> Vec<Vec<u8>> {
    text.chunks(width).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stream(text: &[u8], width: usize, stop: &[String]) -> (String, String) {
        let mut answer = AnswerText::new(stop);
        let mut streamed = String::new();
        for piece in pieces(text, width) {
            let stopped = answer.push(&piece);
            streamed.extend(answer.take(stopped));
            if stopped {
                break;
            }
        }
        streamed.extend(answer.take(true));
        (streamed, answer.finish())
    }

    #[test]
    fn a_stop_string_across_tokens_is_cut_and_never_shown() {
        let (streamed, whole) = stream("Good day.\nUser: hi".as_bytes(), 2, &["\nUser:".into()]);
        assert_eq!(streamed, "Good day.");
        assert_eq!(whole, "Good day.");
    }

    proptest! {
        #[test]
        fn what_is_streamed_is_the_text(text in "[a-c🌊é ]{0,30}", width in 1_usize..6, stop in "[a-c]{0,3}") {
            let expected = if stop.is_empty() { text.as_str() } else { text.split(&stop).next().unwrap() };
            let (streamed, whole) = stream(text.as_bytes(), width, std::slice::from_ref(&stop));
            prop_assert_eq!(&streamed, expected);
            prop_assert_eq!(&whole, expected);
        }
    }
}

use icu_normalizer::ComposingNormalizerBorrowed;

/// A text in the form in which texts are compared: its words in lower case, one space between them.
///
/// A word is a run of letters and digits, apostrophes within it left out (`don't`, `don’t` and `dont` are one word);
/// characters of Han and kana, which are written without spaces, are a word each.
pub(crate) struct Words {
    normalizer: ComposingNormalizerBorrowed<'static>,
    text: String,
    /// Where each word begins and ends in `text`.
    spans: Vec<(usize, usize)>,
}

impl Words {
    pub(crate) fn new() -> Self {
        Self { normalizer: ComposingNormalizerBorrowed::new_nfkc(), text: String::new(), spans: Vec::new() }
    }

    /// Puts the words of `text` in place of what was read before.
    pub(crate) fn read(&mut self, text: &str) {
        self.text.clear();
        self.spans.clear();
        if text.is_ascii() {
            self.gather(text);
        } else {
            self.gather(&self.normalizer.normalize(text));
        }
    }

    fn gather(&mut self, text: &str) {
        let mut begin = None;
        let mut characters = text.chars().peekable();
        while let Some(character) = characters.next() {
            if is_ideograph(character) {
                self.end_word(&mut begin);
                begin = Some(self.begin_word());
                self.text.push(character);
                self.end_word(&mut begin);
            } else if character.is_alphanumeric() {
                if begin.is_none() {
                    begin = Some(self.begin_word());
                }
                self.push_lower(character);
            } else if !(is_apostrophe(character) && characters.peek().is_some_and(|next| next.is_alphanumeric())) {
                self.end_word(&mut begin);
            }
        }
        self.end_word(&mut begin);
    }

    fn begin_word(&mut self) -> usize {
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.text.len()
    }

    fn end_word(&mut self, begin: &mut Option<usize>) {
        if let Some(begin) = begin.take() {
            self.spans.push((begin, self.text.len()));
        }
    }

    fn push_lower(&mut self, character: char) {
        if character.is_ascii() {
            self.text.push(character.to_ascii_lowercase());
        } else {
            self.text.extend(character.to_lowercase());
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// All words, with a space between them.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Every run of `length` words, in the text's order; none if there are fewer.
    pub(crate) fn runs(&self, length: usize) -> impl Iterator<Item = &str> {
        self.spans.windows(length).map(move |window| &self.text[window[0].0..window[length - 1].1])
    }
}

fn is_apostrophe(character: char) -> bool {
    matches!(character, '\'' | '\u{2019}' | '\u{2018}' | '\u{02BC}')
}

/// Han and kana.
fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        let mut words = Words::new();
        words.read("what was before");
        words.read(text);
        assert_eq!(words.runs(1).collect::<Vec<_>>().join(" "), words.text());
        words.text().to_owned()
    }

    #[test]
    fn form_makes_no_difference() {
        assert_eq!(words("  Don\u{2019}t 'Quote'—ÉTÉ-42! "), "dont quote été 42");
        // NFKC: a decomposed accent, a ligature, full-width letters, a superscript.
        assert_eq!(words("E\u{301}te\u{301} \u{FB01}n ＡＤＡ x²"), "été fin ada x2");
        assert_eq!(words("我是 Ada, カ"), "我 是 ada カ");
        assert_eq!(words("…!"), "");
        assert_eq!(words("ΟΔΟΣ Straße"), "οδοσ straße");
    }

    #[test]
    fn runs_are_of_neighbours() {
        let mut read = Words::new();
        read.read("One, two; three. Four");
        assert_eq!(read.runs(3).collect::<Vec<_>>(), ["one two three", "two three four"]);
        assert_eq!(read.runs(5).count(), 0);
        assert_eq!(read.len(), 4);
    }
}

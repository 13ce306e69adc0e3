use std::ops::Range;

/// The words of `text`, lower-cased, with straight apostrophes: `Don’t` is `don't`.
///
/// A word is a run of letters and digits, with apostrophes inside it. Scripts without spaces (Han, kana, Hangul
/// excepted, which has them) count one word per character; Thai and its like count one word per run, which makes
/// their counts comparable between models but not with other languages.
pub fn words(text: &str) -> Vec<String> {
    spans(text, true).into_iter().map(|span| normalise(&text[span])).collect()
}

/// How many words [`words`] finds.
pub fn word_count(text: &str) -> usize {
    spans(text, true).len()
}

/// Byte ranges of the words of `text`; with `join` an apostrophe between letters belongs to its word.
pub(crate) fn spans(text: &str, join: bool) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut start = None;
    let mut characters = text.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        let next_is_letter = characters.peek().is_some_and(|&(_, next)| next.is_alphanumeric());
        if is_ideograph(character) {
            spans.extend(start.take().map(|start| start..index));
            spans.push(index..index + character.len_utf8());
        } else if character.is_alphanumeric() {
            start = start.or(Some(index));
        } else if !(join && start.is_some() && is_apostrophe(character) && next_is_letter) {
            spans.extend(start.take().map(|start| start..index));
        }
    }
    spans.extend(start.map(|start| start..text.len()));
    spans
}

pub(crate) fn normalise(word: &str) -> String {
    let straight: String = word.chars().map(|c| if is_apostrophe(c) { '\'' } else { c }).collect();
    straight.to_lowercase()
}

fn is_apostrophe(character: char) -> bool {
    matches!(character, '\'' | '\u{2019}' | '\u{2018}' | '\u{02BC}' | '\u{FF07}')
}

/// Han and kana, written without spaces.
fn is_ideograph(character: char) -> bool {
    matches!(character, '\u{3040}'..='\u{30FF}' | '\u{3400}'..='\u{4DBF}' | '\u{4E00}'..='\u{9FFF}'
        | '\u{F900}'..='\u{FAFF}' | '\u{20000}'..='\u{323AF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_runs_of_letters_with_inner_apostrophes() {
        assert_eq!(words("Don\u{2019}t, 'quote' Été-42!"), ["don't", "quote", "été", "42"]);
        assert_eq!(words("我是 Ada"), ["我", "是", "ada"]);
        assert_eq!(word_count("  ...  "), 0);
    }

    #[test]
    fn names_are_split_at_apostrophes() {
        let text = "Ada's O'Brien";
        let parts: Vec<&str> = spans(text, false).into_iter().map(|span| &text[span]).collect();
        assert_eq!(parts, ["Ada", "s", "O", "Brien"]);
    }
}

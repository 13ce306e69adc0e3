//! Small judgements about text that profiles and answers share.

/// The lower-case words of `text`, punctuation left out, an apostrophe within a word kept as `'`.
pub(crate) fn words(text: &str) -> Vec<String> {
    text.split(|character: char| !(character.is_alphanumeric() || is_apostrophe(character)))
        .map(|word| word.trim_matches(is_apostrophe))
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().replace('’', "'"))
        .collect()
}

fn is_apostrophe(character: char) -> bool {
    matches!(character, '\'' | '’')
}

/// `text` with case, punctuation and spacing levelled, for comparing.
pub(crate) fn normalise(text: &str) -> String {
    words(text).join(" ")
}

/// Whether the normalised `text` contains the normalised `phrase` as whole words.
pub(crate) fn has_phrase(text: &str, phrase: &str) -> bool {
    let space_or_end = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == b' ');
    let bytes = text.as_bytes();
    text.match_indices(phrase).any(|(start, found)| {
        space_or_end(start.checked_sub(1).and_then(|before| bytes.get(before)))
            && space_or_end(bytes.get(start + found.len()))
    })
}

/// Whether `text` has fallen into a loop: some four words in a row occur more than three times.
pub fn repeats_itself(text: &str) -> bool {
    let words = words(text);
    let mut counts = std::collections::HashMap::new();
    words.windows(4).any(|window| {
        let count = counts.entry(window).or_insert(0_usize);
        *count += 1;
        *count > 3
    })
}

/// `text` up to the end of its last whole sentence, closing quotes included; empty if no sentence ends.
pub fn trim_to_sentence(text: &str) -> &str {
    let mut end = 0;
    let mut characters = text.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        if !matches!(character, '.' | '!' | '?' | '…' | '。' | '！' | '？') {
            continue;
        }
        let mut after = index + character.len_utf8();
        while let Some(&(next, closing)) = characters.peek() {
            if !matches!(closing, '"' | '”' | '’' | '\'' | ')' | '*' | '.' | '!' | '?' | '…') {
                break;
            }
            after = next + closing.len_utf8();
            characters.next();
        }
        // "3.5" and "example.org" end no sentence; scripts without spaces do not need one.
        let ends = characters.peek().is_none_or(|(_, next)| next.is_whitespace() || !character.is_ascii());
        if ends {
            end = after;
        }
    }
    text[..end].trim()
}

/// Whether two texts say the same words, but for one in ten.
pub(crate) fn nearly_equal(first: &str, second: &str) -> bool {
    let first: std::collections::BTreeSet<String> = words(first).into_iter().collect();
    let second: std::collections::BTreeSet<String> = words(second).into_iter().collect();
    let shared = first.intersection(&second).count();
    let all = first.union(&second).count();
    all > 0 && shared * 10 >= all * 9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_at_their_mark() {
        assert_eq!(trim_to_sentence("One. Two is cut o"), "One.");
        assert_eq!(trim_to_sentence("He said \"no.\" Then he"), "He said \"no.\"");
        assert_eq!(trim_to_sentence("It costs 3.5 and mo"), "");
        assert_eq!(trim_to_sentence("Wait... what"), "Wait...");
        assert_eq!(trim_to_sentence("你好。我是"), "你好。");
        assert_eq!(trim_to_sentence(""), "");
    }

    #[test]
    fn loops_are_found() {
        assert!(repeats_itself(&"I like the sea. ".repeat(4)));
        assert!(!repeats_itself(&"I like the sea. ".repeat(3)));
    }

    #[test]
    fn phrases_are_whole_words() {
        assert!(has_phrase(&normalise("Well, as an AI: no"), "as an ai"));
        assert!(!has_phrase(&normalise("as an aide I know"), "as an ai"));
        assert_eq!(normalise("I’m «Here»"), "i'm here");
    }
}

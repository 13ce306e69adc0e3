//! Small judgements about text that profiles and answers share.

/// The lower-case words of `text`, punctuation left out, an apostrophe within a word kept as `'`.
pub(crate) fn words(text: &str) -> Vec<String> {
    normalise(text).split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn is_apostrophe(character: char) -> bool {
    matches!(character, '\'' | '’')
}

/// `text` with case, punctuation and spacing levelled, for comparing: [`words`] with one space between.
pub(crate) fn normalise(text: &str) -> String {
    if text.is_ascii() {
        return normalise_ascii(text);
    }
    let mut normal = String::with_capacity(text.len());
    let pieces = text.split(|character: char| !(character.is_alphanumeric() || is_apostrophe(character)));
    for word in pieces.map(|piece| piece.trim_matches(is_apostrophe)).filter(|word| !word.is_empty()) {
        if !normal.is_empty() {
            normal.push(' ');
        }
        push_lower(&mut normal, word);
    }
    normal
}

/// What a byte of ASCII text counts as: 0 between words, an apostrophe, or a letter or digit in lower case.
const LEVELLED: [u8; 128] = {
    let mut table = [0; 128];
    let mut byte = 0_u8;
    while byte < 128 {
        if byte.is_ascii_alphanumeric() || byte == b'\'' {
            table[byte as usize] = byte.to_ascii_lowercase();
        }
        byte += 1;
    }
    table
};

/// A piece of a levelled text.
enum Piece {
    /// Of a word.
    Byte(u8),
    /// A word has ended.
    End,
}

/// Levels ASCII text in one pass: every prompt and every answer goes through here.
fn level_ascii(text: &str, mut receive: impl FnMut(Piece)) {
    let mut in_word = false;
    let mut apostrophes = 0;
    for byte in text.bytes() {
        match LEVELLED[usize::from(byte & 127)] {
            0 => {
                if in_word {
                    receive(Piece::End);
                }
                (in_word, apostrophes) = (false, 0);
            }
            b'\'' => apostrophes += usize::from(in_word),
            letter => {
                // Those before this letter stand within the word.
                (0..apostrophes).for_each(|_| receive(Piece::Byte(b'\'')));
                receive(Piece::Byte(letter));
                (in_word, apostrophes) = (true, 0);
            }
        }
    }
    if in_word {
        receive(Piece::End);
    }
}

fn normalise_ascii(text: &str) -> String {
    let mut normal = String::with_capacity(text.len() + 1);
    level_ascii(text, |piece| {
        normal.push(match piece {
            Piece::Byte(byte) => char::from(byte),
            Piece::End => ' ',
        });
    });
    normal.pop();
    normal
}

fn push_lower(normal: &mut String, word: &str) {
    if word.is_ascii() {
        normal.extend(word.bytes().map(|byte| char::from(byte.to_ascii_lowercase())));
    } else {
        // Not letter by letter: a final sigma depends on its place.
        normal.push_str(&word.to_lowercase().replace('’', "'"));
    }
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
    let mut runs: Vec<u64> = runs(&word_hashes(text), 4).collect();
    runs.sort_unstable();
    runs.windows(4).any(|same| same[0] == same[3])
}

/// Whether `count` words in a row stand in both texts.
pub(crate) fn share_run(first: &str, second: &str, count: usize) -> bool {
    let mut known: Vec<u64> = runs(&word_hashes(first), count).collect();
    known.sort_unstable();
    // Nearly every run of the other text is in no bit that a known one has set.
    let mut seen = [0_u64; 64];
    let bit = |run: u64| ((run >> 58) as usize, 1 << (run >> 52 & 63));
    for &run in &known {
        let (word, bit) = bit(run);
        seen[word] |= bit;
    }
    !known.is_empty()
        && runs(&word_hashes(second), count).any(|run| {
            let (word, bit) = bit(run);
            seen[word] & bit != 0 && known.binary_search(&run).is_ok()
        })
}

/// A hash of every word of `text` as [`normalise`] gives it. Every answer is looked through for runs of its prompt: that
/// must not cost a copy of either.
fn word_hashes(text: &str) -> Vec<u64> {
    const START: u64 = 0xCBF2_9CE4_8422_2325;
    let mut words = Vec::with_capacity(text.len() / 4);
    let mut hash = START;
    let mut receive = |piece| match piece {
        Piece::Byte(byte) => hash = step(hash, u64::from(byte)),
        Piece::End => words.push(std::mem::replace(&mut hash, START)),
    };
    if text.is_ascii() {
        level_ascii(text, receive);
        return words;
    }
    for word in normalise(text).split(' ').filter(|word| !word.is_empty()) {
        word.bytes().for_each(|byte| receive(Piece::Byte(byte)));
        receive(Piece::End);
    }
    words
}

/// A hash of every `count` words in a row, made of their hashes: a polynomial in an odd number, of which each run's is
/// had from the one before.
fn runs(words: &[u64], count: usize) -> impl Iterator<Item = u64> {
    const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
    let first = words.get(..count).unwrap_or_default();
    let mut run = first.iter().fold(0_u64, |run, &word| run.wrapping_mul(BASE).wrapping_add(word));
    let highest = BASE.wrapping_pow(count as u32);
    let next = words.windows(count + 1).map(move |window| {
        let (gone, come) = (window[0], window[count]);
        run = run.wrapping_mul(BASE).wrapping_add(come).wrapping_sub(gone.wrapping_mul(highest));
        run
    });
    (words.len() >= count).then_some(run).into_iter().chain(next)
}

/// FNV-1a's.
fn step(hash: u64, part: u64) -> u64 {
    (hash ^ part).wrapping_mul(0x0000_0100_0000_01B3)
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
        assert!(!repeats_itself("") && !repeats_itself("Sea sea sea."));
    }

    #[test]
    fn plain_and_other_text_are_levelled_alike() {
        let cases = ["It's 'quoted', isn't it?", "''a''b'' c'", "  Two  -- WORDS\n", "don't''", "'", "", "a1 B2,c3"];
        for text in cases {
            // A letter that is not ASCII takes the other way.
            let other = format!("{text} é");
            assert_eq!(format!("{} é", normalise(text)).trim(), normalise(&other), "{text}");
            let hashes = word_hashes(&other);
            assert_eq!(word_hashes(text), hashes[..hashes.len() - 1], "{text}");
            assert_eq!(word_hashes(&normalise(text)), word_hashes(text), "{text}");
        }
    }

    #[test]
    fn common_runs_are_found() {
        let text = "the lamp burns over the quiet harbour all night";
        assert!(share_run("she said the lamp burns over the sea", text, 5));
        assert!(!share_run("she said the lamp burns over the sea", text, 6));
        assert!(!share_run("over the lamp burns the", text, 5), "the order counts");
        assert!(!share_run("", text, 1) && !share_run(text, "lamp", 2));
        assert!(share_run("The LAMP, burns!", text, 3) && share_run("lamp", "Lamp", 1));
    }

    #[test]
    fn phrases_are_whole_words() {
        assert!(has_phrase(&normalise("Well, as an AI: no"), "as an ai"));
        assert!(!has_phrase(&normalise("as an aide I know"), "as an ai"));
        assert_eq!(normalise("I’m «Here»"), "i'm here");
    }
}

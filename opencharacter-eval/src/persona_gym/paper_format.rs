//! Reading and writing as the reference code does it in Python.

/// Replaces each `{name}` of `template`. Values are not looked at again.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        let (before, from_brace) = rest.split_at(open);
        filled.push_str(before);
        let found = values.iter().find_map(|(name, value)| {
            let after = from_brace.strip_prefix('{')?.strip_prefix(name)?.strip_prefix('}')?;
            Some((*value, after))
        });
        let (value, after) = found.unwrap_or(("{", &from_brace[1..]));
        filled.push_str(value);
        rest = after;
    }
    filled + rest
}

/// The literal of a Python list of strings.
pub(super) fn python_list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| python_string(text)).collect::<Vec<_>>().join(", "))
}

/// `repr` of a Python string.
fn python_string(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut literal = String::from(quote);
    for character in text.chars() {
        match character {
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\t' => literal.push_str("\\t"),
            _ if character == quote => literal.extend(['\\', quote]),
            _ if is_printable(character) => literal.push(character),
            _ => literal.push_str(&escape(character)),
        }
    }
    literal.push(quote);
    literal
}

fn escape(character: char) -> String {
    match u32::from(character) {
        code @ 0..=0xff => format!("\\x{code:02x}"),
        code @ 0x100..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// Python's `str.isprintable` for what occurs in texts: no controls, no separators but the space, no invisible marks,
/// no private characters. Unassigned code points, which Python escapes too, are not known here.
fn is_printable(character: char) -> bool {
    let invisible = matches!(character, '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
        | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}' | '\u{e000}'..='\u{f8ff}' | '\u{e0001}'..='\u{e007f}' | '\u{f0000}'..='\u{10ffff}');
    character == ' ' || !(character.is_control() || character.is_whitespace() || invisible)
}

/// Whether the reference finds any sample answer: `Score N:`, spaces, `Response -`.
pub(super) fn has_example(reply: &str) -> bool {
    !example_starts(reply).is_empty()
}

/// Where sample answers begin: the mark's first byte, the byte after the mark, and the score.
fn example_starts(reply: &str) -> Vec<(usize, usize, u32)> {
    let mark = |start: usize| {
        let rest = &reply[start + "Score ".len()..];
        let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
        let score = rest[..digits].parse().ok()?;
        let after = rest[digits..].strip_prefix(':')?.trim_start_matches(' ').strip_prefix("Response -")?;
        Some((start, reply.len() - after.len(), score))
    };
    reply.match_indices("Score ").filter_map(|(start, _)| mark(start)).collect()
}

/// The five sample answers of a reply for one question, whole.
pub(super) fn examples_of(reply: &str) -> Result<Vec<String>, String> {
    let starts = example_starts(reply);
    let mut examples = Vec::new();
    for (place, &(_, begin, score)) in starts.iter().enumerate() {
        let end = starts.get(place + 1).map_or(reply.len(), |next| next.0);
        let text = reply[begin..end].trim().trim_end_matches('-').trim();
        let text = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text).trim();
        if score as usize != place + 1 || text.is_empty() {
            return Err(format!("sample answer {} of the reply is not one for the score {}", place + 1, place + 1));
        }
        examples.push(text.to_owned());
    }
    if examples.len() == 5 {
        Ok(examples)
    } else {
        Err(format!("the reply has {} sample answers, expected 5", examples.len()))
    }
}

/// What follows each `(N) Evaluation:`, trimmed.
pub(super) fn evaluations(reply: &str) -> Vec<String> {
    let mark = "Evaluation:";
    let starts: Vec<(usize, usize)> = reply
        .match_indices(mark)
        .filter_map(|(at, _)| {
            let before = reply[..at].strip_suffix(") ")?;
            let digits = before.trim_end_matches(|character: char| character.is_ascii_digit());
            let open = digits.strip_suffix('(').filter(|_| digits.len() < before.len())?;
            Some((open.len(), at + mark.len()))
        })
        .collect();
    let ends = starts.iter().skip(1).map(|next| next.0).chain([reply.len()]);
    starts.iter().zip(ends).map(|(&(_, begin), end)| reply[begin..end].trim().to_owned()).collect()
}

/// The reference's score: the digits after the first exact phrase that has any, or 0.
pub(super) fn exact_score(evaluation: &str) -> f64 {
    let phrase = "Therefore, the final score is";
    evaluation
        .match_indices(phrase)
        .find_map(|(at, _)| {
            let rest = evaluation[at + phrase.len()..].trim_start();
            let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
            rest[..digits].parse().ok()
        })
        .unwrap_or(0.0)
}

/// The score of the last sentence that states one, however it is set: `**Final score is: 4**`, `the final score is 4/5`.
pub(super) fn stated_score(evaluation: &str) -> Option<u8> {
    let phrase = "final score is";
    // Byte for byte as long as the text, so that places agree.
    let lower = evaluation.to_ascii_lowercase();
    let (at, _) = lower.rmatch_indices(phrase).next()?;
    let rest = lower[at + phrase.len()..].trim_start_matches([' ', '\n', '\t', ':', '*', '_', '"', '(', '[', '`']);
    let digits = rest.find(|character: char| !character.is_ascii_digit()).unwrap_or(rest.len());
    let (number, after) = rest.split_at(digits);
    let fraction = after.strip_prefix('.').is_some_and(|after| after.starts_with(|next: char| next.is_ascii_digit()));
    number.parse().ok().filter(|score| (1..=5).contains(score) && !fraction)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        lists: Vec<(Vec<String>, String)>,
        evaluations: Vec<(String, Vec<String>, Vec<f64>)>,
    }

    #[test]
    fn lists_and_replies_are_those_of_python() {
        // Written by xtask/golden/make_eval_golden.py, with Python's own repr and the reference's regular expressions.
        let golden: Golden = serde_json::from_str(include_str!("../../tests/data/paper_code.json")).unwrap();
        assert!(golden.lists.len() > 20 && golden.evaluations.len() > 20);
        for (texts, literal) in &golden.lists {
            assert_eq!(python_list(texts), *literal);
        }
        for (reply, texts, scores) in &golden.evaluations {
            let found = evaluations(reply);
            assert_eq!(found, *texts, "{reply:?}");
            assert_eq!(found.iter().map(|text| exact_score(text)).collect::<Vec<_>>(), *scores, "{reply:?}");
        }
    }

    #[test]
    fn placeholders_are_filled_once() {
        assert_eq!(fill("{a} {b} {c} {", &[("a", "{b}"), ("b", "2")]), "{b} 2 {c} {");
    }

    #[test]
    fn stated_scores_are_read_in_any_setting() {
        for text in [
            "Therefore, the final score is 4.",
            "the **Final Score is: 4**",
            "final score is 4/5",
            "Final score is\n\n4",
        ] {
            assert_eq!(stated_score(text), Some(4), "{text}");
        }
        for text in [
            "",
            "4",
            "the final score is 45",
            "the final score is 4.5",
            "the final score is 0",
            "the final score is high",
        ] {
            assert_eq!(stated_score(text), None, "{text}");
        }
        assert_eq!(stated_score("At first the final score is 2. No: the final score is 3."), Some(3));
    }

    #[test]
    fn sample_answers_are_whole() {
        let reply = "Score 1:  Response - \"No.\nNot me.\"\n\nScore 2: Response - b\nScore 3: Response - c\nScore 4: Response - d\nScore 5:  Response - e\n----";
        let found = examples_of(reply).unwrap();
        assert_eq!(found, ["No.\nNot me.", "b", "c", "d", "e"]);
        assert!(examples_of("Score 1: Response - a").unwrap_err().contains("1 sample answers"));
        assert!(examples_of("I would rather not.").is_err() && !has_example("Score one: Response - a"));
    }
}

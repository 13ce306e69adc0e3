//! `mes_example`: dialogues that show how a character speaks.

use opencharacter_core::{Message, Role};

/// The example dialogues of a text whose macros are expanded: each begins with a line `<START>`.
///
/// A line that begins with `NAME:` opens a turn of the character or of the user; what stands before the first such line
/// is a system message. Blocks with nothing in them are left out.
pub fn split_examples(text: &str, character: &str, user: &str) -> Vec<Vec<Message>> {
    let mut blocks: Vec<Vec<Message>> = vec![Vec::new()];
    for line in text.lines() {
        let mut line = line;
        if let Some(after) = after_start(line) {
            blocks.push(Vec::new());
            line = after;
        }
        if let Some(block) = blocks.last_mut() {
            add_line(block, line, character, user);
        }
    }
    for message in blocks.iter_mut().flatten() {
        message.content = message.content.trim().to_owned();
    }
    for block in &mut blocks {
        block.retain(|message| !message.content.is_empty());
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// What follows `<START>` on its line.
fn after_start(line: &str) -> Option<&str> {
    const START: &str = "<START>";
    let line = line.trim();
    line.get(..START.len()).filter(|start| start.eq_ignore_ascii_case(START)).map(|_| &line[START.len()..])
}

fn add_line(block: &mut Vec<Message>, line: &str, character: &str, user: &str) {
    let spoken = |name: &str| {
        let (speaker, words) = line.split_once(':')?;
        (!name.is_empty() && speaker.trim() == name.trim()).then_some(words)
    };
    if let Some(words) = spoken(character) {
        block.push(Message::assistant(words.trim_start()));
    } else if let Some(words) = spoken(user) {
        block.push(Message::user(words.trim_start()));
    } else if let Some(last) = block.last_mut() {
        last.content.push('\n');
        last.content.push_str(line);
    } else if !line.trim().is_empty() {
        block.push(Message { role: Role::System, content: line.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_speakers_are_told_apart() {
        let text =
            "<START>\nSam: Hi\nAda: Hello.\nHow are you?\n\n<start>\nNight falls.\nAda: *yawns* It is 5:30.\n<START>";
        assert_eq!(
            split_examples(text, "Ada", "Sam"),
            [
                vec![Message::user("Hi"), Message::assistant("Hello.\nHow are you?")],
                vec![Message::system("Night falls."), Message::assistant("*yawns* It is 5:30.")]
            ]
        );
        assert_eq!(split_examples("Ada: Only one", "Ada", "Sam"), [vec![Message::assistant("Only one")]]);
        assert!(split_examples("  \n<START>\n", "Ada", "Sam").is_empty());
    }
}

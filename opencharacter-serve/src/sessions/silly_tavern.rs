//! Chats as `SillyTavern` keeps them: JSON Lines, a head and then a message a line, with its swipes.

use opencharacter_core::Role;
use serde_json::{Value, json};

use super::tree::Tree;
use crate::store::{Said, Session};

/// A chat that was read.
pub(super) struct Chat {
    pub(super) user_name: String,
    pub(super) messages: Vec<Swiped>,
}

/// A message with what else stood in its place.
#[derive(Debug, PartialEq)]
pub(super) struct Swiped {
    pub(super) role: Role,
    pub(super) swipes: Vec<String>,
    pub(super) chosen: usize,
}

/// The branch that is shown.
pub(super) fn write(session: &Session, character: &str, messages: &[Said]) -> String {
    let tree = Tree::new(messages);
    let head = json!({
        "user_name": session.user_name,
        "character_name": character,
        "create_date": session.created * 1000,
        "chat_metadata": {},
    });
    let mut lines = format!("{head}\n");
    for message in tree.branch(session.leaf) {
        let is_user = message.role == Role::User;
        let swipes: Vec<&Said> =
            tree.swipes(message).into_iter().filter_map(|id| messages.iter().find(|other| other.id == id)).collect();
        let mut line = json!({
            "name": if is_user { session.user_name.as_str() } else { character },
            "is_user": is_user,
            "is_system": false,
            "send_date": message.created * 1000,
            "mes": message.content,
            "extra": {},
        });
        if !is_user {
            line["swipe_id"] = swipes.iter().position(|other| other.id == message.id).unwrap_or(0).into();
            line["swipes"] = swipes.iter().map(|other| other.content.as_str()).collect();
        }
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    lines
}

/// Reads a chat; a line that is wrong is named.
pub(super) fn read(bytes: &[u8]) -> Result<Chat, String> {
    let text = str::from_utf8(bytes).map_err(|error| format!("the chat is no UTF-8: {error}"))?;
    let mut chat = Chat { user_name: "User".into(), messages: Vec::new() };
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line: Value = serde_json::from_str(line)
            .map_err(|error| format!("line {} of the chat is no JSON: {error}", number + 1))?;
        if let Some(name) = line["user_name"].as_str() {
            name.clone_into(&mut chat.user_name);
        }
        // System lines are notes of the program to its user.
        if line["is_system"] == json!(true) {
            continue;
        }
        if let Some(message) = message(&line) {
            chat.messages.push(message);
        }
    }
    if chat.messages.is_empty() {
        return Err("the chat holds no message; expected lines with `mes`".into());
    }
    Ok(chat)
}

fn message(line: &Value) -> Option<Swiped> {
    let shown = words(&line["mes"])?;
    let role = if line["is_user"] == json!(true) { Role::User } else { Role::Assistant };
    let swipes: Vec<String> = line["swipes"].as_array().into_iter().flatten().filter_map(words).collect();
    let chosen = line["swipe_id"].as_u64().map_or(0, |id| id as usize);
    // What is shown counts: it may have been edited since.
    match swipes.get(chosen) {
        Some(_) => {
            let mut swipes = swipes;
            swipes[chosen] = shown;
            Some(Swiped { role, swipes, chosen })
        }
        None => Some(Swiped { role, swipes: vec![shown], chosen: 0 }),
    }
}

/// A message's text; some programs write it as an object with `message`.
fn words(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["message"].as_str()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_comes_back() {
        let said = |id, parent, role, content: &str| Said {
            id,
            parent,
            role,
            content: content.into(),
            model: None,
            trace: None,
            created: 7,
        };
        let messages = [
            said(1, None, Role::Assistant, "Hello {{user}}."),
            said(2, None, Role::Assistant, "Who is it?"),
            said(3, Some(2), Role::User, "Me.\n\"Ada\""),
            said(4, Some(3), Role::Assistant, "Ah."),
        ];
        let session = Session {
            id: "s".into(),
            character_id: "c".into(),
            user_name: "Ben".into(),
            leaf: Some(4),
            created: 1,
            updated: 1,
            summary: String::new(),
            summarised: None,
        };
        let chat = read(write(&session, "Ada", &messages).as_bytes()).unwrap();
        assert_eq!(chat.user_name, "Ben");
        let swiped = |role, swipes: &[&str], chosen| Swiped {
            role,
            swipes: swipes.iter().map(|&text| text.to_owned()).collect(),
            chosen,
        };
        let expected = [
            swiped(Role::Assistant, &["Hello {{user}}.", "Who is it?"], 1),
            swiped(Role::User, &["Me.\n\"Ada\""], 0),
            swiped(Role::Assistant, &["Ah."], 0),
        ];
        assert_eq!(chat.messages, expected);
    }

    #[test]
    fn strange_chats_are_read_or_refused() {
        let chat =
            read(b"{\"user_name\":\"B\"}\n\n{\"mes\":{\"message\":\"hi\"},\"swipes\":[],\"swipe_id\":3}\n").unwrap();
        assert_eq!(chat.messages, [Swiped { role: Role::Assistant, swipes: vec!["hi".into()], chosen: 0 }]);
        for (bytes, part) in
            [(&b"\xFF"[..], "UTF-8"), (b"{", "line 1"), (b"", "no message"), (b"{\"user_name\":\"B\"}", "no message")]
        {
            assert!(read(bytes).err().unwrap().contains(part));
        }
    }
}

//! Decorators: V3's instructions in the first lines of an entry's content (`SPEC_V3.md`, "Decorators").

use opencharacter_core::Role;

/// One decorator that is known here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decorator {
    ActivateOnlyAfter(usize),
    ActivateOnlyEvery(usize),
    KeepActivateAfterMatch,
    DontActivateAfterMatch,
    Activate,
    DontActivate,
    Depth(usize),
    ReverseDepth(usize),
    Role(Role),
    ScanDepth(usize),
    IsGreeting(usize),
    Position(DecoratedPosition),
    IgnoreOnMaxContext,
    AdditionalKeys(Vec<String>),
    ExcludeKeys(Vec<String>),
    IsUserIcon(String),
    DisableUiPrompt(UiPrompt),
}

/// Values of `position`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecoratedPosition {
    BeforeDescription,
    AfterDescription,
    Personality,
    Scenario,
}

/// Values of `disable_ui_prompt`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UiPrompt {
    System,
    PostHistory,
}

impl Decorator {
    /// `None` for one that is unknown, has a value of no sense, or counts tokens where a chat counts messages: the next
    /// `@@@` line stands in for it.
    fn parse(name: &str, value: &str) -> Option<Self> {
        let count = || value.parse::<usize>().ok();
        let list = || value.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
        Some(match name {
            "activate_only_after" => Self::ActivateOnlyAfter(count()?),
            "activate_only_every" => Self::ActivateOnlyEvery(count().filter(|every| *every > 0)?),
            "keep_activate_after_match" => Self::KeepActivateAfterMatch,
            "dont_activate_after_match" => Self::DontActivateAfterMatch,
            "activate" => Self::Activate,
            "dont_activate" => Self::DontActivate,
            "depth" => Self::Depth(count()?),
            "reverse_depth" => Self::ReverseDepth(count()?),
            "role" => Self::Role(match value {
                "assistant" => Role::Assistant,
                "system" => Role::System,
                "user" => Role::User,
                _ => return None,
            }),
            "scan_depth" => Self::ScanDepth(count()?),
            "is_greeting" => Self::IsGreeting(count()?),
            "position" => Self::Position(match value {
                "before_desc" => DecoratedPosition::BeforeDescription,
                "after_desc" => DecoratedPosition::AfterDescription,
                "personality" => DecoratedPosition::Personality,
                "scenario" => DecoratedPosition::Scenario,
                _ => return None,
            }),
            "ignore_on_max_context" => Self::IgnoreOnMaxContext,
            "additional_keys" => Self::AdditionalKeys(list()),
            "exclude_keys" => Self::ExcludeKeys(list()),
            "is_user_icon" => Self::IsUserIcon(value.to_owned()),
            "disable_ui_prompt" => Self::DisableUiPrompt(match value {
                "system_prompt" => UiPrompt::System,
                "post_history_instructions" => UiPrompt::PostHistory,
                _ => return None,
            }),
            _ => return None,
        })
    }
}

/// The decorator lines of a content, ending with their newline, and the rest.
///
/// A line is one when it begins with `@@`; the first that does not ends them.
pub(crate) fn split_decorators(content: &str) -> (&str, &str) {
    let (mut end, mut position) = (0, 0);
    for line in content.split_inclusive('\n') {
        position += line.len();
        if line.trim_start().starts_with("@@") {
            end = position;
        } else if !line.trim().is_empty() {
            break;
        }
    }
    content.split_at(end)
}

/// The decorators of a content that are known, the first of equal names alone, and what is left for the prompt.
pub(crate) fn parse_decorators(content: &str) -> (Vec<Decorator>, &str) {
    let (head, rest) = split_decorators(content);
    if head.is_empty() {
        return (Vec::new(), content);
    }
    let mut decorators: Vec<Decorator> = Vec::new();
    let mut satisfied = true;
    for line in head.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (line, is_fallback) = match line.strip_prefix("@@@") {
            Some(line) => (line, true),
            None => (line.trim_start_matches('@'), false),
        };
        if is_fallback && satisfied {
            continue;
        }
        let (name, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let parsed = Decorator::parse(name.trim(), value.trim());
        satisfied = parsed.is_some();
        let Some(decorator) = parsed else { continue };
        let repeatable = matches!(decorator, Decorator::AdditionalKeys(_));
        let seen = |other: &Decorator| std::mem::discriminant(other) == std::mem::discriminant(&decorator);
        if repeatable || !decorators.iter().any(seen) {
            decorators.push(decorator);
        }
    }
    (decorators, rest.trim_matches(['\n', '\r']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_and_stripped() {
        let (found, rest) = parse_decorators("@@depth 4\n@@role assistant\r\n\n@@additional_keys a, b\nText\n@@not");
        assert_eq!(
            found,
            [
                Decorator::Depth(4),
                Decorator::Role(Role::Assistant),
                Decorator::AdditionalKeys(vec!["a".into(), "b".into()])
            ]
        );
        assert_eq!(rest, "Text\n@@not");
    }

    #[test]
    fn a_chain_of_fallbacks_ends_at_the_first_that_is_known() {
        let chain = "@@risu_only 1\n@@@instruct_depth 2\n@@@unknown\n@@@depth x\n@@@depth 5\n@@@depth 6\nText";
        assert_eq!(parse_decorators(chain), (vec![Decorator::Depth(5)], "Text"));
        assert_eq!(parse_decorators("@@activate\n@@@dont_activate\nText").0, [Decorator::Activate]);
    }

    #[test]
    fn the_first_of_equal_names_counts() {
        assert_eq!(parse_decorators("@@depth 1\n@@depth 2").0, [Decorator::Depth(1)]);
    }

    #[test]
    fn splitting_loses_nothing() {
        for content in ["", "Text", "@@a\n@@b", "@@a\n\n\nText", "\n@@a\nText\n", "@@a\r\n@@@b\r\nText"] {
            let (head, rest) = split_decorators(content);
            assert_eq!(format!("{head}{rest}"), content);
        }
    }
}

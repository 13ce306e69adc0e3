//! What an entry asks for, said in one way: its fields, its decorators, and `SillyTavern`'s extensions.

use opencharacter_core::Role;
use serde_json::Value;

use crate::{
    Entry, EntryPosition, Lorebook,
    decorators::{DecoratedPosition, Decorator, UiPrompt, parse_decorators},
    fields::by_commas,
};

use super::LorePlace;

/// How many messages are searched where nothing says how many.
const SCAN_DEPTH: usize = 4;
/// `SillyTavern`'s default depth of an entry in the history.
const DEPTH: usize = 4;

/// How secondary keys count (`selectiveLogic`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecondaryLogic {
    Any,
    NotAll,
    None,
    All,
}

/// What an entry asks for.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the format")]
pub(crate) struct Settings<'a> {
    /// The text without its decorators.
    pub(crate) content: &'a str,
    /// `None`: a place that is not known here.
    pub(crate) place: Option<LorePlace>,
    pub(crate) role: Role,
    pub(crate) constant: bool,
    pub(crate) activate: bool,
    pub(crate) dont_activate: bool,
    pub(crate) regex: bool,
    pub(crate) secondary: Option<SecondaryLogic>,
    pub(crate) additional: Vec<Vec<String>>,
    pub(crate) exclude: Vec<String>,
    pub(crate) case_sensitive: bool,
    pub(crate) whole_words: bool,
    pub(crate) scan_depth: usize,
    pub(crate) only_after: usize,
    pub(crate) only_every: usize,
    pub(crate) greeting: Option<usize>,
    pub(crate) user_icon: Option<String>,
    pub(crate) timing: Timing,
    /// In percent.
    pub(crate) chance: f64,
    pub(crate) groups: Vec<String>,
    pub(crate) group_override: bool,
    pub(crate) group_weight: f64,
    pub(crate) feeds_recursion: bool,
    pub(crate) found_by_recursion: bool,
    pub(crate) only_by_recursion: bool,
    pub(crate) first_to_drop: bool,
    pub(crate) ignores_budget: bool,
    pub(crate) disables: Vec<UiPrompt>,
}

/// What an earlier match means, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Timing {
    /// Stays for good once matched.
    pub(crate) keeps: bool,
    /// Matches once.
    pub(crate) once: bool,
    /// Stays for so many messages.
    pub(crate) sticky: usize,
    /// Then rests for so many.
    pub(crate) cooldown: usize,
    /// Does not come before so many.
    pub(crate) delay: usize,
}

impl Timing {
    /// Whether earlier messages have to be searched too.
    pub(crate) fn looks_back(self) -> bool {
        self.keeps || self.once || self.sticky > 0 || self.cooldown > 0
    }
}

impl<'a> Settings<'a> {
    pub(crate) fn of(entry: &'a Entry, book: &Lorebook) -> Self {
        let (decorators, content) = parse_decorators(&entry.content);
        let extension = Extension(entry);
        let from_silly_tavern = extension.is_silly_tavern();
        // SillyTavern says `use_regex` of every entry; V3 says what it means.
        let regex = entry.use_regex && !from_silly_tavern;
        let secondary = (entry.selective && !entry.secondary_keys.is_empty() && !regex).then(|| extension.logic());
        let mut settings = Self {
            content,
            place: extension.place(entry),
            role: extension.role(),
            constant: entry.constant && !regex,
            activate: false,
            dont_activate: false,
            regex,
            secondary,
            additional: Vec::new(),
            exclude: Vec::new(),
            case_sensitive: entry.case_sensitive.or(extension.flag("case_sensitive")).unwrap_or(false),
            whole_words: extension.flag("match_whole_words").unwrap_or(false),
            scan_depth: extension
                .count("scan_depth")
                .or(book.scan_depth.map(|depth| depth.max(0.0) as usize))
                .unwrap_or(SCAN_DEPTH),
            only_after: 0,
            only_every: 1,
            greeting: None,
            user_icon: None,
            timing: Timing {
                sticky: extension.count("sticky").unwrap_or(0),
                cooldown: extension.count("cooldown").unwrap_or(0),
                delay: extension.count("delay").unwrap_or(0),
                ..Timing::default()
            },
            chance: extension.chance(),
            groups: by_commas(extension.text("group")),
            group_override: extension.flag("group_override").unwrap_or(false),
            group_weight: extension.number("group_weight").unwrap_or(100.0).max(0.0),
            feeds_recursion: !extension.flag("prevent_recursion").unwrap_or(false),
            found_by_recursion: book.recursive_scanning && !extension.flag("exclude_recursion").unwrap_or(false),
            only_by_recursion: extension.flag("delay_until_recursion").unwrap_or(false),
            first_to_drop: false,
            ignores_budget: extension.flag("ignore_budget").unwrap_or(false),
            disables: Vec::new(),
        };
        settings.apply(decorators);
        settings
    }

    fn apply(&mut self, decorators: Vec<Decorator>) {
        let position = decorators.iter().find_map(|decorator| match decorator {
            Decorator::Position(position) => Some(*position),
            _ => None,
        });
        for decorator in decorators {
            match decorator {
                Decorator::ActivateOnlyAfter(count) => self.only_after = count,
                Decorator::ActivateOnlyEvery(count) => self.only_every = count.max(1),
                Decorator::KeepActivateAfterMatch => self.timing.keeps = true,
                Decorator::DontActivateAfterMatch => self.timing.once = true,
                Decorator::Activate => self.activate = true,
                Decorator::DontActivate => self.dont_activate = true,
                Decorator::Depth(depth) => self.place = Some(LorePlace::Depth(depth)),
                Decorator::ReverseDepth(depth) => self.place = Some(LorePlace::ReverseDepth(depth)),
                Decorator::Role(role) => self.role = role,
                Decorator::ScanDepth(depth) => self.scan_depth = depth,
                Decorator::IsGreeting(number) => self.greeting = Some(number),
                Decorator::IgnoreOnMaxContext => self.first_to_drop = true,
                Decorator::AdditionalKeys(keys) => self.additional.push(keys),
                Decorator::ExcludeKeys(keys) => self.exclude = keys,
                Decorator::IsUserIcon(icon) => self.user_icon = Some(icon),
                Decorator::DisableUiPrompt(prompt) => self.disables.push(prompt),
                Decorator::Position(_) => {}
            }
        }
        if let Some(position) = position {
            self.place = Some(match position {
                DecoratedPosition::BeforeDescription => LorePlace::BeforeDescription,
                DecoratedPosition::AfterDescription => LorePlace::AfterDescription,
                DecoratedPosition::Personality => LorePlace::Personality,
                DecoratedPosition::Scenario => LorePlace::Scenario,
            });
        }
    }
}

/// An entry's `extensions` as `SillyTavern` fills them.
struct Extension<'a>(&'a Entry);

impl<'a> Extension<'a> {
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.0.extensions.get(key)
    }

    fn is_silly_tavern(&self) -> bool {
        ["selectiveLogic", "useProbability", "display_index"].iter().any(|key| self.0.extensions.contains_key(*key))
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.value(key)?.as_f64()
    }

    fn count(&self, key: &str) -> Option<usize> {
        self.number(key).map(|number| number.max(0.0) as usize)
    }

    fn flag(&self, key: &str) -> Option<bool> {
        match self.value(key)? {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => Some(number.as_f64() != Some(0.0)),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> &'a str {
        self.value(key).and_then(Value::as_str).unwrap_or_default()
    }

    fn logic(&self) -> SecondaryLogic {
        match self.count("selectiveLogic") {
            Some(1) => SecondaryLogic::NotAll,
            Some(2) => SecondaryLogic::None,
            Some(3) => SecondaryLogic::All,
            _ => SecondaryLogic::Any,
        }
    }

    fn chance(&self) -> f64 {
        if self.flag("useProbability") == Some(false) { 100.0 } else { self.number("probability").unwrap_or(100.0) }
    }

    fn role(&self) -> Role {
        match self.count("role") {
            Some(1) => Role::User,
            Some(2) => Role::Assistant,
            _ => Role::System,
        }
    }

    fn place(&self, entry: &Entry) -> Option<LorePlace> {
        let Some(position) = self.count("position") else {
            return Some(match entry.position {
                Some(EntryPosition::AfterCharacter) => LorePlace::AfterCharacter,
                _ => LorePlace::BeforeCharacter,
            });
        };
        match position {
            0 => Some(LorePlace::BeforeCharacter),
            1 => Some(LorePlace::AfterCharacter),
            // 2 and 3 are the author's note, which stands at this depth unless its user moved it.
            2 | 3 => Some(LorePlace::Depth(DEPTH)),
            4 => Some(LorePlace::Depth(self.count("depth").unwrap_or(DEPTH))),
            5 => Some(LorePlace::BeforeExamples),
            6 => Some(LorePlace::AfterExamples),
            _ => None,
        }
    }
}

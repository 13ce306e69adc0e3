//! Character cards: reading, writing, and the prompts that front ends make of them.
//!
//! - [`CardFile`] is a file with a card in it, [`Card`] what the card says: V1, V2 and V3 from JSON, PNG, APNG and CHARX.
//!   Reading and writing lose nothing: unknown fields, other chunks of the picture, other files of the archive.
//! - A card is made of a native character and back by [`Card::from_character`] and [`Card::to_character`].
//! - [`build_prompt`] makes the prompt of a chat, with macros ([`Macros`]), examples and lorebooks ([`Lorebook`]), and
//!   says of every lorebook entry what became of it.
//! - [`read_folder`] reads a folder of cards, [`avatar_png`] draws a picture for a character that has none.
//!
//! A card is hostile input. Nothing of it is executed, fetched, or unpacked to disk; what is read is bounded in memory
//! and time, and errors ([`CardError`]) name the place. Nothing here opens a connection.

mod asset;
mod avatar;
mod card;
mod character;
mod charx;
mod data_address;
mod decorators;
mod entry;
mod error;
mod examples;
mod fields;
mod file;
mod file_write;
mod folder;
mod json;
mod limits;
mod lore;
mod lorebook;
mod macros;
mod pattern;
mod png;
mod png_text;
mod prompt;
mod spec;
mod warning;
mod world_info;

pub use asset::{Asset, AssetAddress};
pub use avatar::avatar_png;
pub use card::Card;
pub use entry::{Entry, EntryPosition};
pub use error::CardError;
pub use examples::split_examples;
pub use fields::Kept;
pub use file::{CardFile, CardFormat, WrittenCard};
pub use folder::{Folder, FolderEntry, read_folder};
pub use lore::{Because, LeftOut, LorePlace, LoreTrace, Outcome};
pub use lorebook::Lorebook;
pub use macros::{Audience, DrawKey, Macros};
pub use prompt::{LeftOutPart, Prompt, PromptPart, PromptRequest, Section, build_prompt};
pub use spec::Spec;
pub use warning::Warning;

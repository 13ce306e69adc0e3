//! The server over real connections, with a model that is made up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop there")]

mod characters;
mod chats;
mod connections;
mod openai;
mod page;
mod parrot;
mod served;

//! Models and characters over HTTP: an API that `OpenAI`'s clients speak, characters as models, chats that are kept, and
//! a web page.
//!
//! [`Server::bind`] takes models ([`ServedModel`]) and one who invents characters and loads their adapters ([`Workshop`]); [`Server::run`] serves
//! until it is told to stop, and then lets open answers end.
//!
//! # Who may ask what
//!
//! By default it listens on loopback, where every program of this machine may ask, and so may any web page that its user
//! opens: browsers let pages send requests anywhere. So a request that names another host (`Host`) or comes from
//! another page (`Origin`) is refused, whatever it asks. Bound elsewhere it needs a key. Bodies, headers, the time
//! that they take and the number of open requests are bounded.
//!
//! A card is hostile input. What of it is shown is text, or Markdown made harmless by a sanitiser; the page's policy
//! lets it load nothing from elsewhere and run no script but its own.

mod adapters;
mod app;
mod character_chat;
mod characters;
mod error;
mod gate;
mod guard;
mod id;
mod markdown;
mod metrics;
mod model;
mod openai;
mod page;
mod respond;
mod runs;
mod server;
mod sessions;
mod store;
mod tokens;

pub use error::ServeError;
pub use model::{Heard, Listener, ServedModel, Workshop};
#[doc(hidden)]
pub use openai::check_request;
pub use server::{ServeOptions, Server};

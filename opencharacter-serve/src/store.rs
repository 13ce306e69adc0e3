//! Characters and chats in one `SQLite` file.
//!
//! A chat is a tree: each message names the one before it. Swipes are messages with the same parent, a branch is a
//! path, and the session remembers the leaf that is shown. Nothing is overwritten by talking on.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use opencharacter_card::{Card, CardFile, CardFormat, Spec};
use opencharacter_core::Role;
use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};
use serde::Serialize;

use crate::{ServeError, error::ApiError, id::random_id};

/// The database. Every use takes well under a millisecond, so one connection serves all.
pub(crate) struct Store(Mutex<Connection>);

/// A character in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Listed {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) persona: String,
}

/// A chat in a list.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Session {
    pub(crate) id: String,
    pub(crate) character_id: String,
    pub(crate) user_name: String,
    /// The last message of the branch that is shown.
    pub(crate) leaf: Option<i64>,
    pub(crate) created: i64,
    pub(crate) updated: i64,
    /// What messages said that no longer fit the model's context.
    #[serde(skip)]
    pub(crate) summary: String,
    /// The last message that the summary covers.
    #[serde(skip)]
    pub(crate) summarised: Option<i64>,
}

/// A message of a chat.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Said {
    pub(crate) id: i64,
    pub(crate) parent: Option<i64>,
    pub(crate) role: Role,
    pub(crate) content: String,
    /// The model that said it; none for the user's words, greetings and what was edited.
    pub(crate) model: Option<String>,
    /// What was inserted into its prompt, and why.
    #[serde(skip)]
    pub(crate) trace: Option<String>,
    pub(crate) created: i64,
}

/// A message to be kept.
pub(crate) struct NewMessage<'a> {
    pub(crate) parent: Option<i64>,
    pub(crate) role: Role,
    pub(crate) content: &'a str,
    pub(crate) model: Option<&'a str>,
    pub(crate) trace: Option<&'a str>,
}

/// Version of the tables; a file of a later one is refused.
const FORMAT: i64 = 1;

const TABLES: &str = "
CREATE TABLE characters(
    id TEXT PRIMARY KEY, name TEXT NOT NULL, persona TEXT NOT NULL,
    -- The file as it came or was last written, and its card alone for quick reading.
    file BLOB NOT NULL, card TEXT NOT NULL, created INTEGER NOT NULL, updated INTEGER NOT NULL
) STRICT;
CREATE TABLE sessions(
    id TEXT PRIMARY KEY, character_id TEXT NOT NULL REFERENCES characters(id) ON DELETE CASCADE,
    user_name TEXT NOT NULL, leaf INTEGER, summary TEXT NOT NULL DEFAULT '', summarised INTEGER,
    created INTEGER NOT NULL, updated INTEGER NOT NULL
) STRICT;
CREATE INDEX sessions_by_character ON sessions(character_id);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY, session_id TEXT NOT NULL REFERENCES sessions(id) ON DELETE CASCADE,
    parent INTEGER, role TEXT NOT NULL, content TEXT NOT NULL, model TEXT, trace TEXT, created INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_by_session ON messages(session_id);
CREATE TABLE preferences(
    id INTEGER PRIMARY KEY, character_id TEXT NOT NULL, pair TEXT NOT NULL, created INTEGER NOT NULL
) STRICT;
";

pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl Store {
    /// Opens or makes the file at `path`; without one, everything is in memory.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self, ServeError> {
        let failed =
            |reason: String| ServeError::Store { path: path.unwrap_or(Path::new(":memory:")).to_owned(), reason };
        let connection = match path {
            Some(path) => {
                if let Some(folder) = path.parent() {
                    std::fs::create_dir_all(folder).map_err(|error| failed(error.to_string()))?;
                }
                Connection::open(path)
            }
            None => Connection::open_in_memory(),
        };
        let prepare = |connection: &Connection| {
            connection.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;")?;
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            let format: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            if format == 0 {
                connection.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version={FORMAT}; COMMIT;"))?;
            }
            Ok::<_, rusqlite::Error>(format)
        };
        let connection = connection.map_err(|error| failed(error.to_string()))?;
        match prepare(&connection) {
            Ok(0 | FORMAT) => Ok(Self(Mutex::new(connection))),
            Ok(format) => {
                Err(failed(format!("its format is {format}, and this version of the program knows {FORMAT}")))
            }
            Err(error) => Err(failed(error.to_string())),
        }
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        // Whatever panicked, a transaction was rolled back by it.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn within<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, ApiError>) -> Result<T, ApiError> {
        let mut connection = self.connection();
        let transaction = connection.transaction()?;
        let done = work(&transaction)?;
        transaction.commit()?;
        Ok(done)
    }

    /// Adds those cards whose characters are not there yet; how many that were.
    pub(crate) fn add_new(&self, cards: &[CardFile]) -> Result<usize, ServeError> {
        let added = self.within(|transaction| {
            let mut added = 0;
            for file in cards {
                let id = file.card.to_character().character_id;
                let known: Option<i64> = transaction
                    .query_row("SELECT 1 FROM characters WHERE id = ?", [&id], |row| row.get(0))
                    .optional()?;
                if known.is_none() {
                    put(transaction, file, file.format())?;
                    added += 1;
                }
            }
            Ok(added)
        });
        added.map_err(|error| ServeError::Store { path: "characters".into(), reason: error.message })
    }

    /// Keeps a card under its character's id, in place of what was there; the id.
    pub(crate) fn put_card(&self, file: &CardFile) -> Result<String, ApiError> {
        self.within(|transaction| put(transaction, file, file.format()))
    }

    /// Characters in whose name or persona `search` occurs, by name.
    pub(crate) fn characters(&self, search: &str, limit: usize, offset: usize) -> Result<Vec<Listed>, ApiError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, name, persona FROM characters
             WHERE instr(lower(name), lower(?1)) OR instr(lower(persona), lower(?1))
             ORDER BY name COLLATE NOCASE, id LIMIT ?2 OFFSET ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement.query_map(params![search, limit, offset as i64], |row| {
            Ok(Listed { id: row.get(0)?, name: row.get(1)?, persona: row.get(2)? })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A character's card.
    pub(crate) fn card(&self, id: &str) -> Result<Option<Card>, ApiError> {
        let json: Option<String> = self
            .connection()
            .prepare_cached("SELECT card FROM characters WHERE id = ?")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        json.map(|json| Card::parse(json.as_bytes(), "card").map(|(card, _)| card))
            .transpose()
            .map_err(|error| ApiError::internal(format!("the card of `{id}` cannot be read: {error}")))
    }

    /// A character's card with all that came with it.
    pub(crate) fn file(&self, id: &str) -> Result<Option<CardFile>, ApiError> {
        let bytes: Option<Vec<u8>> = self
            .connection()
            .prepare_cached("SELECT file FROM characters WHERE id = ?")?
            .query_row([id], |row| row.get(0))
            .optional()?;
        bytes
            .map(|bytes| CardFile::parse(&bytes))
            .transpose()
            .map_err(|error| ApiError::internal(format!("the card of `{id}` cannot be read: {error}")))
    }

    /// Removes a character and its chats; false where there is none.
    pub(crate) fn remove_character(&self, id: &str) -> Result<bool, ApiError> {
        Ok(self.connection().execute("DELETE FROM characters WHERE id = ?", [id])? > 0)
    }

    /// Begins a chat.
    pub(crate) fn begin(&self, character_id: &str, user_name: &str) -> Result<Session, ApiError> {
        let (id, now) = (random_id(), now());
        self.connection().execute(
            "INSERT INTO sessions(id, character_id, user_name, created, updated) VALUES (?, ?, ?, ?, ?)",
            params![id, character_id, user_name, now, now],
        )?;
        Ok(Session {
            id,
            character_id: character_id.to_owned(),
            user_name: user_name.to_owned(),
            leaf: None,
            created: now,
            updated: now,
            summary: String::new(),
            summarised: None,
        })
    }

    /// Chats, the latest first; of one character where one is named.
    pub(crate) fn sessions(&self, character_id: Option<&str>) -> Result<Vec<Session>, ApiError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(&format!(
            "SELECT {SESSION} FROM sessions WHERE ?1 IS NULL OR character_id = ?1 ORDER BY updated DESC, id LIMIT 500"
        ))?;
        let rows = statement.query_map([character_id], session)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// A chat.
    pub(crate) fn session(&self, id: &str) -> Result<Session, ApiError> {
        let found = self
            .connection()
            .prepare_cached(&format!("SELECT {SESSION} FROM sessions WHERE id = ?"))?
            .query_row([id], session)
            .optional()?;
        found.ok_or_else(|| ApiError::missing(format!("there is no session `{id}`")))
    }

    /// Removes a chat; false where there is none.
    pub(crate) fn remove_session(&self, id: &str) -> Result<bool, ApiError> {
        Ok(self.connection().execute("DELETE FROM sessions WHERE id = ?", [id])? > 0)
    }

    /// All messages of a chat, in the order in which they were said.
    pub(crate) fn messages(&self, session_id: &str) -> Result<Vec<Said>, ApiError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached(
            "SELECT id, parent, role, content, model, trace, created FROM messages WHERE session_id = ? ORDER BY id",
        )?;
        let rows = statement.query_map([session_id], |row| {
            let role: String = row.get(2)?;
            Ok(Said {
                id: row.get(0)?,
                parent: row.get(1)?,
                role: if role == "user" { Role::User } else { Role::Assistant },
                content: row.get(3)?,
                model: row.get(4)?,
                trace: row.get(5)?,
                created: row.get(6)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Keeps a message and shows the branch that it ends; its id.
    pub(crate) fn say(&self, session_id: &str, message: &NewMessage<'_>) -> Result<i64, ApiError> {
        self.within(|transaction| {
            let role = if message.role == Role::User { "user" } else { "assistant" };
            transaction.execute(
                "INSERT INTO messages(session_id, parent, role, content, model, trace, created)
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                params![session_id, message.parent, role, message.content, message.model, message.trace, now()],
            )?;
            let id = transaction.last_insert_rowid();
            set_leaf(transaction, session_id, id)?;
            Ok(id)
        })
    }

    /// Shows the branch that a message ends.
    pub(crate) fn show_leaf(&self, session_id: &str, leaf: i64) -> Result<(), ApiError> {
        self.within(|transaction| set_leaf(transaction, session_id, leaf))
    }

    /// Keeps what the messages up to one said.
    pub(crate) fn summarise(&self, session_id: &str, summary: &str, last: i64) -> Result<(), ApiError> {
        self.connection().execute(
            "UPDATE sessions SET summary = ?, summarised = ? WHERE id = ?",
            params![summary, last, session_id],
        )?;
        Ok(())
    }

    /// Keeps a preference, a JSON document.
    pub(crate) fn prefer(&self, character_id: &str, pair: &str) -> Result<(), ApiError> {
        self.connection().execute(
            "INSERT INTO preferences(character_id, pair, created) VALUES (?, ?, ?)",
            params![character_id, pair, now()],
        )?;
        Ok(())
    }

    /// All preferences, in the order in which they were given.
    pub(crate) fn preferences(&self) -> Result<Vec<String>, ApiError> {
        let connection = self.connection();
        let mut statement = connection.prepare_cached("SELECT pair FROM preferences ORDER BY id")?;
        let rows = statement.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

const SESSION: &str = "id, character_id, user_name, leaf, created, updated, summary, summarised";

fn session(row: &Row<'_>) -> rusqlite::Result<Session> {
    Ok(Session {
        id: row.get(0)?,
        character_id: row.get(1)?,
        user_name: row.get(2)?,
        leaf: row.get(3)?,
        created: row.get(4)?,
        updated: row.get(5)?,
        summary: row.get(6)?,
        summarised: row.get(7)?,
    })
}

fn set_leaf(transaction: &Transaction<'_>, session_id: &str, leaf: i64) -> Result<(), ApiError> {
    transaction.execute("UPDATE sessions SET leaf = ?, updated = ? WHERE id = ?", params![leaf, now(), session_id])?;
    Ok(())
}

fn put(transaction: &Transaction<'_>, file: &CardFile, format: CardFormat) -> Result<String, ApiError> {
    let refused = |error: opencharacter_card::CardError| ApiError::invalid(error.to_string());
    let written = file.write(format).map_err(refused)?;
    let card = file.card.to_json(Spec::V3).to_string();
    let character = file.card.to_character();
    let now = now();
    transaction.execute(
        "INSERT INTO characters(id, name, persona, file, card, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6)
         ON CONFLICT(id) DO UPDATE SET name = ?2, persona = ?3, file = ?4, card = ?5, updated = ?6",
        params![character.character_id, file.card.display_name(), character.persona, written.bytes, card, now],
    )?;
    Ok(character.character_id)
}

//! Personas, characters, instructions and dialogues as tables.

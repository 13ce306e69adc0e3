//! Where things lie, and how they are written whole or not at all.
//!
//! A [`Location`] is what a user writes for a file or folder: a path, or the URL of an object store. [`AtomicFile`]
//! writes beside its destination and renames, so that whatever goes wrong the destination holds either its old
//! content or the new one, whole.

mod atomic_file;
mod location;

pub use atomic_file::{AtomicFile, sync_directory_of};
pub use location::{InStore, Location, StorageError};

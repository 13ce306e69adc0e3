//! What is read at most. A card is a stranger's file: each limit is far above what honest ones hold, and low enough that
//! a hostile one costs seconds and some hundred megabytes at the worst.

/// Bytes of a file in a folder of cards.
pub(crate) const FILE_BYTES: u64 = 512 << 20;
/// Bytes of a card's JSON, unpacked. Pictures written into it as `data:` addresses count.
pub(crate) const JSON_BYTES: usize = 32 << 20;
/// Values in a card's JSON: one in memory is some 70 bytes, however short it was written.
pub(crate) const JSON_VALUES: usize = 500_000;
/// Entries of a lorebook, and assets of a card, that are read as such; a longer list is kept and not used.
pub(crate) const LIST_ITEMS: usize = 20_000;
/// Chunks of a PNG.
pub(crate) const CHUNKS: usize = 100_000;
/// Files in a CHARX archive.
pub(crate) const ARCHIVE_FILES: usize = 10_000;
/// Bytes that all files of an archive say they unpack to.
pub(crate) const ARCHIVE_BYTES: u64 = 2 << 30;
/// Bytes of one asset, unpacked.
pub(crate) const ASSET_BYTES: usize = 256 << 20;
/// Bytes of assets that are written into JSON as `data:` addresses, where the container has no other place for them.
pub(crate) const INLINE_BYTES: usize = 16 << 20;
/// Warnings that are kept of one file.
pub(crate) const WARNINGS: usize = 100;

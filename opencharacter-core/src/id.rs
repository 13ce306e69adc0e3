use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// SHA-256 over the parts, each preceded by its length, so that `["ab", "c"]` and `["a", "bc"]` differ.
pub fn content_hash<P: AsRef<[u8]>>(parts: &[P]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        let bytes = part.as_ref();
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().into()
}

/// The bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// An id that follows from content: `prefix-` and 16 hexadecimal digits (64 bits) of [`content_hash`].
///
/// At 306,000 dialogues the chance of any collision is about 3e-9.
pub fn short_id<P: AsRef<[u8]>>(prefix: &str, parts: &[P]) -> String {
    format!("{prefix}-{}", hex(&content_hash(parts)[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_delimited() {
        assert_ne!(content_hash(&["ab", "c"]), content_hash(&["a", "bc"]));
        assert_eq!(short_id("c", &["x"]).len(), 18);
    }
}

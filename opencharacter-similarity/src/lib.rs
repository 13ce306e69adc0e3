//! Near-duplicate texts.

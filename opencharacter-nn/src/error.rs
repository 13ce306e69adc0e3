use std::path::PathBuf;

/// What can go wrong between a model file and a logit.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// A file could not be read or written.
    #[error("cannot {action} `{path}`: {reason}")]
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        reason: std::io::Error,
    },
    /// A model file is damaged or not what its name says.
    #[error("`{path}` is not a usable model file: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The model is of a family that is not implemented.
    #[error("`{path}`: unknown architecture `{architecture}`; known: {known}")]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// What the file says.
        architecture: String,
        /// What is implemented.
        known: &'static str,
    },
    /// The tokenizer is missing or unusable.
    #[error("`{path}`: no usable tokenizer: {reason}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The chat template is missing or fails on these messages.
    #[error("chat template: {reason}")]
    ChatTemplate {
        /// What is wrong.
        reason: String,
    },
    /// The adapter does not fit the model.
    #[error("adapter `{path}` does not fit the model: {reason}")]
    Adapter {
        /// The adapter's directory or file.
        path: PathBuf,
        /// The first mismatch.
        reason: String,
    },
    /// This model cannot be written there or in that format.
    #[error("cannot export to `{path}`: {reason}")]
    Export {
        /// The file or folder to be.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// What was written does not read back as the model that it came from.
    #[error(
        "the export gate refuses: read back, the exported model is not the one it came from: {difference}. \
         Nothing was kept"
    )]
    ExportGate {
        /// The first thing that differs.
        difference: String,
    },
    /// A sequence is longer than the model's context.
    #[error("{tokens} tokens do not fit the model's context of {context}")]
    TooLong {
        /// Tokens of the sequence.
        tokens: usize,
        /// The model's limit.
        context: usize,
    },
    /// The tensor library refused an operation; a bug here rather than a user's mistake.
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
}

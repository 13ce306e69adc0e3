use serde::{Deserialize, Serialize};

/// The shape of a decoder of the Llama family.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DecoderConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Number of blocks.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; divides the query heads (grouped-query attention).
    pub num_key_value_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Base of the rotary embedding's frequencies.
    pub rope_theta: f32,
    /// What each of the rotary embedding's `head_dim / 2` frequencies is divided by (Llama 3's scaling, or linear
    /// interpolation); empty where there is no scaling.
    pub rope_factors: Vec<f32>,
    /// A token sees itself and at most so many minus one before it (Mistral); all of them where there is none.
    pub sliding_window: Option<usize>,
    /// Added to the mean square in RMS normalisation.
    pub rms_norm_eps: f32,
    /// Longest sequence in tokens.
    pub max_position_embeddings: usize,
    /// Whether the output head is the embedding.
    pub tie_word_embeddings: bool,
}

impl DecoderConfig {
    /// Query heads that share one key and value head.
    pub fn group_size(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Features of all query heads.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Features of all key heads, and of all value heads.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Checks that the numbers can belong to one model; the error says which do not.
    pub fn validate(&self) -> Result<(), String> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{name}` is 0"));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return Err(format!(
                "{} query heads cannot share {} key and value heads evenly",
                self.num_attention_heads, self.num_key_value_heads
            ));
        }
        if !self.rope_factors.is_empty() && self.rope_factors.len() != self.head_dim / 2 {
            return Err(format!(
                "{} factors of RoPE scaling do not fit heads of width {}",
                self.rope_factors.len(),
                self.head_dim
            ));
        }
        if self.rope_factors.iter().any(|factor| !factor.is_finite() || *factor <= 0.0) {
            return Err("a factor of RoPE scaling is not a positive number".into());
        }
        if self.sliding_window == Some(0) {
            return Err("the sliding window holds no token".into());
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head width {} is odd; rotary embedding needs pairs", self.head_dim));
        }
        Ok(())
    }
}

/// The linear layers of a block, in the order in which the forward pass meets them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinearName {
    /// Query projection.
    QProj,
    /// Key projection.
    KProj,
    /// Value projection.
    VProj,
    /// Attention's output projection.
    OProj,
    /// Gate of the feed-forward part.
    GateProj,
    /// Up projection of the feed-forward part.
    UpProj,
    /// Down projection of the feed-forward part.
    DownProj,
}

impl LinearName {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::QProj, Self::KProj, Self::VProj, Self::OProj, Self::GateProj, Self::UpProj, Self::DownProj];

    /// The name in Hugging Face models and PEFT adapters.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QProj => "q_proj",
            Self::KProj => "k_proj",
            Self::VProj => "v_proj",
            Self::OProj => "o_proj",
            Self::GateProj => "gate_proj",
            Self::UpProj => "up_proj",
            Self::DownProj => "down_proj",
        }
    }

    /// The submodule that holds it in Hugging Face models.
    pub fn module(self) -> &'static str {
        match self {
            Self::QProj | Self::KProj | Self::VProj | Self::OProj => "self_attn",
            Self::GateProj | Self::UpProj | Self::DownProj => "mlp",
        }
    }

    /// The name in GGUF files, without `blk.N.` and `.weight`.
    pub fn gguf(self) -> &'static str {
        match self {
            Self::QProj => "attn_q",
            Self::KProj => "attn_k",
            Self::VProj => "attn_v",
            Self::OProj => "attn_output",
            Self::GateProj => "ffn_gate",
            Self::UpProj => "ffn_up",
            Self::DownProj => "ffn_down",
        }
    }

    /// `(outputs, inputs)` of the layer in a model of `config`.
    pub fn shape(self, config: &DecoderConfig) -> (usize, usize) {
        match self {
            Self::QProj => (config.query_size(), config.hidden_size),
            Self::KProj | Self::VProj => (config.key_value_size(), config.hidden_size),
            Self::OProj => (config.hidden_size, config.query_size()),
            Self::GateProj | Self::UpProj => (config.intermediate_size, config.hidden_size),
            Self::DownProj => (config.hidden_size, config.intermediate_size),
        }
    }

    /// Its place in [`LinearName::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

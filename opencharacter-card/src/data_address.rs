//! `data:` addresses (RFC 2397) in base64, as cards use them.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{CardError, limits, png_text::decode_base64};

/// The content of what follows `data:`; `name` is the asset's.
pub(crate) fn decode(data: &str, name: &str) -> Result<Vec<u8>, CardError> {
    let place = format!("asset `{}`", name.chars().take(60).collect::<String>());
    match data.split_once(',') {
        Some((head, text)) if head.trim_end().to_ascii_lowercase().ends_with(";base64") => {
            decode_base64(text.as_bytes(), &place, limits::ASSET_BYTES)
        }
        _ => Err(CardError::encoding(&place, "expected `data:TYPE;base64,...`")),
    }
}

/// The content as an address.
pub(crate) fn encode(ext: &str, content: &[u8]) -> String {
    let kind = match ext {
        "png" | "apng" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "mp3" => "audio/mpeg",
        "mp4" => "video/mp4",
        _ => "application/octet-stream",
    };
    format!("data:{kind};base64,{}", STANDARD.encode(content))
}

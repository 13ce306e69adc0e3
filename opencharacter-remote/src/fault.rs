use std::time::Duration;

use reqwest::{StatusCode, header::HeaderMap};

/// Why one try of a call brought no answer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// The endpoint has too much to do: fewer calls at once, and not before the pause that it may have asked for.
    Overloaded { reason: String, retry_after: Option<Duration> },
    /// Broken this time: connection, server, timeout, half an answer.
    Transient(String),
    /// An answer that is none: empty, without an end, JSON that breaks its schema.
    Malformed(String),
    /// An answer that is not what its schema asks for.
    BreaksSchema { answer: String, reason: String },
    /// The endpoint will not have this request as it is.
    Rejected { status: u16, reason: String },
    /// The endpoint will have no request of ours: wrong key, unknown model.
    Unusable(String),
}

impl Fault {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Self::Overloaded { reason, .. }
            | Self::Transient(reason)
            | Self::Malformed(reason)
            | Self::BreaksSchema { reason, .. }
            | Self::Rejected { reason, .. }
            | Self::Unusable(reason) => reason,
        }
    }

    /// What a reply that is no success means. `body` is what came with it, perhaps cut.
    pub(crate) fn of_reply(status: StatusCode, headers: &HeaderMap, body: &str) -> Self {
        let reason = format!("HTTP {status}: {}", said(body));
        match status.as_u16() {
            // A spent quota comes as 429 too, but no pause will bring it back.
            429 if body.contains("insufficient_quota") => Self::Unusable(reason),
            // 529 is how some say that they are overloaded.
            429 | 503 | 529 => Self::Overloaded { reason, retry_after: retry_after(headers) },
            408 | 409 | 425 | 500..=599 => Self::Transient(reason),
            // Not 403, with which some refuse a single prompt.
            401 | 402 | 404 => Self::Unusable(reason),
            status => Self::Rejected { status, reason },
        }
    }

    pub(crate) fn of_transport(error: &reqwest::Error) -> Self {
        // The address is in every message of reqwest's and may be long; the cause is what helps.
        let mut cause: &dyn std::error::Error = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        if error.is_timeout() {
            Self::Transient("no answer in time".into())
        } else {
            Self::Transient(cause.to_string())
        }
    }
}

/// The message in an error's body, or its beginning.
fn said(body: &str) -> String {
    const SHOWN: usize = 300;
    let json: Option<serde_json::Value> = serde_json::from_str(body).ok();
    let message = json.as_ref().and_then(|json| {
        let error = &json["error"];
        error["message"].as_str().or(error.as_str()).or(json["message"].as_str()).or(json["detail"].as_str())
    });
    let text = message.unwrap_or(body).trim();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None if text.is_empty() => "no message".into(),
        None => text.to_owned(),
    }
}

/// `Retry-After` in seconds, or `retry-after-ms`. Dates are left to the growing pauses: clocks differ.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let seconds =
        number("retry-after-ms").map(|milliseconds| milliseconds / 1000.0).or_else(|| number("retry-after"))?;
    // An hour is longer than any run should sleep unseen.
    Duration::try_from_secs_f64(seconds.clamp(0.0, 3600.0)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(status: u16, header: Option<(&'static str, &'static str)>, body: &str) -> Fault {
        let mut headers = HeaderMap::new();
        if let Some((name, value)) = header {
            headers.insert(name, value.parse().unwrap());
        }
        Fault::of_reply(StatusCode::from_u16(status).unwrap(), &headers, body)
    }

    #[test]
    fn replies_are_sorted_by_what_can_help() {
        let pause = |fault| match fault {
            Fault::Overloaded { retry_after, .. } => retry_after,
            other => panic!("{other:?}"),
        };
        assert_eq!(pause(fault(429, Some(("retry-after", "7")), "")), Some(Duration::from_secs(7)));
        assert_eq!(pause(fault(429, Some(("retry-after-ms", "250")), "")), Some(Duration::from_millis(250)));
        assert_eq!(pause(fault(503, Some(("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT")), "")), None);
        assert_eq!(pause(fault(529, Some(("retry-after", "-5")), "")), Some(Duration::ZERO));
        assert_eq!(pause(fault(429, Some(("retry-after", "1e99")), "")), Some(Duration::from_hours(1)));
        assert!(matches!(fault(500, None, "oops"), Fault::Transient(_)));
        assert!(matches!(fault(401, None, ""), Fault::Unusable(_)));
        assert!(matches!(fault(429, None, r#"{"error": {"code": "insufficient_quota"}}"#), Fault::Unusable(_)));
        let Fault::Rejected { status: 400, reason } = fault(400, None, r#"{"error": {"message": "too long"}}"#) else {
            panic!("a wrong request is no other's fault");
        };
        assert!(reason.contains("too long"), "{reason}");
    }
}

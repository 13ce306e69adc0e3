//! Who may ask at all.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use hyper::{
    HeaderMap,
    header::{AUTHORIZATION, HOST, HeaderValue, ORIGIN},
};

use crate::{app::App, error::ApiError};

/// Turns away whom [`check`] refuses, counts every reply, and gives each the headers that keep a browser careful.
pub(crate) async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let open = matches!(request.uri().path(), "/health" | "/" | "/app.js" | "/style.css" | "/icon.svg");
    let mut response = match check(&app, request.headers(), open) {
        Ok(()) => next.run(request).await,
        Err(error) => error.into_response(),
    };
    app.metrics.replied(response.status().as_u16());
    let headers = response.headers_mut();
    let mut set = |name: &'static str, value: &'static str| {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    };
    set("x-content-type-options", "nosniff");
    set("referrer-policy", "no-referrer");
    set("cross-origin-resource-policy", "same-origin");
    // Whatever a character's card made its way into: a picture opened by itself runs nothing.
    set("content-security-policy", "default-src 'none'; frame-ancestors 'none'; sandbox");
    response
}

/// `open` is what a browser must load before it can be given a key; none of it tells anything.
fn check(app: &App, headers: &HeaderMap, open: bool) -> Result<(), ApiError> {
    let host = text(headers, HOST.as_str()).unwrap_or_default();
    // A name that somebody else's server resolves to this machine makes their page's requests look like our own.
    if app.key.is_none() && !is_loopback(host) && !app.listens_on(host) {
        return Err(ApiError::forbidden(format!("this server is not `{host}`; ask it by the address it listens on")));
    }
    if let Some(origin) = text(headers, ORIGIN.as_str()) {
        let own = origin.split_once("://").is_some_and(|(_, authority)| authority == host);
        if !own {
            return Err(ApiError::forbidden(format!("requests from pages of `{origin}` are refused")));
        }
    }
    match &app.key {
        Some(key) if !open => {
            let given = text(headers, AUTHORIZATION.as_str()).and_then(|value| value.strip_prefix("Bearer "));
            if given.is_some_and(|given| equal(given.trim().as_bytes(), key.as_bytes())) {
                Ok(())
            } else {
                Err(ApiError::no_key())
            }
        }
        _ => Ok(()),
    }
}

fn text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

fn is_loopback(host: &str) -> bool {
    let (name, rest) = match host.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some(parts) => parts,
        None => host.split_once(':').map_or((host, ""), |(name, _)| (name, "")),
    };
    let is_local = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    is_local && (rest.is_empty() || rest.starts_with(':'))
}

/// In a time that does not tell how much of the key was right.
fn equal(first: &[u8], second: &[u8]) -> bool {
    first.len() == second.len() && first.iter().zip(second).fold(0, |sum, (one, other)| sum | (one ^ other)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_many_names_and_no_others() {
        for host in ["localhost", "localhost:8080", "127.0.0.1:80", "127.8.8.8", "[::1]:8080", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.com",
            "localhost.example.com:80",
            "127.0.0.1.example.com",
            "10.0.0.1:80",
            "127.0.0.1@x",
            "[::1]x",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
        assert!(equal(b"key", b"key") && !equal(b"key", b"kez") && !equal(b"key", b"ke"));
    }
}

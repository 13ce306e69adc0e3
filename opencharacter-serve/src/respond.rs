//! Requests' bodies in, documents out.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
    response::Response,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::{StatusCode, header::CONTENT_TYPE, http::request::Parts};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use crate::error::ApiError;

/// A body larger than this is refused: a card with its pictures fits.
pub(crate) const LARGEST_BODY: usize = 64 << 20;
/// A body must come within this time.
const BODY_TIME: Duration = Duration::from_mins(1);

/// A request's whole body.
pub(crate) struct Whole(pub(crate) Bytes);

impl<S: Sync> FromRequest<S> for Whole {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = Limited::new(request.into_body(), LARGEST_BODY).collect();
        match tokio::time::timeout(BODY_TIME, body).await {
            Err(_) => Err(ApiError::slow()),
            Ok(Ok(body)) => Ok(Self(body.to_bytes())),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(LARGEST_BODY)),
            Ok(Err(error)) => Err(ApiError::invalid(format!("the request's body broke off: {error}"))),
        }
    }
}

/// A request's body, which is JSON whatever its content type says.
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let Whole(bytes) = Whole::from_request(request, state).await?;
        read_json(&bytes).map(Self)
    }
}

/// A document from a request's body.
pub(crate) fn read_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let error = match serde_json::from_slice(bytes) {
        Ok(document) => return Ok(document),
        Err(error) => error,
    };
    // JSON makes no difference between 3 and 3.0, and some clients write the latter.
    let levelled = serde_json::from_slice(bytes).ok().and_then(|document| serde_json::from_value(whole(document)).ok());
    levelled.ok_or_else(|| ApiError::invalid(format!("the request's body is not what is expected here: {error}")))
}

/// `document` with numbers that are whole written as such.
fn whole(document: Value) -> Value {
    match document {
        Value::Number(number) => {
            let exact = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < 9e15);
            match exact {
                Some(value) if number.is_f64() => Value::from(value as i64),
                _ => Value::Number(number),
            }
        }
        Value::Array(items) => items.into_iter().map(whole).collect(),
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, whole(value))).collect(),
        other => other,
    }
}

/// What stands after the `?`.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Query::from_request_parts(parts, state).await;
        read.map(|axum::extract::Query(query)| Self(query)).map_err(|error| ApiError::invalid(error.body_text()))
    }
}

/// The part of the address that stands for an id.
pub(crate) struct Id(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(id)| Self(id)).map_err(|error| ApiError::invalid(error.body_text()))
    }
}

/// A JSON document.
pub(crate) fn json_response(status: StatusCode, document: &impl Serialize) -> Response {
    // Documents are made of strings, numbers and lists.
    let bytes = serde_json::to_vec(document).unwrap_or_default();
    response(status, "application/json", bytes)
}

/// 200 with a JSON document.
pub(crate) fn found(document: &impl Serialize) -> Response {
    json_response(StatusCode::OK, document)
}

/// Any document.
pub(crate) fn response(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}

//! What a mock's replies are made of.

use std::{convert::Infallible, io};

use futures_util::stream;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Response, StatusCode,
    body::{Bytes, Frame},
};
use serde_json::{Value, json};

pub(super) type Body = BoxBody<Bytes, io::Error>;

/// An answer as the wire carries it.
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) finish: Option<&'static str>,
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
}

impl Answer {
    /// The text in ten tokens' answer, a token being a word.
    pub(super) fn of(text: String, finish: Option<&'static str>) -> Self {
        let completion_tokens = text.split_whitespace().count();
        Self { text, finish, prompt_tokens: 10, completion_tokens }
    }

    fn usage(&self) -> Value {
        let total = self.prompt_tokens + self.completion_tokens;
        json!({"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens, "total_tokens": total})
    }

    /// A chat completion.
    pub(super) fn completion(&self) -> Value {
        let message = json!({"role": "assistant", "content": self.text});
        json!({
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "finish_reason": self.finish}],
            "usage": self.usage(),
        })
    }

    /// A chat completion in server-sent events, word by word.
    pub(super) fn streamed(&self) -> Response<Body> {
        let words = self.text.split_inclusive(' ');
        let mut events: Vec<Value> = words.map(|word| json!({"choices": [{"delta": {"content": word}}]})).collect();
        events.push(json!({"choices": [{"delta": {}, "finish_reason": self.finish}]}));
        events.push(json!({"choices": [], "usage": self.usage()}));
        let lines = events.iter().map(Value::to_string).chain(["[DONE]".to_owned()]);
        let body: String = lines.flat_map(|line| ["data: ".to_owned(), line, "\n\n".to_owned()]).collect();
        with(StatusCode::OK, &[("content-type", "text/event-stream".into())], boxed(body.into_bytes()))
    }
}

fn boxed(bytes: Vec<u8>) -> Body {
    Full::new(Bytes::from(bytes)).map_err(|never: Infallible| match never {}).boxed()
}

fn with(status: StatusCode, headers: &[(&'static str, String)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(*name, value);
        }
    }
    response
}

pub(super) fn whole(bytes: Vec<u8>) -> Response<Body> {
    with(StatusCode::OK, &[("content-type", "application/json".into())], boxed(bytes))
}

pub(super) fn error(status: StatusCode, message: &str, retry_after: Option<u64>) -> Response<Body> {
    let headers: Vec<_> = retry_after.map(|seconds| ("retry-after", seconds.to_string())).into_iter().collect();
    with(status, &headers, boxed(json!({"error": {"message": message}}).to_string().into_bytes()))
}

/// A reply that says how long it is and breaks off before.
pub(super) fn half(bytes: &[u8]) -> Response<Body> {
    let length = bytes.len().to_string();
    let first = Bytes::from(bytes[..bytes.len() / 2].to_vec());
    let frames = [Ok(Frame::data(first)), Err(io::Error::other("cut on purpose"))];
    with(StatusCode::OK, &[("content-length", length)], StreamBody::new(stream::iter(frames)).boxed())
}

use opencharacter_core::{Completion, FinishReason, TextSink};
use reqwest::Response;
use serde::Deserialize;

use crate::{
    fault::Fault,
    http::chunk_of,
    lines::Lines,
    wire::{Usage, finish},
};

/// An answer that arrives in pieces, as server-sent events.
#[derive(Debug, Default)]
pub(crate) struct StreamedReply {
    lines: Lines,
    text: String,
    finish: Option<FinishReason>,
    usage: Usage,
    pieces: usize,
}

#[derive(Deserialize)]
struct Event {
    #[serde(default)]
    choices: Vec<Piece>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Piece {
    delta: Option<Delta>,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Delta {
    content: Option<String>,
}

impl StreamedReply {
    pub(crate) async fn read(mut response: Response, sink: &mut TextSink) -> Result<Completion, Fault> {
        let mut reply = Self::default();
        loop {
            match chunk_of(&mut response).await {
                Ok(Some(chunk)) => reply.take(&chunk, sink)?,
                Ok(None) => return reply.completion(),
                Err(fault) => return Err(reply.broken(fault)),
            }
        }
    }

    /// Reads the whole lines that there are now.
    fn take(&mut self, chunk: &[u8], sink: &mut TextSink) -> Result<(), Fault> {
        self.lines.push(chunk).map_err(|fault| self.broken(fault))?;
        while let Some(line) = self.lines.next() {
            let Some(data) = line.trim_ascii().strip_prefix(b"data:") else { continue };
            let data = data.trim_ascii();
            if data.is_empty() || data == b"[DONE]" {
                continue;
            }
            let event: Event = serde_json::from_slice(data)
                .map_err(|error| self.broken(Fault::Malformed(format!("a piece of the stream is no JSON: {error}"))))?;
            self.add(event, sink)?;
        }
        Ok(())
    }

    fn add(&mut self, event: Event, sink: &mut TextSink) -> Result<(), Fault> {
        if let Some(error) = event.error {
            return Err(self.broken(Fault::Transient(format!("in the stream: {error}"))));
        }
        if let Some(usage) = event.usage {
            self.usage = usage;
        }
        for piece in event.choices.into_iter().take(1) {
            if let Some(text) = piece.delta.and_then(|delta| delta.content).filter(|text| !text.is_empty()) {
                sink(&text);
                self.text.push_str(&text);
                self.pieces += 1;
            }
            if let Some(reason) = piece.finish_reason {
                self.finish = Some(finish(Some(&reason))?);
            }
        }
        Ok(())
    }

    /// A fault in the middle of a stream: what was shown cannot be taken back, so it is not tried again.
    fn broken(&self, fault: Fault) -> Fault {
        if self.pieces == 0 { fault } else { Fault::Rejected { status: 200, reason: fault.reason().to_owned() } }
    }

    fn completion(self) -> Result<Completion, Fault> {
        let Some(finish) = self.finish else {
            return Err(self.broken(Fault::Malformed("the stream ended before the answer did".into())));
        };
        if self.text.trim().is_empty() {
            return Err(Fault::Malformed("empty answer".into()));
        }
        Ok(self.usage.completion(self.text, finish, Vec::new()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn read(text: &str, width: usize) -> (String, Result<Completion, Fault>) {
        let shown = Arc::new(Mutex::new(String::new()));
        let target = Arc::clone(&shown);
        let mut sink: TextSink = Box::new(move |piece| target.lock().unwrap().push_str(piece));
        let mut reply = StreamedReply::default();
        let taken = text.as_bytes().chunks(width).try_for_each(|chunk| reply.take(chunk, &mut sink));
        let result = taken.and_then(|()| reply.completion());
        let shown = shown.lock().unwrap().clone();
        (shown, result)
    }

    #[test]
    fn a_stream_is_read_whatever_its_packets() {
        let text = "data: {\"choices\": [{\"delta\": {\"role\": \"assistant\"}}]}\r\n\r\n: a comment\n\
            data: {\"choices\": [{\"delta\": {\"content\": \"Gr\u{fc}\"}}]}\n\n\
            data: {\"choices\": [{\"delta\": {\"content\": \"n.\"}, \"finish_reason\": \"stop\"}]}\n\n\
            data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 4, \"completion_tokens\": 2}}\n\ndata: [DONE]\n";
        for width in [1, 3, 7, 1000] {
            let (shown, result) = read(text, width);
            let completion = result.unwrap();
            assert_eq!((shown.as_str(), completion.text.as_str()), ("Gr\u{fc}n.", "Gr\u{fc}n."));
            assert_eq!((completion.finish, completion.completion_tokens), (FinishReason::Stop, 2));
        }
    }

    #[test]
    fn a_stream_that_breaks_off_is_no_answer() {
        let begun = "data: {\"choices\": [{\"delta\": {\"content\": \"Hal\"}}]}\n";
        let (shown, result) = read(begun, 9);
        assert_eq!(shown, "Hal");
        assert!(matches!(result, Err(Fault::Rejected { .. })), "what was shown is not said twice: {result:?}");
        assert!(matches!(read("data: [DONE]\n", 5).1, Err(Fault::Malformed(_))));
        assert!(matches!(read("data: {\"error\": {\"message\": \"no memory\"}}\n", 5).1, Err(Fault::Transient(_))));
    }
}

use std::io;

use serde::Serialize;

use super::sink::Sink;

/// Bytes gathered before they are written.
const BUFFER: usize = 1 << 20;

/// JSON Lines, or one JSON array.
pub(super) struct JsonWriter {
    sink: Sink,
    buffer: Vec<u8>,
    /// What stands before the first row, between rows, and after the last.
    marks: Marks,
    empty: bool,
}

struct Marks {
    before: &'static str,
    between: &'static str,
    after: &'static str,
}

impl JsonWriter {
    pub(super) fn lines(sink: Sink) -> Self {
        Self::new(sink, Marks { before: "", between: "\n", after: "\n" })
    }

    pub(super) fn array(sink: Sink) -> Self {
        Self::new(sink, Marks { before: "[\n", between: ",\n", after: "\n]\n" })
    }

    fn new(sink: Sink, marks: Marks) -> Self {
        Self { sink, buffer: Vec::new(), marks, empty: true }
    }

    pub(super) async fn write(&mut self, row: &impl Serialize) -> io::Result<()> {
        let mark = if self.empty { self.marks.before } else { self.marks.between };
        self.buffer.extend_from_slice(mark.as_bytes());
        self.empty = false;
        serde_json::to_writer(&mut self.buffer, row)?;
        if self.buffer.len() >= BUFFER {
            self.sink.write(std::mem::take(&mut self.buffer).into()).await?;
        }
        Ok(())
    }

    pub(super) async fn finish(mut self) -> io::Result<()> {
        let end = match (self.empty, self.marks.before) {
            (true, "") => "",
            (true, _) => "[]\n",
            (false, _) => self.marks.after,
        };
        self.buffer.extend_from_slice(end.as_bytes());
        self.sink.write(self.buffer.into()).await?;
        self.sink.finish().await
    }
}

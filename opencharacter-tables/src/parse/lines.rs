use serde_json::json;

use super::{Parse, Parsed, Pending, object_of, text_start};

/// What a line holds.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LineContent {
    /// One JSON object.
    Json,
    /// Text, given as an object with `text`.
    Text,
}

/// One row per line; blank lines, a byte order mark and carriage returns are ignored.
#[derive(Debug)]
pub(crate) struct LineParser {
    content: LineContent,
    number: usize,
    pending: Pending,
    started: bool,
}

impl LineParser {
    pub(crate) fn new(content: LineContent, limit: usize) -> Self {
        Self { content, number: 1, pending: Pending::new(limit), started: false }
    }

    fn row(&self, line: &[u8]) -> Option<Parsed> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return None;
        }
        let value = match self.content {
            LineContent::Json => object_of(line, None),
            LineContent::Text => match std::str::from_utf8(line) {
                Ok(text) => Ok(json!({ "text": text })),
                Err(error) => {
                    Err(format!("not valid UTF-8 at byte {} of it: expected UTF-8 text", error.valid_up_to() + 1))
                }
            },
        };
        Some((self.number, value))
    }

    /// A line that ends with `bytes`.
    fn end_line(&mut self, bytes: &[u8], rows: &mut Vec<Parsed>) {
        if self.pending.is_empty() && bytes.len() <= self.pending.limit {
            rows.extend(self.row(bytes));
        } else {
            self.add(bytes, rows);
            if !self.pending.over {
                rows.extend(self.row(&self.pending.bytes));
            }
        }
        self.pending.clear();
        self.number += 1;
    }

    fn add(&mut self, bytes: &[u8], rows: &mut Vec<Parsed>) {
        if self.pending.push(bytes) {
            rows.push((self.number, Err(self.pending.too_long())));
        }
    }
}

impl Parse for LineParser {
    fn feed(&mut self, mut bytes: &[u8], rows: &mut Vec<Parsed>) -> Result<(), String> {
        if !self.started {
            bytes = text_start(bytes)?;
            self.started = true;
        }
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.end_line(&bytes[..end], rows);
            bytes = &bytes[end + 1..];
        }
        self.add(bytes, rows);
        Ok(())
    }

    fn finish(&mut self, rows: &mut Vec<Parsed>) -> Result<(), String> {
        self.end_line(&[], rows);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ten_gigabytes_is_named_and_never_held() {
        const CHUNK: usize = 1 << 20;
        let limit = 4 * CHUNK;
        let mut parser = LineParser::new(LineContent::Json, limit);
        let mut rows = Vec::new();
        parser.feed(b"{\"a\":1}\n\n{\"text\":\"", &mut rows).unwrap();
        let chunk = vec![b'x'; CHUNK];
        let mut largest = 0;
        for _ in 0..10 << 10 {
            parser.feed(&chunk, &mut rows).unwrap();
            largest = largest.max(parser.pending.bytes.capacity());
        }
        parser.feed(b"\"}\n{\"a\":2}", &mut rows).unwrap();
        parser.finish(&mut rows).unwrap();
        assert!(largest <= 2 * limit, "{largest} bytes were held");
        let numbers: Vec<usize> = rows.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 3, 4]);
        assert!(rows[1].1.as_ref().unwrap_err().contains("longer than 4194304 bytes"), "{:?}", rows[1]);
        assert_eq!(rows[2].1.as_ref().unwrap()["a"], 2);
    }
}

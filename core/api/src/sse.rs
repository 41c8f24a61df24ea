//! Server-sent events: splitting a byte stream into the data of each event.

/// Collects bytes and hands out the data of each complete event. Comments and other fields are passed over.
#[derive(Debug, Default)]
pub struct SseDecoder {
    buffer: Vec<u8>,
}

impl SseDecoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The data of the next complete event; none until more bytes arrive.
    pub fn next_event(&mut self) -> Option<String> {
        loop {
            let end = self.buffer.windows(2).position(|pair| pair == b"\n\n")?;
            let event: Vec<u8> = self.buffer.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            let data: Vec<&str> = text
                .lines()
                .filter_map(|line| line.strip_prefix("data:"))
                .map(str::trim_start)
                .collect();
            if !data.is_empty() {
                return Some(data.join("\n"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::SseDecoder;

    #[test]
    fn events_come_out_whole_whatever_the_pieces() {
        let stream = b":keep-alive\n\ndata: {\"a\":1}\n\nid: 4\ndata: two\ndata: lines\n\n";
        for size in 1..stream.len() {
            let mut decoder = SseDecoder::default();
            let mut events = Vec::new();
            for piece in stream.chunks(size) {
                decoder.push(piece);
                while let Some(event) = decoder.next_event() {
                    events.push(event);
                }
            }
            assert_eq!(events, ["{\"a\":1}", "two\nlines"]);
        }
    }
}

//! What the harness and the agent in a machine say to each other: frames over one byte stream, many commands at once.
//!
//! A frame is its kind (one byte), its channel and the length of its payload (u32 each, little-endian), and the payload.
//! A channel is one command. Pure: bytes in, frames out; both sides bring their own streams.

mod identity;

pub use identity::{Identity, Lan, PlacedFile};

/// The name of the virtio-serial port, as the machine sees it.
pub const PORT: &str = "redrill.agent";

/// Larger payloads are no frame but a stream that lost its step.
const LONGEST: u32 = 1 << 20;
/// Bytes before the payload.
const HEAD: usize = 9;

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// To the machine: say that you are there, with this number.
    Hello(u64),
    /// From the machine: the number that was asked with, and the id of the kernel's boot.
    Ready(u64, String),
    /// To the machine: run these words as a command of root.
    Exec(u32, Vec<String>),
    /// To the machine: standard input of a command.
    Input(u32, Vec<u8>),
    /// To the machine: its input is over.
    InputEnd(u32),
    /// To the machine: kill it.
    Kill(u32),
    /// From the machine: standard output.
    Output(u32, Vec<u8>),
    /// From the machine: standard error.
    Errors(u32, Vec<u8>),
    /// From the machine: it ended so; a signal is 128 + its number, a program that could not be started 127.
    Exit(u32, i32),
}

impl Frame {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, channel, payload) = match self {
            Self::Hello(nonce) => (b'h', 0, nonce.to_le_bytes().to_vec()),
            Self::Ready(nonce, boot) => (b'r', 0, [&nonce.to_le_bytes(), boot.as_bytes()].concat()),
            Self::Exec(channel, words) => (b'x', *channel, words.join("\0").into_bytes()),
            Self::Input(channel, data) => (b'i', *channel, data.clone()),
            Self::InputEnd(channel) => (b'e', *channel, Vec::new()),
            Self::Kill(channel) => (b'k', *channel, Vec::new()),
            Self::Output(channel, data) => (b'o', *channel, data.clone()),
            Self::Errors(channel, data) => (b's', *channel, data.clone()),
            Self::Exit(channel, status) => (b'q', *channel, status.to_le_bytes().to_vec()),
        };
        let length = u32::try_from(payload.len()).expect("payloads are cut to pieces by whoever sends them");
        [&[kind], &channel.to_le_bytes()[..], &length.to_le_bytes()[..], &payload].concat()
    }

    fn decode(kind: u8, channel: u32, payload: &[u8]) -> Option<Self> {
        let number = |bytes: &[u8]| Some(u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?));
        Some(match kind {
            b'h' => Self::Hello(number(payload)?),
            b'r' => Self::Ready(number(payload)?, String::from_utf8_lossy(&payload[8..]).into_owned()),
            b'x' => Self::Exec(channel, std::str::from_utf8(payload).ok()?.split('\0').map(str::to_owned).collect()),
            b'i' => Self::Input(channel, payload.to_vec()),
            b'e' => Self::InputEnd(channel),
            b'k' => Self::Kill(channel),
            b'o' => Self::Output(channel, payload.to_vec()),
            b's' => Self::Errors(channel, payload.to_vec()),
            b'q' => Self::Exit(channel, i32::from_le_bytes(payload.try_into().ok()?)),
            _ => return None,
        })
    }
}

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

/// The stream holds something that is no frame: whoever reads it has to begin anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfStep;

impl std::fmt::Display for OutOfStep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the stream lost its step")
    }
}

impl std::error::Error for OutOfStep {}

impl Decoder {
    /// Takes more bytes in.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, OutOfStep> {
        let Some(head) = self.bytes.first_chunk::<HEAD>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (kind, channel, length) = (head[0], word(1), word(5));
        if length > LONGEST {
            return Err(OutOfStep);
        }
        let end = HEAD + length as usize;
        if self.bytes.len() < end {
            return Ok(None);
        }
        let frame = Frame::decode(kind, channel, &self.bytes[HEAD..end]).ok_or(OutOfStep)?;
        self.bytes.drain(..end);
        Ok(Some(frame))
    }

    /// Skips what came before the answer to [`Frame::Hello`] with this number: the rest of an earlier conversation.
    /// Returns whether the answer is there.
    pub fn skip_to_ready(&mut self, nonce: u64) -> bool {
        let needle = nonce.to_le_bytes();
        let found = self.bytes.windows(8).enumerate().find_map(|(at, window)| {
            let start = at.checked_sub(HEAD)?;
            (window == needle && self.bytes[start] == b'r').then_some(start)
        });
        if let Some(start) = found {
            self.bytes.drain(..start);
        }
        found.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut_of_the_stream() {
        let frames = vec![
            Frame::Hello(7),
            Frame::Ready(7, "boot".to_owned()),
            Frame::Exec(3, vec!["sh".to_owned(), "-c".to_owned(), String::new()]),
            Frame::Input(3, vec![0, 255, 10]),
            Frame::InputEnd(3),
            Frame::Kill(3),
            Frame::Output(3, vec![1; 300]),
            Frame::Errors(3, b"no".to_vec()),
            Frame::Exit(3, -1),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for size in [1, 2, 7, 64, bytes.len()] {
            let (mut decoder, mut read) = (Decoder::default(), Vec::new());
            for piece in bytes.chunks(size) {
                decoder.feed(piece);
                while let Some(frame) = decoder.next_frame().expect("in step") {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames, "in pieces of {size}");
        }
    }

    #[test]
    fn what_is_no_frame_is_told() {
        let mut decoder = Decoder::default();
        decoder.feed(b"h\0\0\0\0\xff\xff\xff\xff");
        assert_eq!(decoder.next_frame(), Err(OutOfStep));
        let mut decoder = Decoder::default();
        decoder.feed(b"?\0\0\0\0\0\0\0\0");
        assert_eq!(decoder.next_frame(), Err(OutOfStep));
    }

    #[test]
    fn an_earlier_conversation_is_skipped() {
        let mut decoder = Decoder::default();
        let old = Frame::Output(9, b"torn in the middle".to_vec()).encode();
        decoder.feed(&old[5..]);
        assert!(!decoder.skip_to_ready(42));
        decoder.feed(&Frame::Ready(42, "b".to_owned()).encode());
        assert!(decoder.skip_to_ready(42));
        assert_eq!(decoder.next_frame(), Ok(Some(Frame::Ready(42, "b".to_owned()))));
    }
}

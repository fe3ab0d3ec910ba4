//! Carries frames between one agent and those who wait for its answers.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use redrill_wire::{Decoder, Frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, watch};

/// By the number of a command: who waits for what it says.
pub(super) type Channels = Arc<Mutex<HashMap<u32, mpsc::UnboundedSender<Heard>>>>;

/// The number of the question that is open: until its answer everything else is the rest of an earlier conversation.
pub(super) type Asked = Arc<Mutex<Option<u64>>>;

/// What a command said.
#[derive(Debug)]
pub(super) enum Heard {
    Output(Vec<u8>),
    Errors(Vec<u8>),
    Exit(i32),
}

/// Sends frames until nobody has any more, or the stream ends.
pub(super) async fn write(mut port: impl AsyncWrite + Unpin, mut frames: mpsc::UnboundedReceiver<Vec<u8>>) {
    while let Some(bytes) = frames.recv().await {
        if port.write_all(&bytes).await.is_err() || port.flush().await.is_err() {
            return;
        }
    }
}

/// Hands frames to whoever waits for them. When the stream ends, everyone learns it by the dropped senders.
pub(super) async fn read(
    mut port: impl AsyncRead + Unpin,
    channels: Channels,
    asked: Asked,
    ready: watch::Sender<Option<(u64, String)>>,
) {
    let mut decoder = Decoder::default();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = port.read(&mut buffer).await {
        decoder.feed(&buffer[..length]);
        {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            match *asked {
                Some(nonce) if decoder.skip_to_ready(nonce) => *asked = None,
                Some(_) => continue,
                None => {}
            }
        }
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                // The rest of an earlier conversation, or of a machine that was reset in mid-sentence.
                Err(_) => {
                    decoder = Decoder::default();
                    break;
                }
            };
            let (channel, said) = match frame {
                Frame::Ready(nonce, boot) => {
                    let _ = ready.send(Some((nonce, boot)));
                    continue;
                }
                Frame::Output(channel, data) => (channel, Heard::Output(data)),
                Frame::Errors(channel, data) => (channel, Heard::Errors(data)),
                Frame::Exit(channel, status) => (channel, Heard::Exit(status)),
                _ => continue,
            };
            let channels = channels.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(waiter) = channels.get(&channel) {
                let _ = waiter.send(said);
            }
        }
    }
    channels.lock().unwrap_or_else(PoisonError::into_inner).clear();
}

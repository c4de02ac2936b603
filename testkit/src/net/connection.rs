//! One connection: reads a request, has it served, writes the answer, and only then reads the next one, as a broker does.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::event_loop::{Event, Shared};
use crate::state::Answer;

/// Kafka's `socket.request.max.bytes`.
const MAX_REQUEST_BYTES: usize = 100 << 20;

/// The task of one connection; it ends when the client hangs up, when the broker cuts it, or with the cluster.
pub(crate) async fn run(
    shared: Arc<Shared>,
    connection: u64,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: mpsc::UnboundedReceiver<Answer>,
    cut: oneshot::Receiver<()>,
) {
    tokio::select! {
        biased;
        _ = cut => {}
        () = serve(&shared, connection, stream, answers) => shared.tell(Event::Closed { connection }),
    }
}

async fn serve(
    shared: &Shared,
    connection: u64,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut answers: mpsc::UnboundedReceiver<Answer>,
) {
    let mut buf = BytesMut::new();
    while let Some(frame) = read_frame(&mut stream, &mut buf, connection).await {
        shared.tell(Event::Frame { connection, frame });
        match answers.recv().await {
            Some(Answer::Frame(answer)) => {
                if stream.write_all(&answer).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
            Some(Answer::None) => {}
            None => return,
        }
    }
}

/// The next frame without its length field; `None` at the end of the stream, or when it is no Kafka client that writes there.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin), buf: &mut BytesMut, connection: u64) -> Option<Bytes> {
    while buf.len() < 4 {
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    }
    let announced = i32::from_be_bytes(buf[..4].try_into().ok()?);
    let len = match usize::try_from(announced) {
        Ok(len) if len <= MAX_REQUEST_BYTES => len,
        _ => {
            tracing::warn!(target: "milena_testkit", connection, announced, "not a request length; closing");
            return None;
        }
    };
    // Grows with what arrives, never with what is announced.
    while buf.len() < 4 + len {
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    }
    let _ = buf.split_to(4);
    Some(buf.split_to(len).freeze())
}

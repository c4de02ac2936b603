//! One connection: reads a request, has it served, writes the answer, and only then reads the next one, as a broker does.

#![expect(clippy::disallowed_methods, reason = "a driver: it waits where a fault limits the bandwidth, and for quotas")]

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::event_loop::{Event, Shared};
use crate::serving::Answer;

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
        ended = serve(&shared, connection, stream, answers) => {
            // The broker does not see the end of a connection that is half open.
            if ended == Ended::Seen {
                shared.tell(Event::Closed { connection });
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Ended {
    Seen,
    Unseen,
}

async fn serve(
    shared: &Shared,
    connection: u64,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    mut answers: mpsc::UnboundedReceiver<Answer>,
) -> Ended {
    let mut buf = BytesMut::new();
    let mut bandwidth = None;
    while let Some(frame) = read_frame(&mut stream, &mut buf, connection).await {
        if let Some(rate) = bandwidth {
            tokio::time::sleep(time_for(frame.len(), rate)).await;
        }
        shared.tell(Event::Frame { connection, frame });
        let mut mute = Duration::ZERO;
        loop {
            match answers.recv().await {
                Some(Answer::Frame(answer)) => {
                    if write(&mut stream, &answer, bandwidth).await.is_err() {
                        return Ended::Seen;
                    }
                    break;
                }
                Some(Answer::Last(answer)) => {
                    let _ = write(&mut stream, &answer, bandwidth).await; // the end either way
                    return Ended::Seen;
                }
                Some(Answer::None) => break,
                Some(Answer::Mute(time)) => mute = time,
                Some(Answer::Bandwidth(rate)) => bandwidth = Some(rate.max(1)),
                Some(Answer::Swallow) => {
                    while matches!(stream.read_buf(&mut buf).await, Ok(read) if read > 0) {
                        buf.clear();
                    }
                    return Ended::Unseen;
                }
                None => return Ended::Seen,
            }
        }
        if !mute.is_zero() {
            tokio::time::sleep(mute).await;
        }
    }
    Ended::Seen
}

/// How long so many bytes take at `rate` bytes per second.
pub(crate) fn time_for(bytes: usize, rate: u32) -> Duration {
    Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)))
}

/// Writes an answer; with a limited bandwidth, in pieces that take a twentieth of a second each.
pub(crate) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    answer: &Bytes,
    bandwidth: Option<u32>,
) -> io::Result<()> {
    let Some(rate) = bandwidth else {
        stream.write_all(answer).await?;
        return stream.flush().await;
    };
    for piece in answer.chunks((rate as usize / 20).max(1)) {
        tokio::time::sleep(time_for(piece.len(), rate)).await;
        stream.write_all(piece).await?;
        stream.flush().await?;
    }
    Ok(())
}

/// The next frame without its length field; `None` at the end of the stream, or when it is no Kafka client that writes there.
pub(crate) async fn read_frame(
    stream: &mut (impl AsyncRead + Unpin),
    buf: &mut BytesMut,
    connection: u64,
) -> Option<Bytes> {
    while buf.len() < 4 {
        if stream.read_buf(buf).await.ok()? == 0 {
            return None;
        }
    }
    let announced = i32::from_be_bytes(buf[..4].try_into().ok()?);
    let len = match usize::try_from(announced) {
        Ok(len) if len <= MAX_REQUEST_BYTES => len,
        _ => {
            tracing::warn!(target: "milena_testkit", connection, announced, "not a frame's length; closing");
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

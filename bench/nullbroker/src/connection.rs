//! One connection: one request at a time, as in Kafka.
//!
//! The service time is spent before the next request is looked at. The round trip is not: answers wait for it in a queue
//! of their own, so that a client that pipelines gains from it.

use std::io::{BufReader, IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::fetch::ReadyMade;
use crate::wire::Reader;
use crate::{Shared, cold, produce};

/// No client sends more in one request.
const LONGEST_FRAME: usize = 256 << 20;

/// Serves until the client hangs up or sends what is no request.
pub(crate) fn serve(stream: TcpStream, broker: i32, shared: &Shared) {
    shared.stats.connection();
    let _ = stream.set_nodelay(true);
    let Ok(writer) = stream.try_clone() else { return };
    if shared.options.rtt.is_zero() {
        let mut writer = writer;
        requests(stream, broker, shared, |head, body| write(&mut writer, head, body));
    } else {
        let (late, answers) = mpsc::channel::<(Instant, Vec<u8>)>();
        let mut writer = writer;
        let thread = thread::spawn(move || {
            for (due, bytes) in answers {
                thread::sleep(due.saturating_duration_since(Instant::now()));
                if writer.write_all(&bytes).is_err() {
                    return;
                }
            }
        });
        let rtt = shared.options.rtt;
        requests(stream, broker, shared, |head, body| late.send((Instant::now() + rtt, [head, body].concat())).ok());
        drop(late);
        let _ = thread.join();
    }
}

/// Reads requests and hands each answer, head and body, to `reply`.
fn requests(
    stream: TcpStream,
    broker: i32,
    shared: &Shared,
    mut reply: impl FnMut(&[u8], &[u8]) -> Option<()>,
) -> Option<()> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut frame = Vec::new();
    let mut ready_made = ReadyMade::default();
    let mut body = Vec::new();
    loop {
        let mut length = [0; 4];
        reader.read_exact(&mut length).ok()?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST_FRAME {
            return None;
        }
        // Only grows: a frame is not cleared before it is read over.
        if frame.len() < length {
            frame.resize(length, 0);
        }
        reader.read_exact(&mut frame[..length]).ok()?;

        let mut header = Reader::new(&frame[..length]);
        let (api_key, version, correlation_id) = (header.i16()?, header.i16()?, header.i32()?);
        header.string()?; // client id
        let flexible = cold::is_flexible(api_key, version)?;
        let mut header = header.compact(flexible);
        header.skip_tags()?;
        let request = header.rest();

        if !shared.options.service_time.is_zero() {
            thread::sleep(shared.options.service_time);
        }
        body.clear();
        let answer: &[u8] = match api_key {
            0 => {
                if !produce::answer(request, version, shared, &mut body)? {
                    shared.stats.request(api_key, length, 0);
                    continue;
                }
                &body
            }
            1 => ready_made.answer(request, version, shared)?,
            _ => {
                cold::answer(api_key, version, request, broker, shared, &mut body)?;
                &body
            }
        };

        // ApiVersions answers without tags in every version (KIP-511).
        let tags: &[u8] = if flexible && api_key != cold::API_VERSIONS { &[0] } else { &[] };
        let rest = 4 + tags.len() + answer.len();
        let mut head = [0; 9];
        head[..4].copy_from_slice(&(rest as u32).to_be_bytes());
        head[4..8].copy_from_slice(&correlation_id.to_be_bytes());
        let head = &head[..8 + tags.len()];
        shared.stats.request(api_key, length, rest);
        reply(head, answer)?;
    }
}

fn write(stream: &mut TcpStream, head: &[u8], body: &[u8]) -> Option<()> {
    let written = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]).ok()?;
    if written < head.len() {
        stream.write_all(&head[written..]).ok()?;
    }
    stream.write_all(&body[written.saturating_sub(head.len())..]).ok()
}

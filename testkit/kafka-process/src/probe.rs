//! Does a broker answer? One Metadata request over a plain socket, written and read by hand, because the
//! chores that use it must build in seconds.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::Duration;

/// What a broker says about its cluster: the ids of the brokers that it would send clients to.
#[derive(Debug, PartialEq, Eq)]
pub struct ClusterView {
    /// The ids of all brokers, sorted.
    pub brokers: Vec<i32>,
    /// The broker that stands for the controller; below 0 while there is none.
    pub controller: i32,
}

/// Asks the broker on that port of this machine; `None` when there is no complete answer within a second.
pub fn ask(port: u16) -> Option<ClusterView> {
    ask_at("127.0.0.1", port)
}

/// Asks the broker on that port of another machine.
pub fn ask_at(host: &str, port: u16) -> Option<ClusterView> {
    let limit = Duration::from_secs(1);
    let address = (host, port).to_socket_addrs().ok()?.next()?;
    let mut stream = TcpStream::connect_timeout(&address, limit).ok()?;
    stream.set_read_timeout(Some(limit)).ok()?;
    stream.set_write_timeout(Some(limit)).ok()?;
    stream.write_all(&request()).ok()?;
    let mut len = [0; 4];
    stream.read_exact(&mut len).ok()?;
    let len = u32::from_be_bytes(len);
    // No topics were asked for, so a few brokers are all there can be in the answer.
    let mut body = Vec::new();
    stream.take(u64::from(len.min(64 * 1024))).read_to_end(&mut body).ok()?;
    parse(&body)
}

/// Metadata v1 with an empty list of topics, which stands for none.
fn request() -> Vec<u8> {
    let client_id = b"probe";
    let mut body = Vec::new();
    body.extend_from_slice(&3_i16.to_be_bytes()); // API key
    body.extend_from_slice(&1_i16.to_be_bytes()); // version
    body.extend_from_slice(&7_i32.to_be_bytes()); // correlation id
    body.extend_from_slice(&5_i16.to_be_bytes()); // length of the client id
    body.extend_from_slice(client_id);
    body.extend_from_slice(&0_i32.to_be_bytes()); // number of topics
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

fn parse(body: &[u8]) -> Option<ClusterView> {
    let mut rest = body;
    if int32(&mut rest)? != 7 {
        return None;
    }
    let count = int32(&mut rest)?;
    let mut brokers = Vec::new();
    for _ in 0..count {
        brokers.push(int32(&mut rest)?);
        skip_string(&mut rest)?; // host
        int32(&mut rest)?; // port
        skip_string(&mut rest)?; // rack
    }
    brokers.sort_unstable();
    Some(ClusterView { brokers, controller: int32(&mut rest)? })
}

fn int32(rest: &mut &[u8]) -> Option<i32> {
    let (head, tail) = rest.split_first_chunk::<4>()?;
    *rest = tail;
    Some(i32::from_be_bytes(*head))
}

/// A string of which only the end matters; length −1 is null.
fn skip_string(rest: &mut &[u8]) -> Option<()> {
    let (head, tail) = rest.split_first_chunk::<2>()?;
    *rest = tail.get(usize::try_from(i16::from_be_bytes(*head)).unwrap_or(0)..)?;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> Vec<u8> {
        let mut body = 7_i32.to_be_bytes().to_vec();
        body.extend_from_slice(&2_i32.to_be_bytes());
        for (id, rack) in [(2_i32, None), (1, Some("rack-1"))] {
            body.extend_from_slice(&id.to_be_bytes());
            body.extend_from_slice(&9_i16.to_be_bytes());
            body.extend_from_slice(b"127.0.0.1");
            body.extend_from_slice(&9092_i32.to_be_bytes());
            match rack {
                None => body.extend_from_slice(&(-1_i16).to_be_bytes()),
                Some(rack) => {
                    body.extend_from_slice(&6_i16.to_be_bytes());
                    body.extend_from_slice(rack.as_bytes());
                }
            }
        }
        body.extend_from_slice(&1_i32.to_be_bytes());
        body.extend_from_slice(&0_i32.to_be_bytes());
        body
    }

    #[test]
    fn brokers_with_and_without_a_rack_are_read() {
        assert_eq!(parse(&answer()), Some(ClusterView { brokers: vec![1, 2], controller: 1 }));
    }

    #[test]
    fn a_cut_answer_is_no_answer() {
        let answer = answer();
        for len in 0..answer.len() - 4 {
            assert_eq!(parse(&answer[..len]), None, "cut after {len} bytes");
        }
    }
}

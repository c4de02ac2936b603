//! A socket in front of an older engine: testcontainers asks in the words of the newest API, and an engine refuses a version above its
//! own by number. What is asked of containers here is older than either.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

/// Relays connections until it is dropped.
pub(super) struct Relay {
    socket: PathBuf,
}

impl Relay {
    /// Listens at `socket` and asks the engine at `engine` with API versions of at most `1.{minor}`.
    pub(super) fn start(socket: PathBuf, engine: PathBuf, minor: u8) -> io::Result<Self> {
        let listener = UnixListener::bind(&socket)?;
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A connection that fails is the engine's to tell: its client sees the end.
                let _ = relay(client, &engine, minor);
            }
        });
        Ok(Self { socket })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

fn relay(client: UnixStream, engine: &Path, minor: u8) -> io::Result<()> {
    let engine = UnixStream::connect(engine)?;
    let (answers, asks) = (engine.try_clone()?, client.try_clone()?);
    thread::spawn(move || copy(client, engine, |bytes| lower_versions(bytes, minor)));
    thread::spawn(move || copy(answers, asks, |_| ()));
    Ok(())
}

fn copy(mut from: UnixStream, mut to: UnixStream, change: impl Fn(&mut [u8])) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let len = from.read(&mut buffer)?;
        if len == 0 {
            return to.shutdown(Shutdown::Write);
        }
        change(&mut buffer[..len]);
        to.write_all(&buffer[..len])?;
    }
}

/// `GET /v1.53/…` becomes `GET /v1.41/…`. Both have two digits, so no length changes; a request's first line comes in one piece.
fn lower_versions(bytes: &mut [u8], minor: u8) {
    const BEFORE: &[u8] = b" /v1.";
    for at in 0..bytes.len().saturating_sub(BEFORE.len() + 2) {
        let digits = at + BEFORE.len();
        if bytes[at..].starts_with(BEFORE)
            && let [tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'/'] = bytes[digits..digits + 3]
            && (tens - b'0') * 10 + (ones - b'0') > minor
        {
            bytes[digits] = b'0' + minor / 10;
            bytes[digits + 1] = b'0' + minor % 10;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_above_the_engines_is_lowered_and_nothing_else_changes() {
        let lowered = |request: &str| {
            let mut bytes = request.as_bytes().to_vec();
            lower_versions(&mut bytes, 41);
            String::from_utf8(bytes).unwrap()
        };
        assert_eq!(lowered("POST /v1.53/containers/create HTTP/1.1\r\n"), "POST /v1.41/containers/create HTTP/1.1\r\n");
        for same in ["GET /v1.40/info HTTP/1.1", "GET /version HTTP/1.1", "GET /v1.5", "", "{\"path\":\"/v1.53/x\"}"] {
            assert_eq!(lowered(same), same);
        }
    }
}

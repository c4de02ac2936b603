//! What happens between a connected stream and the first request of a user's: a stage of its own, so that TLS and SASL slot in.
//!
//! Pure: it says what to send next and is told what came back.
//!
//! ```text
//! ApiVersions v4 ──▶ answered ──▶ ready
//!        └─ UNSUPPORTED_VERSION ──▶ ApiVersions in the highest version the broker named, or v0 ──▶ ready
//! ```

use std::sync::Arc;

use bytes::Bytes;
use milena_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};
use milena_protocol::{ApiKey, ApiVersions, ErrorCode, Message, Request, StrBytes, frame};

use crate::{Error, ErrorKind};

/// The name under which brokers count this client (KIP-511).
const SOFTWARE_NAME: &str = "milena";

/// A request to send.
pub(crate) struct Send {
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) flexible: bool,
    pub(crate) body: Bytes,
}

/// What comes next.
pub(crate) enum Step {
    Send(Send),
    Ready(Arc<ApiVersions>),
}

/// The machine.
#[derive(Debug)]
pub(crate) struct Handshake {
    version: i16,
    fell_back: bool,
}

impl Handshake {
    pub(crate) fn new() -> Self {
        Self { version: <ApiVersionsRequest as Message>::VERSIONS.max, fell_back: false }
    }

    /// The first request.
    pub(crate) fn start(&self) -> Result<Send, Error> {
        let mut request = ApiVersionsRequest::default();
        if self.version >= 3 {
            request = request
                .with_client_software_name(StrBytes::from_static_str(SOFTWARE_NAME))
                .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        }
        Ok(Send {
            api: ApiKey::API_VERSIONS,
            version: self.version,
            flexible: frame::request_is_flexible::<ApiVersionsRequest>(self.version),
            body: frame::encode_body(&request, self.version).map_err(Error::from)?,
        })
    }

    /// The broker's answer.
    pub(crate) fn on_response(&mut self, body: Bytes) -> Result<Step, Error> {
        // A broker that does not know the version answers in version 0, whatever was asked (KIP-511).
        let unsupported = body.len() >= 2 && i16::from_be_bytes([body[0], body[1]]) == ErrorCode::UNSUPPORTED_VERSION.0;
        let read_as = if unsupported { 0 } else { self.version };
        let response = frame::decode_body::<ApiVersionsRequest>(body, read_as).map_err(Error::from)?;
        let code = ErrorCode(response.error_code);
        if code == ErrorCode::UNSUPPORTED_VERSION && !self.fell_back {
            self.fell_back = true;
            self.version = older_version(&response, self.version);
            return Ok(Step::Send(self.start()?));
        }
        code.ok().map_err(|code| Error::from_code(ApiVersionsRequest::KEY, code))?;
        Ok(Step::Ready(Arc::new(ApiVersions::from_response(&response))))
    }
}

/// The highest version below `refused` that the broker named, or 0 if it named none (brokers before 2.4).
fn older_version(response: &ApiVersionsResponse, refused: i16) -> i16 {
    let named = response.api_keys.iter().find(|api| api.api_key == ApiKey::API_VERSIONS.0);
    named.map_or(0, |api| api.max_version.clamp(0, refused.saturating_sub(1).max(0)))
}

impl From<frame::FrameError> for Error {
    fn from(error: frame::FrameError) -> Self {
        match &error {
            frame::FrameError::Encode { api, version, reason } => Self::new(
                ErrorKind::UnsupportedVersion,
                format!("the request needs a newer broker: {api} v{version} cannot carry it ({reason})."),
            )
            .with_api(*api),
            frame::FrameError::Decode { api, .. } => {
                Self::new(ErrorKind::Malformed, format!("{error}. The broker may be broken or not be Kafka: look at its log, and at the address it was reached by."))
                    .with_api(*api)
            }
            _ => Self::new(ErrorKind::Malformed, error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(hex: &[u8]) -> Bytes {
        Bytes::copy_from_slice(hex)
    }

    #[test]
    fn a_new_broker_is_ready_after_one_request() {
        let mut handshake = Handshake::new();
        let first = handshake.start().unwrap();
        assert_eq!((first.version, first.flexible), (4, true));
        // error 0, one API (18, 0..=4), throttle 0, no tags.
        let answer = body(&[0, 0, 2, 0, 18, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0]);
        let Step::Ready(versions) = handshake.on_response(answer).unwrap() else { panic!("not ready") };
        assert_eq!(versions.range(ApiKey::API_VERSIONS).unwrap().max, 4);
    }

    #[test]
    fn an_old_broker_is_asked_again_in_a_version_it_knows() {
        let mut handshake = Handshake::new();
        let refused = body(&[0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 2]);
        let Step::Send(again) = handshake.on_response(refused).unwrap() else { panic!("not sent") };
        assert_eq!((again.version, again.flexible), (2, false));
        let mut handshake = Handshake::new();
        let Step::Send(again) = handshake.on_response(body(&[0, 35, 0, 0, 0, 0])).unwrap() else { panic!("not sent") };
        assert_eq!(again.version, 0);
        assert!(handshake.on_response(body(&[0, 35, 0, 0, 0, 0])).is_err(), "a second refusal is an error, not a loop");
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(Handshake::new().on_response(body(&[1])).is_err());
        assert!(Handshake::new().on_response(body(&[0, 0, 2, 0, 18, 0])).is_err(), "cut inside the first API");
        // What an HTTP server, an SSH server and a TLS endpoint say; all ones; and arrays of four billion APIs.
        for garbage in [
            &b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"[..],
            b"SSH-2.0-OpenSSH_9.6\r\n",
            &[0x15, 3, 1, 0, 2, 2, 0x46],
            &[0xff; 64],
            &[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0],
            &[0, 35, 0x7f, 0xff, 0xff, 0xff],
        ] {
            let error = Handshake::new().on_response(body(garbage)).err().expect("garbage was taken for an answer");
            assert_eq!(error.kind(), ErrorKind::Malformed, "{error}");
        }
        let many = body(&[0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]);
        let error = Handshake::new().on_response(many).err().expect("garbage was taken for an answer").to_string();
        assert!(error.contains("ApiKeys: "), "{error}");
        // And whatever else, drawn from a seed: an answer is read or refused, and nothing is believed.
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..10_000 {
            let mut garbage = vec![0; rng.usize(..200)];
            rng.fill(&mut garbage);
            // Half of them get past the error code.
            if rng.bool() && garbage.len() > 2 {
                garbage[..2].fill(0);
            }
            let _ = Handshake::new().on_response(garbage.into());
        }
    }
}

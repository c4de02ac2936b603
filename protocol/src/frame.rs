//! Frames: a length, a header, a message.
//!
//! ```text
//! request    i32 length | i16 api key | i16 version | i32 correlation id | client id (nullable string) | [tags] | message
//! response   i32 length | i32 correlation id | [tags] | message
//! ```
//! The tags stand there in flexible versions only; ApiVersions answers without them in every version, because a client that does
//! not know the broker yet must be able to read its answer (KIP-511).

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Decodable, HeaderVersion};

use crate::{ApiKey, Request, validate};

/// Bytes of the length in front of every frame.
pub const LENGTH_BYTES: usize = 4;

/// A message that could not be written or read.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The request cannot be written in the chosen version: a field is set that this version does not have.
    #[error("{api} v{version} cannot be encoded: {reason}")]
    Encode {
        /// The API.
        api: ApiKey,
        /// The version that was chosen.
        version: i16,
        /// What the encoder said.
        reason: String,
    },
    /// The response does not have the shape that its API and version announce.
    #[error("the {api} v{version} response cannot be read: {reason}")]
    Decode {
        /// The API.
        api: ApiKey,
        /// The version of the request, and so of its response.
        version: i16,
        /// What the decoder said.
        reason: String,
    },
}

/// Writes a request header *with* the four length bytes in front. The length is left zero; [`seal`] writes it.
pub fn put_request_header(
    buf: &mut BytesMut,
    api: ApiKey,
    version: i16,
    flexible: bool,
    correlation_id: i32,
    client_id: &str,
) {
    buf.put_i32(0);
    buf.put_i16(api.0);
    buf.put_i16(version);
    buf.put_i32(correlation_id);
    // The client id stays a plain nullable string even in flexible headers (KIP-482).
    let client_id = &client_id.as_bytes()[..client_id.len().min(i16::MAX as usize)];
    buf.put_i16(client_id.len() as i16);
    buf.put_slice(client_id);
    if flexible {
        buf.put_u8(0);
    }
}

/// Writes the length of a frame that begins at the start of `buf` and goes on for `more` bytes that are written separately.
///
/// # Panics
/// If `buf` has no room for a length, which [`put_request_header`] has put there.
pub fn seal(buf: &mut BytesMut, more: usize) {
    let length = (buf.len() - LENGTH_BYTES + more) as i32;
    buf[..LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Encodes only the message of a request.
///
/// # Errors
/// [`FrameError::Encode`] when a field is set that `version` does not have.
pub fn encode_body<R: Request>(request: &R, version: i16) -> Result<Bytes, FrameError> {
    let fail = |reason: String| FrameError::Encode { api: R::KEY, version, reason };
    let size = request.compute_size(version).map_err(|e| fail(e.to_string()))?;
    let mut buf = BytesMut::with_capacity(size);
    request.encode(&mut buf, version).map_err(|e| fail(e.to_string()))?;
    Ok(buf.freeze())
}

/// Decodes the message of a response, whose correlation id has been taken off already, and which may still carry header tags.
///
/// # Errors
/// [`FrameError::Decode`] when the bytes do not have the announced shape, or some are left over.
pub fn decode_body<R: Request>(mut body: Bytes, version: i16) -> Result<R::Response, FrameError> {
    let fail = |reason: String| FrameError::Decode { api: R::KEY, version, reason };
    if R::Response::header_version(version) >= 1 {
        skip_tags(&mut body).ok_or_else(|| fail("the header's tagged fields are cut off".to_owned()))?;
    }
    // The decoder believes what arrays announce; nothing reaches it that has not been walked over.
    validate::check(R::KEY, version, &body).map_err(|refusal| fail(refusal.to_string()))?;
    let response = R::Response::decode(&mut body, version).map_err(|e| fail(e.to_string()))?;
    if body.has_remaining() {
        return Err(fail(format!("{} bytes are left after the last field", body.remaining())));
    }
    Ok(response)
}

/// Whether requests of this type carry tags in their header in `version`.
pub fn request_is_flexible<R: Request>(version: i16) -> bool {
    R::header_version(version) >= 2
}

/// Skips the tagged fields at the front of `buf`; `None` if they are cut off.
pub fn skip_tags(buf: &mut Bytes) -> Option<()> {
    for _ in 0..uvarint(buf)? {
        uvarint(buf)?;
        let len = uvarint(buf)? as usize;
        if len > buf.remaining() {
            return None;
        }
        buf.advance(len);
    }
    Some(())
}

fn uvarint(buf: &mut Bytes) -> Option<u32> {
    let mut value = 0u32;
    for shift in (0..35).step_by(7) {
        let byte = buf.try_get_u8().ok()?;
        value |= u32::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::{ApiVersionsRequest, ApiVersionsResponse, HeartbeatRequest};

    #[test]
    fn a_header_of_a_flexible_version_ends_with_empty_tags() {
        let mut buf = BytesMut::new();
        put_request_header(&mut buf, ApiKey::HEARTBEAT, 4, request_is_flexible::<HeartbeatRequest>(4), 7, "me");
        seal(&mut buf, 10);
        assert_eq!(&buf[..], b"\x00\x00\x00\x17\x00\x0c\x00\x04\x00\x00\x00\x07\x00\x02me\x00");
    }

    #[test]
    fn the_api_versions_response_has_no_header_tags_in_any_version() {
        for version in 0..=4 {
            assert_eq!(ApiVersionsResponse::header_version(version), 0);
        }
        let short = Bytes::from_static(b"\x00\x23\x00\x00\x00\x00");
        let response = decode_body::<ApiVersionsRequest>(short, 0).unwrap();
        assert_eq!(response.error_code, 35);
    }

    #[test]
    fn left_over_and_missing_bytes_are_errors() {
        let long = Bytes::from_static(b"\x00\x23\x00\x00\x00\x00\x01");
        assert!(decode_body::<ApiVersionsRequest>(long, 0).unwrap_err().to_string().contains("1 bytes are left"));
        assert!(decode_body::<ApiVersionsRequest>(Bytes::from_static(b"\x00"), 0).is_err());
    }

    #[test]
    fn cut_tags_are_refused() {
        assert_eq!(skip_tags(&mut Bytes::from_static(&[1, 0, 5, 1])), None);
        assert_eq!(skip_tags(&mut Bytes::from_static(&[0xff; 9])), None);
        assert_eq!(skip_tags(&mut Bytes::from_static(&[1, 0, 1, 9])), Some(()));
    }
}

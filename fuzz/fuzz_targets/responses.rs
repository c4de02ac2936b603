//! Every response in every version, through the guard and the message crate's decoder.
//!
//! The first byte chooses the API, the second one the version; the others are the body behind the correlation id.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use milena_protocol::messages::*;
use milena_protocol::{Message, frame};

fuzz_target!(|data: &[u8]| {
    let [api, version, body @ ..] = data else { return };
    let body = Bytes::copy_from_slice(body);
    macro_rules! choose {
        ($($key:ident $request:ident $response:ident)*) => {{
            type Decode = fn(Bytes, u8);
            let decoders: &[Decode] = &[$(|body, version| {
                let versions = $request::VERSIONS;
                let version = versions.min + i16::from(version) % (versions.max - versions.min + 1);
                let _ = frame::decode_body::<$request>(body, version);
            }),*];
            decoders[usize::from(*api) % decoders.len()](body, *version);
        }};
    }
    milena_protocol::every_request!(choose);
});

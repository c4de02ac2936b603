//! Answers that name brokers get the proxy's addresses instead, and what they tell is learned.
//!
//! These are Metadata, FindCoordinator and DescribeCluster, and the hints of Produce (v10 on) and Fetch (v16 on) that name a new leader
//! (KIP-951). ApiVersions is cut down to the versions that the kit can read: a proxy that could not read an answer would let a client
//! escape. An answer that cannot be read goes through as it is.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use milena_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, DescribeClusterRequest, DescribeClusterResponse, FetchRequest,
    FetchResponse, FindCoordinatorRequest, FindCoordinatorResponse, MetadataRequest, MetadataResponse, ProduceRequest,
    ProduceResponse,
};
use milena_protocol::{ApiKey, Encodable, ErrorCode, HeaderVersion, Request, StrBytes, frame};

use super::Core;
use crate::apis::{self, Touched};
use crate::serving::{RequestHead, encode};

/// One request at one broker.
pub(super) struct Asked<'a> {
    pub(super) broker: i32,
    pub(super) head: &'a RequestHead,
    /// The partitions of a Fetch, with those of its session.
    pub(super) partitions: &'a [Touched],
}

/// Rewrites an answer, which comes without its length; what goes to the client has one.
pub(super) fn answer(core: &Arc<Core>, asked: &Asked<'_>, answer: Bytes) -> Bytes {
    let rewritten = match asked.head.api {
        ApiKey::METADATA => change::<MetadataRequest>(asked, &answer, |response| metadata(core, response)),
        ApiKey::FIND_COORDINATOR => {
            change::<FindCoordinatorRequest>(asked, &answer, |response| find_coordinator(core, response))
        }
        ApiKey::DESCRIBE_CLUSTER => {
            change::<DescribeClusterRequest>(asked, &answer, |response| describe_cluster(core, response))
        }
        ApiKey::PRODUCE if asked.head.version >= 10 => {
            change::<ProduceRequest>(asked, &answer, |response| produce(core, response))
        }
        ApiKey::FETCH if asked.head.version >= 7 => {
            change::<FetchRequest>(asked, &answer, |response| fetch(core, asked, response))
        }
        ApiKey::API_VERSIONS => change::<ApiVersionsRequest>(asked, &answer, api_versions),
        _ => None,
    };
    rewritten.unwrap_or_else(|| with_length(&answer))
}

/// Puts its length in front of a frame.
pub(super) fn with_length(frame: &Bytes) -> Bytes {
    [&(frame.len() as u32).to_be_bytes()[..], frame].concat().into()
}

/// Decodes an answer, and encodes it again if `f` has changed it.
fn change<R: Request<Response: Encodable>>(
    asked: &Asked<'_>,
    answer: &Bytes,
    f: impl FnOnce(&mut R::Response) -> bool,
) -> Option<Bytes>
where
    R::Response: HeaderVersion,
{
    let mut body = answer.clone();
    let correlation_id = body.try_get_i32().ok()?;
    let mut response = frame::decode_body::<R>(body, asked.head.version).ok()?;
    if !f(&mut response) {
        return None;
    }
    encode(&response, asked.head.version, correlation_id).ok()
}

/// Puts the proxy's address in the place of a broker's. A broker that cannot be listened for keeps its own.
fn redirect(core: &Arc<Core>, broker: i32, host: &mut StrBytes, port: &mut i32) {
    if broker < 0 || *port < 0 {
        return; // nobody
    }
    match core.port_of(broker, host.as_str(), *port) {
        Ok(local) => {
            *host = StrBytes::from_static_str("127.0.0.1");
            *port = i32::from(local);
        }
        Err(e) => tracing::error!(target: "milena_testkit", broker, error = %e, "the proxy cannot listen for a broker"),
    }
}

fn metadata(core: &Arc<Core>, response: &mut MetadataResponse) -> bool {
    for broker in &mut response.brokers {
        redirect(core, broker.node_id.0, &mut broker.host, &mut broker.port);
    }
    let mut inner = core.lock();
    for topic in &response.topics {
        if let Some(name) = &topic.name {
            inner.learned.topic(topic.topic_id, name.as_str());
        }
    }
    true
}

fn find_coordinator(core: &Arc<Core>, response: &mut FindCoordinatorResponse) -> bool {
    redirect(core, response.node_id.0, &mut response.host, &mut response.port);
    for found in &mut response.coordinators {
        redirect(core, found.node_id.0, &mut found.host, &mut found.port);
    }
    true
}

fn describe_cluster(core: &Arc<Core>, response: &mut DescribeClusterResponse) -> bool {
    for broker in &mut response.brokers {
        redirect(core, broker.broker_id.0, &mut broker.host, &mut broker.port);
    }
    true
}

fn produce(core: &Arc<Core>, response: &mut ProduceResponse) -> bool {
    for node in &mut response.node_endpoints {
        redirect(core, node.node_id.0, &mut node.host, &mut node.port);
    }
    !response.node_endpoints.is_empty()
}

fn fetch(core: &Arc<Core>, asked: &Asked<'_>, response: &mut FetchResponse) -> bool {
    if response.session_id > 0 {
        let places = asked.partitions.iter().cloned();
        core.lock().learned.session_is(asked.broker, response.session_id, places);
    }
    for node in &mut response.node_endpoints {
        redirect(core, node.node_id.0, &mut node.host, &mut node.port);
    }
    !response.node_endpoints.is_empty()
}

fn api_versions(response: &mut ApiVersionsResponse) -> bool {
    if response.error_code != ErrorCode::NONE.0 {
        return false;
    }
    for row in &mut response.api_keys {
        if let Some(known) = apis::find(ApiKey(row.api_key)) {
            row.max_version = row.max_version.min(known.max);
        }
    }
    true
}

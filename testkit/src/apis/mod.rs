//! The APIs, one file each, named as Kafka names them. Each file opens with the behaviour that it models and its version notes.
//!
//! An API is registered by its line in the table at the end; ApiVersions is derived from that table, so it is always honest. Every
//! version is answered that the message crate can speak, or of those the ones that the pinned release has (`kafka_version.rs`).

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
pub(crate) mod api_versions;
mod config_resources;
mod create_partitions;
pub(crate) mod create_topics;
mod delete_groups;
mod delete_records;
pub(crate) mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_producers;
mod describe_transactions;
mod described;
mod end_txn;
pub(crate) mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod list_transactions;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
pub(crate) mod produce;
mod sync_group;
mod txn_offset_commit;

use std::marker::PhantomData;

use bytes::Bytes;
use milena_protocol::{ApiKey, Decodable, Encodable, ErrorCode, HeaderVersion, Message, Request, StrBytes, validate};
use tokio::time::Instant;
use uuid::Uuid;

use crate::faults::InjectedError;
use crate::state::{Settings, State};
use crate::throttling::Throttled;
pub(crate) use described::{Touched, touches};
use described::{listed, whole};
pub(crate) use offset_for_leader_epoch::check_epoch;

/// One request, but for its body.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) connection: u64,
    pub(crate) broker: i32,
    pub(crate) api: ApiKey,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    pub(crate) client_id: StrBytes,
    /// Errors that faults want to see.
    pub(crate) errors: Vec<InjectedError>,
    pub(crate) now: Instant,
}

impl Call {
    /// The error that a fault injects for this partition.
    pub(crate) fn injected(&self, topic: &str, partition: i32) -> Result<(), ErrorCode> {
        match self.errors.iter().find(|error| error.concerns(topic, partition)) {
            Some(error) => Err(error.code()),
            None => Ok(()),
        }
    }

    /// The error that a fault injects for a request without partitions.
    pub(crate) fn injected_for_request(&self) -> Result<(), ErrorCode> {
        self.errors.first().map_or(Ok(()), |error| Err(error.code()))
    }

    /// The error that a fault injects without naming a topic or partition, if it is one of these codes.
    pub(crate) fn injected_at_the_top(&self, is_such: impl Fn(ErrorCode) -> bool) -> Result<(), ErrorCode> {
        let mut whole = self.errors.iter().filter(|error| error.is_for_all() && is_such(error.code()));
        whole.next().map_or(Ok(()), |error| Err(error.code()))
    }

    /// What a handler keeps that answers later.
    pub(crate) fn pending<R>(&self) -> Pending<R> {
        Pending {
            connection: self.connection,
            version: self.version,
            correlation_id: self.correlation_id,
            response: PhantomData,
        }
    }
}

/// The right to answer one request, now or later.
#[derive(Debug)]
pub(crate) struct Pending<R> {
    pub(crate) connection: u64,
    pub(crate) version: i16,
    pub(crate) correlation_id: i32,
    response: PhantomData<fn(R)>,
}

/// How a handler ended.
pub(crate) enum Served<R> {
    /// This is the answer.
    Now(R),
    /// The handler has kept [`Call::pending`] and will answer.
    Later,
    /// There is no answer, and the next request may come (acks=0).
    Never,
    /// A broker closes the connection.
    Close(String),
}

/// The connection has to be closed, with the reason.
pub(crate) struct Close(pub(crate) String);

/// What one has to know to read a request: a cluster knows it, and a proxy in front of one learns it.
pub(crate) trait Names {
    /// The name of the topic with this id.
    fn name_of(&self, id: &Uuid) -> Option<&str>;

    /// Whether there are any topics.
    fn has_topics(&self) -> bool {
        true
    }

    /// The partitions of a fetch session.
    fn session(&self, broker: i32, session: i32) -> Vec<Touched>;

    /// The name of a topic that is given by name or, from some version of the API on, by id.
    fn topic_name<'a>(&'a self, by_id: bool, name: &'a str, id: &Uuid) -> Option<&'a str> {
        if by_id { self.name_of(id) } else { Some(name) }
    }
}

/// One API: how its requests are described and served.
pub(crate) trait Api: 'static {
    /// The request; its response comes with it.
    type Request: Request<Response: Encodable + Throttled> + Decodable + Sync;
    /// The lowest version that is served.
    const MIN: i16 = <Self::Request as Message>::VERSIONS.min;
    /// The highest version that is served.
    const MAX: i16 = <Self::Request as Message>::VERSIONS.max;

    /// What the request is about, in a few words, for the log.
    fn digest(_names: &dyn Names, _call: &Call, _request: &Self::Request) -> String {
        String::new()
    }

    /// The partitions that the request touches, for faults.
    fn partitions(_names: &dyn Names, _call: &Call, _request: &Self::Request) -> Vec<Touched> {
        Vec::new()
    }

    /// The group that the request names, for faults.
    fn group(_request: &Self::Request) -> Option<String> {
        None
    }

    /// The transactional id that the request names, for faults.
    fn transactional_id(_request: &Self::Request) -> Option<String> {
        None
    }

    /// Whether the request gets an answer.
    fn is_answered(_request: &Self::Request) -> bool {
        true
    }

    /// The only error codes that have a place in the answer, for faults; `None` if all have.
    fn tells_only(_names: &dyn Names, _call: &Call, _request: &Self::Request) -> Option<&'static [ErrorCode]> {
        None
    }

    /// Serves the request.
    fn serve(state: &mut State, call: &Call, request: Self::Request) -> Served<<Self::Request as Request>::Response>;
}

/// Serves one decoded request.
pub(crate) type Serve = Box<dyn FnOnce(&mut State, Call) -> Result<(), Close> + Send>;

/// A request that has been read and can be served now or later.
pub(crate) struct Parked {
    pub(crate) call: Call,
    pub(crate) serve: Serve,
}

/// What can be said about a request without serving it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Described {
    pub(crate) digest: String,
    pub(crate) partitions: Vec<Touched>,
    pub(crate) group: Option<String>,
    pub(crate) transactional_id: Option<String>,
    pub(crate) is_answered: bool,
    /// The only codes that have a place in the answer; `None` if all have.
    pub(crate) tells_only: Option<&'static [ErrorCode]>,
}

/// A request that has been decoded.
pub(crate) struct Opened {
    pub(crate) described: Described,
    pub(crate) serve: Serve,
}

/// A row of the table of APIs.
pub(crate) struct Registered {
    pub(crate) key: ApiKey,
    pub(crate) min: i16,
    pub(crate) max: i16,
    pub(crate) request_header_version: fn(i16) -> i16,
    pub(crate) open: fn(&State, &Call, Bytes) -> Result<Opened, String>,
    pub(crate) describe: fn(&dyn Names, &Call, Bytes) -> Result<Described, String>,
}

impl Registered {
    /// The lowest and the highest version that is served by brokers of a release, and no newer one than was set; `None` if they do not
    /// have the API.
    pub(crate) fn versions(&self, settings: &Settings) -> Option<(i16, i16)> {
        let newest = settings.newest.get(&self.key).copied().unwrap_or(i16::MAX);
        let Some(release) = settings.kafka_version else { return Some((self.min, self.max.min(newest))) };
        let (min, max) = release.versions(self.key)?;
        let max = max.min(newest);
        let both = (min.max(self.min), max.min(self.max));
        (both.0 <= both.1).then_some(both)
    }
}

const fn register<A: Api>() -> Registered {
    Registered {
        key: <A::Request as Request>::KEY,
        min: A::MIN,
        max: A::MAX,
        request_header_version: <A::Request as HeaderVersion>::header_version,
        open: open::<A>,
        describe: |names, call, body| Ok(describe::<A>(names, call, &decode::<A>(call, body)?.0)),
    }
}

/// A request, and how many bytes stand behind it.
fn decode<A: Api>(call: &Call, mut body: Bytes) -> Result<(A::Request, usize), String> {
    // The decoder reserves memory for as many elements as an array announces.
    let left = validate::check_request(call.api, call.version, &body).map_err(|e| e.to_string())?;
    let request = A::Request::decode(&mut body, call.version).map_err(|e| e.to_string())?;
    Ok((request, left))
}

fn describe<A: Api>(names: &dyn Names, call: &Call, request: &A::Request) -> Described {
    Described {
        digest: A::digest(names, call, request),
        partitions: A::partitions(names, call, request),
        group: A::group(request),
        transactional_id: A::transactional_id(request),
        is_answered: A::is_answered(request),
        tells_only: A::tells_only(names, call, request),
    }
}

fn open<A: Api>(state: &State, call: &Call, body: Bytes) -> Result<Opened, String> {
    let (request, left) = decode::<A>(call, body)?;
    // Nobody asks what a request is about where nothing is logged and no fault compares.
    let asked = state.log.is_on() || !state.faults.is_empty();
    Ok(Opened {
        described: if asked { describe::<A>(state, call, &request) } else { Described::default() },
        serve: Box::new(move |state, call| {
            if left > 0 {
                // Kafka does not mind; a client that is right does not do it.
                let (client, api, version) = (call.client_id.as_str(), call.api, call.version);
                state.violation(format!(
                    "client {client:?} sent {left} bytes behind the last field of {api} v{version}"
                ));
            }
            match A::serve(state, &call, request) {
                Served::Now(response) => state.answer(&call.pending(), &response, call.now),
                Served::Later => {}
                Served::Never => state.answer_nothing(call.connection, call.now),
                Served::Close(reason) => return Err(Close(reason)),
            }
            Ok(())
        }),
    })
}

/// The row of an API.
pub(crate) fn find(api: ApiKey) -> Option<&'static Registered> {
    APIS.iter().find(|row| row.key == api)
}

macro_rules! apis {
    ($($file:ident $name:ident $key:ident)*) => {
        /// All APIs, in the order of their numbers.
        pub(crate) static APIS: &[Registered] = &[$(register::<$file::$name>(),)*];

        /// An API that this cluster serves, by Kafka's name. Faults take this or an [`ApiKey`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[non_exhaustive]
        #[allow(missing_docs)] // Kafka's names are the documentation
        pub enum ApiName {
            $($name,)*
        }

        impl From<ApiName> for ApiKey {
            fn from(api: ApiName) -> Self {
                match api {
                    $(ApiName::$name => Self::$key,)*
                }
            }
        }
    };
}

apis! {
    produce Produce PRODUCE
    fetch Fetch FETCH
    list_offsets ListOffsets LIST_OFFSETS
    metadata Metadata METADATA
    offset_commit OffsetCommit OFFSET_COMMIT
    offset_fetch OffsetFetch OFFSET_FETCH
    find_coordinator FindCoordinator FIND_COORDINATOR
    join_group JoinGroup JOIN_GROUP
    heartbeat Heartbeat HEARTBEAT
    leave_group LeaveGroup LEAVE_GROUP
    sync_group SyncGroup SYNC_GROUP
    describe_groups DescribeGroups DESCRIBE_GROUPS
    list_groups ListGroups LIST_GROUPS
    api_versions ApiVersions API_VERSIONS
    create_topics CreateTopics CREATE_TOPICS
    delete_topics DeleteTopics DELETE_TOPICS
    delete_records DeleteRecords DELETE_RECORDS
    init_producer_id InitProducerId INIT_PRODUCER_ID
    offset_for_leader_epoch OffsetForLeaderEpoch OFFSET_FOR_LEADER_EPOCH
    add_partitions_to_txn AddPartitionsToTxn ADD_PARTITIONS_TO_TXN
    add_offsets_to_txn AddOffsetsToTxn ADD_OFFSETS_TO_TXN
    end_txn EndTxn END_TXN
    txn_offset_commit TxnOffsetCommit TXN_OFFSET_COMMIT
    describe_configs DescribeConfigs DESCRIBE_CONFIGS
    alter_configs AlterConfigs ALTER_CONFIGS
    create_partitions CreatePartitions CREATE_PARTITIONS
    delete_groups DeleteGroups DELETE_GROUPS
    incremental_alter_configs IncrementalAlterConfigs INCREMENTAL_ALTER_CONFIGS
    offset_delete OffsetDelete OFFSET_DELETE
    describe_cluster DescribeCluster DESCRIBE_CLUSTER
    describe_producers DescribeProducers DESCRIBE_PRODUCERS
    describe_transactions DescribeTransactions DESCRIBE_TRANSACTIONS
    list_transactions ListTransactions LIST_TRANSACTIONS
}

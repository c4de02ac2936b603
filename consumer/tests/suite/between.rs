//! Somebody between a client and its brokers who alters what they say: for answers that no cluster gives. The broker has done what it
//! was asked for all the same.

#![expect(clippy::disallowed_methods, reason = "a test plays the network: it spawns")]

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use milena_client::protocol::messages::{
    FetchRequest, FetchResponse, MetadataRequest, MetadataResponse, OffsetForLeaderEpochRequest,
    OffsetForLeaderEpochResponse, RequestHeader, ResponseHeader,
};
use milena_client::protocol::{ApiKey, Decodable, Encodable, HeaderVersion};
use milena_client::{Client, ClientBuilder};
use milena_testkit::{Cluster, ClusterBuilder, MemoryStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tower::{ServiceExt, service_fn};

use crate::common::World;

/// Changes an answer, with the broker's id and what it was asked.
type Alter<Q, A> = Box<dyn FnMut(i32, &Q, &mut A) + Send>;

/// What is done with the answers of each API.
#[derive(Default)]
struct Words {
    fetch: Option<Alter<FetchRequest, FetchResponse>>,
    metadata: Option<Alter<MetadataRequest, MetadataResponse>>,
    epoch_ends: Option<Alter<OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse>>,
}

/// What stands between. Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Between(Arc<Mutex<Words>>);

impl Between {
    /// A world whose client hears its brokers through this only.
    pub(crate) async fn start(builder: ClusterBuilder) -> (World, Self) {
        let between = Self::default();
        let cluster = builder.start_in_memory().unwrap();
        let client = between.client(&cluster).connect().await.unwrap();
        (World::of(cluster, client), between)
    }

    fn client(&self, cluster: &Cluster) -> ClientBuilder {
        let (brokers, between) = (cluster.connector(), self.clone());
        let connector = service_fn(move |address: SocketAddr| {
            let (brokers, between) = (brokers.clone(), between.clone());
            async move {
                let broker = brokers.oneshot(address).await?;
                let (ours, theirs) = duplex(256 << 10);
                let id = match address {
                    SocketAddr::V4(address) => i32::from(address.ip().octets()[3]),
                    SocketAddr::V6(_) => -1,
                };
                tokio::spawn(between.stand(id, theirs, broker));
                Ok::<_, io::Error>(ours)
            }
        });
        Client::builder(cluster.bootstrap_servers())
            .connector(connector)
            .resolver(cluster.resolver())
            .simulation(tokio::runtime::Handle::current())
            .seed(7)
    }

    /// Alters answers to Fetch from now on.
    pub(crate) fn alter_fetches(&self, alter: impl FnMut(i32, &FetchRequest, &mut FetchResponse) + Send + 'static) {
        self.0.lock().unwrap().fetch = Some(Box::new(alter));
    }

    /// Alters answers to Metadata from now on.
    pub(crate) fn alter_metadata(&self, mut alter: impl FnMut(&mut MetadataResponse) + Send + 'static) {
        self.0.lock().unwrap().metadata = Some(Box::new(move |_, _, answer| alter(answer)));
    }

    /// Alters answers to OffsetForLeaderEpoch from now on.
    pub(crate) fn alter_epoch_ends(&self, mut alter: impl FnMut(&mut OffsetForLeaderEpochResponse) + Send + 'static) {
        self.0.lock().unwrap().epoch_ends = Some(Box::new(move |_, _, answer| alter(answer)));
    }

    /// Alters nothing any more.
    pub(crate) fn step_aside(&self) {
        *self.0.lock().unwrap() = Words::default();
    }

    async fn stand(self, id: i32, mut client: DuplexStream, mut broker: MemoryStream) {
        while let Some(request) = frame(&mut client).await {
            if broker.write_all(&request).await.is_err() {
                return;
            }
            let Some(answer) = frame(&mut broker).await else { return };
            let answer = self.altered(id, &request, answer);
            if client.write_all(&answer).await.is_err() {
                return;
            }
        }
    }

    fn altered(&self, broker: i32, request: &[u8], answer: Vec<u8>) -> Vec<u8> {
        let mut words = self.0.lock().unwrap();
        match ApiKey(i16::from_be_bytes([request[4], request[5]])) {
            ApiKey::FETCH => through(&mut words.fetch, broker, request, answer),
            ApiKey::METADATA => through(&mut words.metadata, broker, request, answer),
            ApiKey::OFFSET_FOR_LEADER_EPOCH => through(&mut words.epoch_ends, broker, request, answer),
            _ => answer,
        }
    }
}

/// One frame with its length in front; `None` at the end of the stream.
async fn frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    stream.read_exact(&mut frame[4..]).await.ok()?;
    Some(frame)
}

fn through<Q, A>(alter: &mut Option<Alter<Q, A>>, broker: i32, request: &[u8], answer: Vec<u8>) -> Vec<u8>
where
    Q: Decodable + HeaderVersion,
    A: Decodable + Encodable + HeaderVersion,
{
    let Some(alter) = alter else { return answer };
    let version = i16::from_be_bytes([request[6], request[7]]);
    let mut request = BytesMut::from(&request[4..]).freeze();
    RequestHeader::decode(&mut request, Q::header_version(version)).unwrap();
    let request = Q::decode(&mut request, version).unwrap();
    let mut answer = BytesMut::from(&answer[4..]).freeze();
    let header = ResponseHeader::decode(&mut answer, A::header_version(version)).unwrap();
    let mut message = A::decode(&mut answer, version).unwrap();
    assert!(!answer.has_remaining());
    alter(broker, &request, &mut message);
    let mut frame = BytesMut::zeroed(4);
    header.encode(&mut frame, A::header_version(version)).unwrap();
    message.encode(&mut frame, version).unwrap();
    let length = (frame.len() as i32 - 4).to_be_bytes();
    frame[..4].copy_from_slice(&length);
    frame.to_vec()
}

//! A broker that answers as it should, until it is asked to write or to read: what comes then is half a frame, another request's
//! answer, two gibibytes, nothing at all … In memory, in virtual time, with an allocator that counts.
//!
//! (What a client does when the very first answers are like that: `client/tests/hostile_servers.rs`.)

#![expect(clippy::disallowed_methods, reason = "the test plays the network: it spawns, sleeps and reads the clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

#[path = "../../protocol/tests/support/alloc.rs"]
#[expect(dead_code, reason = "the numbers of cases are for fuzzed frames")]
mod alloc;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use milena::{ApiKey, Client, Delivery, ErrorKind, Producer, Record, StartAt};
use milena_integration_tests::simulated;
use milena_testkit::{Cluster, MemoryStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tower::{ServiceExt, service_fn};

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

const SECOND: Duration = Duration::from_secs(1);
const MIB: usize = 1 << 20;
const TOPIC: &str = "orders";
const RECORDS: i64 = 20;

/// What comes instead of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trick {
    HalfAFrame,
    AnotherRequestsAnswer,
    TwoGibibytes,
    LessThanNothing,
    Garbage,
    Silence,
    /// A length that is allowed, a mebibyte of it, and then silence.
    LargeAndNeverThere,
    HttpServer,
    TlsPort,
    EmptyAnswer,
}

/// Each with what its error says.
const TRICKS: [(Trick, &str); 10] = [
    (Trick::HalfAFrame, "closed the connection"),
    (Trick::AnotherRequestsAnswer, "it answered request"),
    (Trick::TwoGibibytes, "it announced a frame of 2147483647 bytes"),
    (Trick::LessThanNothing, "it announced a frame of -7 bytes"),
    (Trick::Garbage, "does not speak Kafka as expected"),
    (Trick::Silence, "did not answer in time"),
    (Trick::LargeAndNeverThere, "did not answer in time"),
    (Trick::HttpServer, "an HTTP server is listening on that port"),
    (Trick::TlsPort, "that port speaks TLS"),
    (Trick::EmptyAnswer, "cannot be read"),
];

impl Trick {
    /// Plays it on the client. `answer` is the true one. Does not return while the other side must not see an end.
    async fn play(self, client: &mut DuplexStream, answer: &[u8]) {
        let id = &answer[4..8];
        let sent: Vec<u8> = match self {
            Self::HalfAFrame => answer[..answer.len() / 2].to_vec(),
            Self::AnotherRequestsAnswer => {
                let mut other = answer.to_vec();
                other[4] ^= 0x40;
                other
            }
            Self::TwoGibibytes => [&i32::MAX.to_be_bytes()[..], id].concat(),
            Self::LessThanNothing => [&(-7_i32).to_be_bytes()[..], id].concat(),
            Self::Garbage => (0..200_u8).map(|n| n.wrapping_mul(151) ^ 0x5a).collect(),
            Self::Silence => Vec::new(),
            Self::LargeAndNeverThere => {
                let mut large = [&(200_i32 << 20).to_be_bytes()[..], id].concat();
                large.resize(MIB, 0);
                large
            }
            Self::HttpServer => b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec(),
            Self::TlsPort => vec![0x15, 3, 3, 0, 2, 2, 70, 0, 0],
            Self::EmptyAnswer => [&4_i32.to_be_bytes()[..], id].concat(),
        };
        // A client that has understood closes in the middle of it.
        if client.write_all(&sent).await.is_ok() && self != Self::HalfAFrame {
            until_closed(client).await;
        }
    }
}

async fn until_closed(stream: &mut DuplexStream) {
    let mut sink = [0; 4096];
    while matches!(stream.read(&mut sink).await, Ok(1..)) {}
}

/// One frame with its length in front; `None` at the end of the stream.
async fn frame(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Vec<u8>> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.resize(4 + length as usize, 0);
    stream.read_exact(&mut frame[4..]).await.ok()?;
    Some(frame)
}

/// Stands between a client and a broker and plays with the answers of `api`; the broker has done what was asked all the same.
async fn stand_between(mut client: DuplexStream, mut broker: MemoryStream, api: ApiKey, play: Play) {
    while let Some(request) = frame(&mut client).await {
        let asked = ApiKey(i16::from_be_bytes([request[4], request[5]]));
        if broker.write_all(&request).await.is_err() {
            return;
        }
        let Some(mut answer) = frame(&mut broker).await else { return };
        match &play {
            Play::Trick(trick, left) if asked == api && is_left(left) => {
                return trick.play(&mut client, &answer).await;
            }
            Play::ByteByByte if asked == api => {
                for byte in &answer[..answer.len() - 1] {
                    if client.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                answer.drain(..answer.len() - 1);
            }
            _ => {}
        }
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

/// Takes one off.
fn is_left(left: &AtomicUsize) -> bool {
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

#[derive(Clone)]
enum Play {
    /// This trick, as often.
    Trick(Trick, Arc<AtomicUsize>),
    /// The true answer, byte by byte.
    ByteByByte,
}

struct World {
    cluster: Cluster,
    client: Client,
}

impl World {
    async fn new(api: ApiKey, play: Play) -> Self {
        let cluster = Cluster::builder().brokers(1).topic(TOPIC, 1).start_in_memory().unwrap();
        let brokers = cluster.connector();
        let connector = service_fn(move |address: SocketAddr| {
            let (brokers, play) = (brokers.clone(), play.clone());
            async move {
                let broker = brokers.oneshot(address).await?;
                let (ours, theirs) = duplex(64 * 1024);
                tokio::spawn(stand_between(theirs, broker, api, play));
                Ok::<_, io::Error>(ours)
            }
        });
        let builder = simulated(&cluster).request_timeout(SECOND * 5).connector(connector);
        let client = builder.connect().await.unwrap();
        Self { cluster, client }
    }

    async fn producer(&self) -> Producer {
        let builder = self.client.producer().request_timeout(SECOND * 5).delivery_timeout(SECOND * 30);
        builder.linger(Duration::ZERO).build().await.unwrap()
    }

    async fn send_all(&self, producer: &Producer) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for number in 0..RECORDS {
            deliveries.push(producer.send(&Record::to(TOPIC).value(&number.to_string())).await.unwrap());
            sleep(SECOND / 100).await;
        }
        deliveries
    }

    /// Everything that was sent is there once.
    fn assert_written_once(&self) {
        let values = self.cluster.records(TOPIC, 0).into_iter().map(|record| record.value.unwrap());
        let values: Vec<String> = values.map(|value| String::from_utf8(value.to_vec()).unwrap()).collect();
        assert_eq!(values, (0..RECORDS).map(|number| number.to_string()).collect::<Vec<_>>());
    }

    async fn end(self) {
        let Self { cluster, client } = self;
        client.close().await;
        assert_eq!((client.tasks(), client.sockets()), (0, 0));
        drop(client);
        cluster.shutdown().await;
        sleep(SECOND).await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "a task is left");
    }
}

/// Runs a scenario in virtual time, and sees to it that it holds no more memory than a quiet client needs.
fn run(story: &str, scenario: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let ((), usage) = alloc::measure(|| runtime.block_on(scenario));
    println!("{story}: {} KiB at most", usage.peak / 1024);
    assert!(usage.peak < 12 * MIB, "{story}: {} bytes at once", usage.peak);
}

#[test]
fn a_producer_goes_on_when_the_broker_comes_to_its_senses() {
    for (trick, _) in TRICKS {
        run(&format!("Produce, three times {trick:?}"), async {
            let world = World::new(ApiKey::PRODUCE, Play::Trick(trick, Arc::new(AtomicUsize::new(3)))).await;
            let producer = world.producer().await;
            let began = Instant::now();
            for delivery in world.send_all(&producer).await {
                delivery.await.unwrap();
            }
            assert!(began.elapsed() < SECOND * 20, "{trick:?}: it took {:?}", began.elapsed());
            world.assert_written_once();
            producer.close(SECOND * 5).await.unwrap();
            drop(producer);
            world.end().await;
        });
    }
}

#[test]
fn a_producer_whose_broker_never_answers_sensibly_says_what_is_wrong_at_the_delivery_timeout() {
    for (trick, said) in TRICKS {
        run(&format!("Produce, always {trick:?}"), async {
            let world = World::new(ApiKey::PRODUCE, Play::Trick(trick, Arc::new(AtomicUsize::new(usize::MAX)))).await;
            let producer = world.producer().await;
            let began = Instant::now();
            let delivery = producer.send(&Record::to(TOPIC).value("v")).await.unwrap();
            let error = delivery.await.unwrap_err();
            let took = began.elapsed();
            println!("  {error}");
            assert_eq!(error.kind(), ErrorKind::Timeout);
            assert!(took >= SECOND * 30 && took < SECOND * 31, "{trick:?}: it took {took:?}");
            let text = error.to_string();
            assert!(text.contains(said), "{trick:?}: {text}");
            assert!(trick == Trick::EmptyAnswer || text.contains("broker-1:9092"), "it names the address: {text}");
            let began = Instant::now();
            let _ = producer.close(SECOND * 5).await;
            assert!(began.elapsed() <= SECOND * 6, "closing keeps its deadline");
            drop(producer);
            world.end().await;
        });
    }
}

#[test]
fn a_consumer_goes_on_when_the_broker_comes_to_its_senses() {
    for (trick, _) in TRICKS {
        run(&format!("Fetch, three times {trick:?}"), async {
            let world = World::new(ApiKey::FETCH, Play::Trick(trick, Arc::new(AtomicUsize::new(3)))).await;
            let producer = world.producer().await;
            for delivery in world.send_all(&producer).await {
                delivery.await.unwrap();
            }
            producer.close(SECOND).await.unwrap();
            drop(producer);
            let began = Instant::now();
            let builder = world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
            let mut consumer = builder.build().await.unwrap();
            for offset in 0..RECORDS {
                let record = consumer.recv().await.unwrap().unwrap();
                assert_eq!((record.offset(), record.value().unwrap()), (offset, offset.to_string().as_bytes()));
            }
            assert!(began.elapsed() < SECOND * 20, "{trick:?}: it took {:?}", began.elapsed());
            consumer.close(SECOND * 5).await.unwrap();
            world.end().await;
        });
    }
}

#[test]
fn a_consumer_whose_broker_never_answers_sensibly_keeps_its_deadlines() {
    for (trick, _) in TRICKS {
        run(&format!("Fetch, always {trick:?}"), async {
            let world = World::new(ApiKey::FETCH, Play::Trick(trick, Arc::new(AtomicUsize::new(usize::MAX)))).await;
            let builder = world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
            let mut consumer = builder.build().await.unwrap();
            for _ in 0..10 {
                let began = Instant::now();
                assert!(consumer.poll(SECOND * 3).await.unwrap().is_empty());
                assert_eq!(began.elapsed(), SECOND * 3);
            }
            let asked = world.cluster.requests(ApiKey::FETCH);
            assert!((2..=60).contains(&asked), "{trick:?}: asked {asked} times in half a minute");
            let began = Instant::now();
            consumer.close(SECOND * 5).await.unwrap();
            assert!(began.elapsed() <= SECOND * 5);
            world.end().await;
        });
    }
}

#[test]
fn answers_that_come_byte_by_byte_are_read() {
    run("Produce and Fetch, byte by byte", async {
        for api in [ApiKey::PRODUCE, ApiKey::FETCH] {
            let world = World::new(api, Play::ByteByByte).await;
            let producer = world.producer().await;
            for delivery in world.send_all(&producer).await {
                delivery.await.unwrap();
            }
            producer.close(SECOND).await.unwrap();
            drop(producer);
            let builder = world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
            let mut consumer = builder.build().await.unwrap();
            for offset in 0..RECORDS {
                assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), offset);
            }
            consumer.close(SECOND * 5).await.unwrap();
            world.end().await;
        }
    });
}

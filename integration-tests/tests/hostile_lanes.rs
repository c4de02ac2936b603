//! A broker that answers as it should, until it is asked to write, to read, to coordinate a group or a transaction, to create a topic:
//! what comes then is half a frame, another request's answer, two gibibytes, nothing at all … In memory, in virtual time, with an
//! allocator that counts. [`ROWS`] has every request that an application causes, and what the application does then.
//!
//! (What a client does when the very first answers are like that: `client/tests/hostile_servers.rs`.)

#![expect(clippy::disallowed_methods, reason = "the test plays the network: it spawns, sleeps and reads the clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

#[path = "../../protocol/tests/support/alloc.rs"]
#[expect(dead_code, reason = "the numbers of cases are for fuzzed frames")]
mod alloc;

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena::{
    ApiKey, Client, Consumer, Delivery, Error, ErrorKind, GroupMetadata, NewTopic, OffsetAndMetadata, OffsetReset,
    OffsetSpec, Producer, Record, StartAt, TopicPartition,
};
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

/// Stands between a client and a broker and plays with the answers of one API; the broker has done what was asked all the same.
async fn stand_between(mut client: DuplexStream, mut broker: MemoryStream, stage: Stage) {
    let mut first: Option<Vec<u8>> = None;
    while let Some(request) = frame(&mut client).await {
        let asked = ApiKey(i16::from_be_bytes([request[4], request[5]]));
        if broker.write_all(&request).await.is_err() {
            return;
        }
        let Some(mut answer) = frame(&mut broker).await else { return };
        match stage.next(asked) {
            Play::Trick(trick, _) => return trick.play(&mut client, &answer).await,
            Play::ByteByByte => {
                for byte in &answer[..answer.len() - 1] {
                    if client.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    sleep(Duration::from_millis(1)).await;
                }
                answer.drain(..answer.len() - 1);
            }
            Play::FirstAnswerAgain(_) => {
                let mut again = first.get_or_insert_with(|| answer.clone()).clone();
                again[4..8].copy_from_slice(&answer[4..8]);
                answer = again;
            }
            Play::Nothing => {}
        }
        if client.write_all(&answer).await.is_err() {
            return;
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Play {
    /// The true answer.
    Nothing,
    /// This trick, so often.
    Trick(Trick, usize),
    /// The true answer, byte by byte.
    ByteByByte,
    /// The connection's first answer, so often.
    FirstAnswerAgain(usize),
}

/// What is played on the answers to one API, on all connections.
#[derive(Clone)]
struct Stage {
    api: ApiKey,
    play: Arc<Mutex<Play>>,
}

impl Stage {
    /// What the next answer becomes.
    fn next(&self, asked: ApiKey) -> Play {
        if asked != self.api {
            return Play::Nothing;
        }
        let mut play = self.play.lock().unwrap();
        match *play {
            Play::Trick(_, 0) => Play::Nothing,
            Play::Trick(trick, left) => {
                *play = Play::Trick(trick, left - 1);
                Play::Trick(trick, left)
            }
            Play::FirstAnswerAgain(0) => Play::Nothing,
            Play::FirstAnswerAgain(left) => {
                *play = Play::FirstAnswerAgain(left - 1);
                Play::FirstAnswerAgain(left)
            }
            other => other,
        }
    }
}

struct World {
    cluster: Cluster,
    client: Client,
    stage: Stage,
}

impl World {
    /// A topic without records.
    async fn new(api: ApiKey, play: Play) -> Self {
        let world = Self::start(api, 2).await;
        world.play(play);
        world
    }

    /// A topic with one record.
    async fn of(row: &Row) -> Self {
        let world = Self::start(row.api, row.transactions).await;
        let producer = world.producer().await;
        producer.send(&Record::to(TOPIC).value("a")).await.unwrap().await.unwrap();
        producer.close(SECOND).await.unwrap();
        world
    }

    async fn start(api: ApiKey, transactions: i16) -> Self {
        let cluster =
            Cluster::builder().brokers(1).topic(TOPIC, 1).transaction_version(transactions).start_in_memory().unwrap();
        let stage = Stage { api, play: Arc::new(Mutex::new(Play::Nothing)) };
        let (brokers, shown) = (cluster.connector(), stage.clone());
        let connector = service_fn(move |address: SocketAddr| {
            let (brokers, stage) = (brokers.clone(), shown.clone());
            async move {
                let broker = brokers.oneshot(address).await?;
                let (ours, theirs) = duplex(64 * 1024);
                tokio::spawn(stand_between(theirs, broker, stage));
                Ok::<_, io::Error>(ours)
            }
        });
        let builder = simulated(&cluster).request_timeout(SECOND * 5).connector(connector);
        let client = builder.connect().await.unwrap();
        Self { cluster, client, stage }
    }

    fn play(&self, play: Play) {
        *self.stage.play.lock().unwrap() = play;
    }

    fn is_played(&self) -> bool {
        matches!(*self.stage.play.lock().unwrap(), Play::Trick(_, 0))
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
        let Self { cluster, client, .. } = self;
        client.close().await;
        assert_eq!((client.tasks(), client.sockets()), (0, 0));
        drop(client);
        cluster.shutdown().await;
        sleep(SECOND).await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "a task is left");
    }
}

/// A request, and what an application does that leads to it.
struct Row {
    api: ApiKey,
    /// The level of transaction.version: 2 is KIP-890, below it some requests have been replaced.
    transactions: i16,
    act: for<'a> fn(&'a World) -> Acted<'a>,
    /// What comes of it when the answers never make sense.
    never: Never,
}

type Acted<'a> = Pin<Box<dyn Future<Output = Result<(), Error>> + 'a>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Never {
    /// A call fails, at the latest after so many seconds, and says what was wrong with the answer.
    FailsWithin(u64),
    /// Nothing is read. A poll returns when its time is over and the log says what was wrong, or the poll says it.
    ReadsNothing,
    /// It goes on all the same.
    GoesOn,
}

const ROWS: &[Row] = &[
    row(ApiKey::METADATA, 2, |world| Box::pin(a_new_topic(world)), Never::FailsWithin(30)),
    row(ApiKey::CREATE_TOPICS, 2, |world| Box::pin(create_a_topic(world)), Never::FailsWithin(30)),
    row(ApiKey::LIST_OFFSETS, 2, |world| Box::pin(list_offsets(world)), Never::FailsWithin(30)),
    row(ApiKey::PRODUCE, 2, |world| Box::pin(write(world)), Never::FailsWithin(30)),
    row(ApiKey::FETCH, 2, |world| Box::pin(read(world)), Never::ReadsNothing),
    row(ApiKey::FIND_COORDINATOR, 2, |world| Box::pin(read_in_a_group(world)), Never::ReadsNothing),
    row(ApiKey::JOIN_GROUP, 2, |world| Box::pin(read_in_a_group(world)), Never::ReadsNothing),
    row(ApiKey::SYNC_GROUP, 2, |world| Box::pin(read_in_a_group(world)), Never::ReadsNothing),
    row(ApiKey::OFFSET_FETCH, 2, |world| Box::pin(read_in_a_group(world)), Never::ReadsNothing),
    row(ApiKey::HEARTBEAT, 2, |world| Box::pin(stay_in_a_group(world)), Never::GoesOn),
    row(ApiKey::OFFSET_COMMIT, 2, |world| Box::pin(commit_in_a_group(world)), Never::FailsWithin(60)),
    row(ApiKey::LEAVE_GROUP, 2, |world| Box::pin(read_in_a_group(world)), Never::GoesOn),
    row(ApiKey::INIT_PRODUCER_ID, 2, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
    row(ApiKey::ADD_PARTITIONS_TO_TXN, 1, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
    row(ApiKey::ADD_OFFSETS_TO_TXN, 1, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
    row(ApiKey::TXN_OFFSET_COMMIT, 1, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
    row(ApiKey::TXN_OFFSET_COMMIT, 2, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
    row(ApiKey::END_TXN, 1, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
    row(ApiKey::END_TXN, 2, |world| Box::pin(transact(world)), Never::FailsWithin(30)),
];

const fn row(api: ApiKey, transactions: i16, act: for<'a> fn(&'a World) -> Acted<'a>, never: Never) -> Row {
    Row { api, transactions, act, never }
}

async fn a_new_topic(world: &World) -> Result<(), Error> {
    let producer = world.client.producer().max_block(SECOND * 30).build().await?;
    world.cluster.create_topic("new", 3);
    let prepared = producer.prepare_topic("new").await;
    producer.close(SECOND * 5).await?;
    assert_eq!(prepared?, 3);
    Ok(())
}

async fn create_a_topic(world: &World) -> Result<(), Error> {
    let admin = world.client.admin().timeout(SECOND * 30);
    // The first request may have been carried out, and its answer lost.
    admin.ensure_topics(&[NewTopic::new("new", 3)]).await?;
    assert_eq!(world.cluster.partitions("new"), Some(3));
    Ok(())
}

async fn list_offsets(world: &World) -> Result<(), Error> {
    let partition = TopicPartition::new(TOPIC, 0);
    let admin = world.client.admin().timeout(SECOND * 30);
    assert_eq!(admin.list_offsets(&[(partition.clone(), OffsetSpec::Latest)]).await?[&partition], Some(1));
    Ok(())
}

async fn write(world: &World) -> Result<(), Error> {
    let producer = world.producer().await;
    let written = producer.send(&Record::to(TOPIC).value("b")).await?.await;
    // When nothing is answered, closing has nobody to wait for.
    let _ = producer.close(SECOND * 5).await;
    assert_eq!(written?.offset, Some(1));
    Ok(())
}

async fn read(world: &World) -> Result<(), Error> {
    let mut consumer = world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning).build().await?;
    let read = first_record(consumer.poll(SECOND * 60).await);
    consumer.close(SECOND * 5).await?;
    read
}

/// The first record is there, or none came in time.
fn first_record(polled: Result<milena::Records, Error>) -> Result<(), Error> {
    let records = polled?;
    if records.is_empty() {
        return Err(Error::new(ErrorKind::Timeout, NO_RECORD));
    }
    assert_eq!(records.iter().next().unwrap().value().unwrap(), b"a");
    Ok(())
}

const NO_RECORD: &str = "no record came.";

async fn member(world: &World) -> Result<Consumer, Error> {
    let builder = world.client.consumer("group").subscribe([TOPIC]).offset_reset(OffsetReset::Earliest);
    builder.auto_commit(None).session_timeout(SECOND * 45).build().await
}

async fn read_in_a_group(world: &World) -> Result<(), Error> {
    let mut consumer = member(world).await?;
    let read = first_record(consumer.poll(SECOND * 60).await);
    let began = Instant::now();
    let _ = consumer.close(SECOND * 5).await;
    assert!(began.elapsed() <= SECOND * 5, "closing keeps its deadline");
    read
}

async fn stay_in_a_group(world: &World) -> Result<(), Error> {
    let mut consumer = member(world).await?;
    let records = consumer.poll(SECOND * 60).await?;
    consumer.handle().ack(&records);
    drop(records);
    consumer.handle().commit().await?;
    for _ in 0..40 {
        let began = Instant::now();
        assert!(consumer.poll(SECOND * 3).await?.is_empty(), "what is committed is not read again");
        assert_eq!(began.elapsed(), SECOND * 3);
    }
    let began = Instant::now();
    let _ = consumer.close(SECOND * 5).await;
    assert!(began.elapsed() <= SECOND * 5, "closing keeps its deadline");
    Ok(())
}

async fn commit_in_a_group(world: &World) -> Result<(), Error> {
    let mut consumer = member(world).await?;
    let records = consumer.poll(SECOND * 60).await?;
    consumer.handle().ack(&records);
    let committed = consumer.handle().commit().await;
    let began = Instant::now();
    let _ = consumer.close(SECOND * 5).await;
    assert!(began.elapsed() <= SECOND * 5, "closing keeps its deadline");
    committed?;
    let group = world.cluster.group_info("group").unwrap();
    assert_eq!(group.offsets[&(TOPIC.to_owned(), 0)], 1);
    Ok(())
}

async fn transact(world: &World) -> Result<(), Error> {
    let builder = world.client.producer().request_timeout(SECOND * 5).delivery_timeout(SECOND * 30);
    let producer = builder.max_block(SECOND * 30).linger(Duration::ZERO).transactional_id("id").build().await?;
    let transaction = producer.begin();
    drop(transaction.send(&Record::to(TOPIC).value("b")).await?);
    let group = GroupMetadata { group: "group".into(), generation: -1, ..GroupMetadata::default() };
    let offsets = [(TopicPartition::new(TOPIC, 0), OffsetAndMetadata::from(1))];
    transaction.send_offsets(offsets, &group).await?;
    let producer = transaction.commit().await.map_err(|error| error.error().clone())?;
    producer.close(SECOND * 5).await?;
    let mut values: Vec<_> =
        world.cluster.committed_records(TOPIC, 0).into_iter().filter_map(|record| record.value).collect();
    // A commit whose answer was lost may have been one.
    values.dedup();
    assert_eq!(values, ["a", "b"]);
    assert_eq!(world.cluster.group_info("group").unwrap().offsets[&(TOPIC.to_owned(), 0)], 1);
    Ok(())
}

#[test]
fn every_request_succeeds_when_its_broker_comes_to_its_senses() {
    for row in ROWS {
        for (trick, said) in TRICKS {
            run(&format!("{:?} with transaction.version {}, once {trick:?}", row.api, row.transactions), async {
                let world = World::of(row).await;
                world.play(Play::Trick(trick, 1));
                let began = Instant::now();
                // Who is told what was wrong does it again, with the same client. A join may be silent for as long as others have to
                // come, which is max_poll_interval.
                while let Err(error) = (row.act)(&world).await {
                    let text = error.to_string();
                    assert!(text.contains(said) || text == NO_RECORD, "{:?}, {trick:?}: {text}", row.api);
                    assert!(began.elapsed() <= SECOND * 360, "{:?}, {trick:?}: {text}", row.api);
                }
                assert!(world.is_played(), "{:?}, {trick:?}", row.api);
                world.end().await;
            });
        }
    }
}

#[test]
fn every_request_whose_broker_never_makes_sense_keeps_its_deadline_and_somebody_is_told_why() {
    for row in ROWS {
        for (trick, said) in TRICKS {
            let story = format!("{:?} with transaction.version {}, always {trick:?}", row.api, row.transactions);
            let log = Log::default();
            let _listening = tracing::subscriber::set_default(log.subscriber());
            run(&story, async {
                let world = World::of(row).await;
                world.play(Play::Trick(trick, usize::MAX));
                let began = Instant::now();
                let done = (row.act)(&world).await;
                let took = began.elapsed();
                match row.never {
                    Never::GoesOn => done.unwrap(),
                    Never::FailsWithin(seconds) => {
                        // Closing afterwards has its own deadline.
                        assert!(took <= SECOND * (seconds as u32 + 5), "{story}: it took {took:?}");
                        let text = done.unwrap_err().to_string();
                        assert!(text.contains(said), "{story}: {text}");
                    }
                    Never::ReadsNothing => {
                        assert!(took <= SECOND * 65, "{story}: it took {took:?}");
                        let told = format!("{}\n{}", done.unwrap_err(), log.text());
                        let said = match (row.api, trick) {
                            // An answer to a join is waited for as long as other members have to come: max_poll_interval.
                            (ApiKey::JOIN_GROUP | ApiKey::SYNC_GROUP, Trick::Silence | Trick::LargeAndNeverThere) => "",
                            // What is there of it is read already.
                            (ApiKey::FETCH, Trick::LargeAndNeverThere) => "cannot be read",
                            _ => said,
                        };
                        assert!(told.contains(said), "{story}: {told}");
                    }
                }
                world.end().await;
            });
        }
    }
}

#[test]
fn every_answer_that_comes_byte_by_byte_is_read() {
    for row in ROWS {
        run(&format!("{:?} with transaction.version {}, byte by byte", row.api, row.transactions), async {
            let world = World::of(row).await;
            world.play(Play::ByteByByte);
            (row.act)(&world).await.unwrap();
            world.end().await;
        });
    }
}

/// What the client logs from warnings on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + 'static {
        let log = self.clone();
        let writer = move || log.clone();
        tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).with_writer(writer).finish()
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
            let world = World::new(ApiKey::PRODUCE, Play::Trick(trick, 3)).await;
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
            let world = World::new(ApiKey::PRODUCE, Play::Trick(trick, usize::MAX)).await;
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
            let world = World::new(ApiKey::FETCH, Play::Trick(trick, 3)).await;
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
            let world = World::new(ApiKey::FETCH, Play::Trick(trick, usize::MAX)).await;
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
fn a_broker_that_answers_with_the_same_records_again_and_again_is_not_asked_without_a_pause() {
    run("Fetch, the first answer again", async {
        let world = World::new(ApiKey::FETCH, Play::FirstAnswerAgain(2000)).await;
        let producer = world.producer().await;
        for delivery in world.send_all(&producer).await {
            delivery.await.unwrap();
        }
        let builder = world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
        let mut consumer = builder.build().await.unwrap();
        for offset in 0..RECORDS {
            assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), offset);
        }
        // From now on the broker has something new, and would answer at once.
        for delivery in world.send_all(&producer).await {
            delivery.await.unwrap();
        }
        assert!(consumer.poll(SECOND * 10).await.unwrap().is_empty(), "nothing comes twice");
        let asked = world.cluster.requests(ApiKey::FETCH);
        // The pauses grow to a second.
        assert!((8..=60).contains(&asked), "asked {asked} times in ten seconds");
        world.play(Play::Nothing);
        for offset in RECORDS..RECORDS * 2 {
            assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), offset);
        }
        producer.close(SECOND).await.unwrap();
        drop(producer);
        consumer.close(SECOND * 5).await.unwrap();
        world.end().await;
    });
}

#[test]
fn a_broker_that_answers_at_once_that_it_has_nothing_is_not_asked_without_a_pause() {
    run("Fetch, the first and empty answer again", async {
        let world = World::new(ApiKey::FETCH, Play::FirstAnswerAgain(20_000)).await;
        let builder = world.client.partition_consumer().assign(TOPIC, [0], StartAt::Beginning);
        let mut consumer = builder.build().await.unwrap();
        assert!(consumer.poll(SECOND).await.unwrap().is_empty());
        let producer = world.producer().await;
        // From now on the broker has something, and would answer at once.
        for delivery in world.send_all(&producer).await {
            delivery.await.unwrap();
        }
        let before = world.cluster.requests(ApiKey::FETCH);
        assert!(consumer.poll(SECOND * 10).await.unwrap().is_empty(), "it is not told");
        let asked = world.cluster.requests(ApiKey::FETCH) - before;
        assert!((8..=80).contains(&asked), "asked {asked} times in ten seconds");
        world.play(Play::Nothing);
        for offset in 0..RECORDS {
            assert_eq!(consumer.recv().await.unwrap().unwrap().offset(), offset);
        }
        producer.close(SECOND).await.unwrap();
        drop(producer);
        consumer.close(SECOND * 5).await.unwrap();
        world.end().await;
    });
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

//! What a client says and does when the other side is not a well-behaved broker. In-memory pipes, paused clock.

#![expect(clippy::disallowed_methods, reason = "a test plays the server: it spawns, sleeps and reads the clock")]
#![expect(clippy::unwrap_used, reason = "in the helpers of a test, too")]

#[path = "../../protocol/tests/support/alloc.rs"]
#[expect(dead_code, reason = "the numbers of cases are for fuzzed frames")]
mod alloc;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use milena_client::{Client, ClientBuilder, Error, ErrorKind, Lane, Target};
use milena_protocol::messages::api_versions_response::ApiVersion;
use milena_protocol::messages::metadata_response::MetadataResponseBroker;
use milena_protocol::messages::{ApiVersionsResponse, BrokerId, HeartbeatRequest, MetadataResponse};
use milena_protocol::{ApiKey, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tower::service_fn;

#[global_allocator]
static ALLOCATOR: alloc::Counting = alloc::Counting;

/// A client whose every connection is answered by `serve`; the number of connections made so far comes with each.
fn client_of<S, F>(serve: S) -> (ClientBuilder, Arc<AtomicUsize>)
where
    S: Fn(usize, DuplexStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let serve = Arc::new(serve);
    let connector = service_fn(move |_: SocketAddr| {
        let (ours, theirs) = duplex(64 * 1024);
        tokio::spawn(serve(counted.fetch_add(1, Ordering::SeqCst), theirs));
        std::future::ready(Ok::<_, io::Error>(ours))
    });
    let resolver = service_fn(|(_, port): (String, u16)| {
        std::future::ready(Ok::<_, io::Error>(vec![SocketAddr::from(([10, 0, 0, 1], port))]))
    });
    let builder = Client::builder("broker:9092")
        .simulation(Handle::current())
        .seed(1)
        .connector(connector)
        .resolver(resolver)
        .setup_timeout(Duration::from_secs(2));
    (builder, count)
}

async fn refused<S, F>(serve: S) -> Error
where
    S: Fn(usize, DuplexStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let started = Instant::now();
    let (builder, _) = client_of(serve);
    let error = builder.connect_timeout(Duration::from_secs(7)).connect().await.unwrap_err();
    assert_eq!(started.elapsed().as_secs(), 7, "neither earlier nor later than asked");
    println!("{error}");
    assert!(error.to_string().contains("broker:9092"), "it names the address: {error}");
    nothing_is_left().await;
    error
}

/// The client has gone, and with it its tasks; and each server, because its connection was closed.
async fn nothing_is_left() {
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "a task is left");
}

/// Says nothing more, for as long as the client listens.
async fn until_closed(mut stream: DuplexStream) {
    let mut sink = [0; 1024];
    while matches!(stream.read(&mut sink).await, Ok(1..)) {}
}

/// Reads one request frame; gives its API key, version and correlation id.
async fn request(stream: &mut DuplexStream) -> Option<(i16, i16, i32)> {
    let length = stream.read_i32().await.ok()?;
    let mut frame = vec![0; length as usize];
    stream.read_exact(&mut frame).await.ok()?;
    let at = |from: usize| i16::from_be_bytes([frame[from], frame[from + 1]]);
    Some((at(0), at(2), i32::from_be_bytes([frame[4], frame[5], frame[6], frame[7]])))
}

/// A response frame: length, correlation id, header tags where the version has them, message.
fn frame(correlation_id: i32, tags: bool, message: &impl Encodable, version: i16) -> Vec<u8> {
    let mut body = bytes::BytesMut::new();
    message.encode(&mut body, version).unwrap();
    let mut frame = ((4 + usize::from(tags) + body.len()) as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&correlation_id.to_be_bytes());
    frame.extend_from_slice(&[0][..usize::from(tags)]);
    frame.extend_from_slice(&body);
    frame
}

fn versions() -> ApiVersionsResponse {
    let api = |key: ApiKey, max| ApiVersion::default().with_api_key(key.0).with_min_version(0).with_max_version(max);
    ApiVersionsResponse::default().with_api_keys(vec![
        api(ApiKey::API_VERSIONS, 4),
        api(ApiKey::METADATA, 13),
        api(ApiKey::HEARTBEAT, 4),
    ])
}

fn metadata() -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(StrBytes::from_static_str("broker"))
        .with_port(9092);
    MetadataResponse::default().with_brokers(vec![broker])
}

/// HeartbeatResponse v4 without an error: tags of the header, throttle, error, tags.
fn heartbeat(id: i32) -> [u8; 16] {
    [0, 0, 0, 12, 0, 0, 0, id as u8, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// Answers ApiVersions and Metadata as a broker does, and Heartbeat after the wait that `wait` says.
async fn broker(mut stream: DuplexStream, wait: impl Fn() -> Duration) {
    while let Some((api, version, id)) = request(&mut stream).await {
        let answer = match ApiKey(api) {
            ApiKey::API_VERSIONS => frame(id, false, &versions(), version),
            ApiKey::METADATA => frame(id, version >= 9, &metadata(), version),
            _ => {
                tokio::time::sleep(wait()).await;
                heartbeat(id).to_vec()
            }
        };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_http_server_is_named() {
    let error = refused(|_, mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    })
    .await;
    assert!(error.to_string().contains("an HTTP server is listening on that port"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Malformed);
}

#[tokio::test(start_paused = true)]
async fn a_tls_port_is_named() {
    let error = refused(|_, mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 70, 0, 0]).await;
    })
    .await;
    assert!(error.to_string().contains("that port speaks TLS"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_two_gibibytes_is_refused_before_anything_is_allocated() {
    let error = refused(|_, mut stream| async move {
        request(&mut stream).await;
        let _ = stream.write_all(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]).await;
        until_closed(stream).await;
    })
    .await;
    assert!(error.to_string().contains("a frame of 2147483647 bytes"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_the_set_up_time_out() {
    let error = refused(|_, stream| until_closed(stream)).await;
    assert!(error.to_string().contains("not ready after 2 s"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Connect);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_correlation_id_is_said() {
    let error = refused(|_, mut stream| async move {
        let Some((_, version, id)) = request(&mut stream).await else { return };
        let _ = stream.write_all(&frame(id + 1, false, &versions(), version)).await;
        until_closed(stream).await;
    })
    .await;
    assert!(error.to_string().contains("answered request 1 where 0 was due"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_ends_anywhere_is_a_lost_connection() {
    let whole = frame(0, false, &versions(), 4).len();
    for cut in 0..whole {
        let error = refused(move |_, mut stream| async move {
            let Some((_, version, id)) = request(&mut stream).await else { return };
            let _ = stream.write_all(&frame(id, false, &versions(), version)[..cut]).await;
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Disconnected, "cut after {cut} bytes: {error}");
        assert!(error.to_string().contains("closed the connection: the broker may have stopped"), "{error}");
    }
    // And in the answer after the handshake.
    let error = refused(|_, mut stream| async move {
        let Some((_, version, id)) = request(&mut stream).await else { return };
        let _ = stream.write_all(&frame(id, false, &versions(), version)).await;
        let Some((_, version, id)) = request(&mut stream).await else { return };
        let answer = frame(id, true, &metadata(), version);
        let _ = stream.write_all(&answer[..answer.len() / 2]).await;
    })
    .await;
    assert_eq!(error.kind(), ErrorKind::Disconnected, "{error}");
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused_whatever_it_is() {
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..200 {
        let mut garbage = vec![0; rng.usize(8..300)];
        rng.fill(&mut garbage);
        let error = refused(move |_, mut stream| {
            let garbage = garbage.clone();
            async move {
                request(&mut stream).await;
                let _ = stream.write_all(&garbage).await;
                until_closed(stream).await;
            }
        })
        .await;
        // A length that may be is waited for, until the set-up has taken too long.
        assert!(matches!(error.kind(), ErrorKind::Malformed | ErrorKind::Connect), "{error}");
    }
}

#[test]
fn what_is_announced_and_does_not_come_is_not_allocated() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    for announced in [i32::MAX, 200 << 20] {
        let ((), usage) = alloc::measure(|| {
            runtime.block_on(async {
                refused(move |_, mut stream| async move {
                    let Some((_, _, id)) = request(&mut stream).await else { return };
                    let mut large = [announced.to_be_bytes(), id.to_be_bytes()].concat();
                    large.resize(1 << 20, 0);
                    let _ = stream.write_all(&large).await;
                    until_closed(stream).await;
                })
                .await;
            });
        });
        assert!(usage.peak < 6 << 20, "{} bytes for a frame that never came", usage.peak);
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_refuses_and_a_host_that_is_unknown_and_an_empty_list_are_told_apart() {
    let connector = service_fn(|_: SocketAddr| {
        std::future::ready(Err::<DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)))
    });
    let resolver = |known: bool| {
        service_fn(move |(_, port): (String, u16)| {
            std::future::ready(match known {
                true => Ok(vec![SocketAddr::from(([10, 0, 0, 1], port))]),
                false => Err(io::Error::new(io::ErrorKind::NotFound, "Name or service not known")),
            })
        })
    };
    let build = |servers: &str, known| -> ClientBuilder {
        let builder = Client::builder(servers).simulation(Handle::current()).seed(1).connector(connector);
        builder.resolver(resolver(known)).connect_timeout(Duration::from_secs(3))
    };
    let error = build("broker:9092", true).connect().await.unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains("broker:9092 cannot be reached: 10.0.0.1:9092: connection refused"), "{error}");
    assert!(error.to_string().contains("Check the name and the port, that the broker runs there"), "{error}");
    let error = build("broker:9092", false).connect().await.unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(error.to_string().contains("broker:9092 cannot be reached: the name cannot be resolved"), "{error}");
    let error = build("", true).connect().await.unwrap_err();
    println!("{error}");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("bootstrap.servers is empty: give at least one broker"), "{error}");
    nothing_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_is_due_at_its_own_deadline_also_while_its_connection_is_being_set_up() {
    let (builder, connections) = client_of(|number, stream| async move {
        match number {
            0 => broker(stream, || Duration::ZERO).await,
            // Later connections are accepted, and then nothing is heard.
            _ => until_closed(stream).await,
        }
    });
    let client: Client = builder.setup_timeout(Duration::from_secs(10)).connect().await.unwrap();
    let owner = client.new_owner("test");
    let started = Instant::now();
    let beat = |seconds| {
        owner.send(Target::Broker(1), Lane::Heartbeat, HeartbeatRequest::default(), Duration::from_secs(seconds))
    };
    let (first, second) = tokio::join!(beat(1), beat(3));
    let error = first.unwrap_err();
    println!("{error}");
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Connect, milena_client::Outcome::NotWritten), "{error}");
    assert!(error.to_string().contains("broker:9092 cannot be reached: there was no connection yet"), "{error}");
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Connect);
    assert_eq!(started.elapsed(), Duration::from_secs(3));
    assert!(connections.load(Ordering::SeqCst) <= 3, "both waited for one connection");
    drop(owner);
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_byte_by_byte_is_read() {
    let (builder, _) = client_of(|_, mut stream| async move {
        while let Some((api, version, id)) = request(&mut stream).await {
            let answer = match ApiKey(api) {
                ApiKey::API_VERSIONS => frame(id, false, &versions(), version),
                _ => frame(id, version >= 9, &metadata(), version),
            };
            for byte in answer {
                tokio::time::sleep(Duration::from_millis(1)).await;
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        }
    });
    let client: Client = builder.connect().await.unwrap();
    assert_eq!(client.metadata().brokers[&1].host, "broker");
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_failed_address_is_tried_again_with_a_growing_wait_and_the_next_address_of_the_name_at_once() {
    let attempts: Arc<Mutex<Vec<(SocketAddr, Duration)>>> = Arc::default();
    let noted = attempts.clone();
    let start = Instant::now();
    let connector = service_fn(move |address: SocketAddr| {
        noted.lock().unwrap().push((address, start.elapsed()));
        std::future::ready(Err::<DuplexStream, _>(io::Error::from(io::ErrorKind::ConnectionRefused)))
    });
    let resolver = service_fn(|(_, port): (String, u16)| {
        let addresses = [1, 2].map(|last| SocketAddr::from(([10, 0, 0, last], port)));
        std::future::ready(Ok::<_, io::Error>(addresses.to_vec()))
    });
    let builder: ClientBuilder = Client::builder("broker:9092");
    let builder = builder.simulation(Handle::current()).seed(7).connector(connector).resolver(resolver);
    let error = builder.connect_timeout(Duration::from_secs(20)).connect().await.unwrap_err();
    assert!(error.to_string().contains("broker:9092 cannot be reached"), "{error}");
    let attempts = attempts.lock().unwrap();
    assert_eq!(attempts[0].0.ip().to_string(), "10.0.0.1");
    assert_eq!(attempts[1].0.ip().to_string(), "10.0.0.2");
    assert_eq!(attempts[0].1, attempts[1].1);
    let waits: Vec<u128> = attempts.chunks(2).map(|pair| pair[0].1.as_millis()).collect();
    assert!((10..=40).contains(&waits.len()), "bounded, and not given up: {waits:?}");
    let gaps: Vec<u128> = waits.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps[0] < 200 && gaps.last().is_some_and(|gap| *gap > 700), "{gaps:?}");
}

#[tokio::test(start_paused = true)]
async fn a_request_past_its_deadline_poisons_its_connection_and_the_next_request_gets_a_new_one() {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (builder, connections) = client_of(move |_, stream| {
        let count = count.clone();
        broker(stream, move || Duration::from_secs(if count.fetch_add(1, Ordering::SeqCst) == 0 { 60 } else { 0 }))
    });
    let client: Client = builder.connect().await.unwrap();
    let owner = client.new_owner("test");
    let before = connections.load(Ordering::SeqCst);
    let beat = || owner.send(Target::Broker(1), Lane::Heartbeat, HeartbeatRequest::default(), Duration::from_secs(3));
    let started = Instant::now();
    let error = beat().await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed().as_secs()), (ErrorKind::Timeout, 3), "{error}");
    assert_eq!(beat().await.unwrap().error_code, 0);
    assert_eq!(connections.load(Ordering::SeqCst) - before, 2, "a late answer must never meet another request");
    owner.close().await;
    assert_eq!(client.sockets(), 1, "the metadata connection");
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_begins_and_never_ends_is_late_at_its_deadline() {
    let (builder, _) = client_of(|number, mut stream| async move {
        if number == 0 {
            return broker(stream, || Duration::ZERO).await;
        }
        while let Some((api, version, id)) = request(&mut stream).await {
            let answer = match ApiKey(api) {
                ApiKey::API_VERSIONS => frame(id, false, &versions(), version),
                _ => heartbeat(id)[..12].to_vec(),
            };
            let _ = stream.write_all(&answer).await;
        }
    });
    let client: Client = builder.connect().await.unwrap();
    let owner = client.new_owner("test");
    let started = Instant::now();
    let beat = owner.send(Target::Broker(1), Lane::Heartbeat, HeartbeatRequest::default(), Duration::from_secs(3));
    let error = beat.await.unwrap_err();
    assert_eq!((error.kind(), started.elapsed()), (ErrorKind::Timeout, Duration::from_secs(3)), "{error}");
    assert!(error.to_string().contains("broker:9092 did not answer in time"), "{error}");
    drop(owner);
    client.close().await;
    assert_eq!((client.tasks(), client.sockets()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_goes_away_disturbs_nobody() {
    let (builder, connections) = client_of(|_, stream| broker(stream, || Duration::from_secs(1)));
    let client: Client = builder.connect().await.unwrap();
    let owner = client.new_owner("test");
    let beat = || owner.send(Target::Broker(1), Lane::Heartbeat, HeartbeatRequest::default(), Duration::from_secs(30));
    let before = connections.load(Ordering::SeqCst);
    let gone = tokio::time::timeout(Duration::from_millis(10), beat()).await;
    assert!(gone.is_err());
    let (first, second) = tokio::join!(beat(), beat());
    assert_eq!((first.unwrap().error_code, second.unwrap().error_code), (0, 0));
    assert_eq!(connections.load(Ordering::SeqCst) - before, 1, "one connection throughout");
}

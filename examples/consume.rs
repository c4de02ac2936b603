//! Prints the records of topics.
//!
//! ```text
//! cargo run --release --example consume                                        # some orders, a Kafka inside this process
//! cargo run --release --example consume -- --topics a,b --from-beginning --bootstrap-servers 127.0.0.1:9092
//! cargo run --release --example consume -- --topics a --last 100 --exit-at-end --format '%t %p %o %k %v\n' --bootstrap-servers …
//! cargo run --release --example consume -- --topics a --at 2026-11-01T00:00Z --json --bootstrap-servers … | jq .value
//! ```
//!
//! Records go to standard output, and nothing else does: lag, events and the summary go to standard error. The tokens of `--format` are
//! kcat's: `%s` value (also `%v`), `%S` its length, `%R` its length as four bytes, `%k` key, `%K` its length, `%t` topic, `%p`
//! partition, `%o` offset, `%T` timestamp in milliseconds, `%h` headers, `%%` a percent sign; `\n`, `\r`, `\t`, `\\`, and `\xNN` for any
//! byte. The length of a value or key that is not there is −1.
//!
//! Without `--bootstrap-servers` the cluster is in the same process; it gets some records first, all of which are read, and then it
//! ends. Otherwise reading begins with what is written from now on, unless `--from-beginning`, `--at` or `--last` say more, and goes on
//! until Ctrl-C, `--max` or `--exit-at-end`.

#![expect(clippy::disallowed_methods, reason = "a program reads the clock; the bans are for the library")]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::{Future as _, poll_fn},
    io::{self, BufWriter, Write, stderr, stdout},
    pin::pin,
    process::ExitCode,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use clap::{Args, Parser, ValueEnum};
use milena::{
    Client, ErrorKind, IsolationLevel, NewTopic, OffsetReset, PartitionConsumer, ReaderHandle, Record, RecordRef,
    Records, StartAt, Topic, TopicPartition,
};
use milena_testkit::Cluster;
use tokio::time::Instant;

/// Prints the records of topics with milena's consumer.
#[derive(Parser)]
struct Arguments {
    /// The topics, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "orders")]
    topics: Vec<String>,
    /// Brokers of a Kafka cluster, host:port,… [default: a cluster inside this process]
    #[arg(long)]
    bootstrap_servers: Option<String>,
    /// Only this partition; may be given more than once [default: all]
    #[arg(long)]
    partition: Vec<i32>,
    #[command(flatten)]
    from: Begin,
    /// End when what was there at the start has been read
    #[arg(long)]
    exit_at_end: bool,
    /// End after so many records
    #[arg(long)]
    max: Option<u64>,
    /// Which records of transactions are read
    #[arg(long, value_enum, default_value = "read-uncommitted")]
    isolation: Isolation,
    /// What is printed of a record, in kcat's tokens
    #[arg(long, default_value = "%s\\n", conflicts_with = "json")]
    format: Format,
    /// Print each record as a line of JSON
    #[arg(long)]
    json: bool,
}

/// Where reading begins.
#[derive(Args)]
#[group(multiple = false)]
struct Begin {
    /// Begin with the first record that is there
    #[arg(long)]
    from_beginning: bool,
    /// Begin at this time: 2026-11-01, 2026-11-01T00:00Z, 2026-11-01T01:30:00+01:00, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<i64>,
    /// Begin so many records before the end of each partition
    #[arg(long, value_name = "N")]
    last: Option<i64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Isolation {
    ReadCommitted,
    ReadUncommitted,
}

type Outcome<T = ()> = Result<T, String>;

#[tokio::main]
async fn main() -> ExitCode {
    if std::env::var_os("RUST_LOG").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).init();
    }
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(mut arguments: Arguments) -> Outcome {
    if let Some(servers) = arguments.bootstrap_servers.take() {
        let client = connect(&servers).await?;
        let outcome = consume(&arguments, &client).await;
        client.close().await;
        return outcome;
    }
    let cluster = Cluster::builder().start().await.map_err(|error| format!("no cluster in this process: {error}"))?;
    let client = connect(&cluster.bootstrap_servers()).await?;
    let (from, outcome) = (&mut arguments.from, write_orders(&client, &arguments.topics).await);
    // Nothing is written later.
    from.from_beginning |= from.at.is_none() && from.last.is_none();
    arguments.exit_at_end = true;
    let outcome = match outcome {
        Ok(()) => consume(&arguments, &client).await,
        failed => failed,
    };
    client.close().await;
    cluster.shutdown().await;
    outcome
}

async fn connect(servers: &str) -> Outcome<Client> {
    Client::builder(servers).client_id("consume").connect().await.map_err(|error| error.to_string())
}

/// Something to read, for the cluster in this process.
async fn write_orders(client: &Client, topics: &[String]) -> Outcome {
    const STATES: [&str; 4] = ["placed", "paid", "packed", "sent"];
    let text = |error: milena::Error| error.to_string();
    let created: Vec<NewTopic> = topics.iter().map(|topic| NewTopic::new(topic, 3)).collect();
    client.admin().ensure_topics(&created).await.map_err(text)?;
    let producer = client.producer().build().await.map_err(text)?;
    for topic in topics {
        for number in 0..200 {
            let (key, state) = (format!("order-{}", number / STATES.len()), STATES[number % STATES.len()]);
            let _acknowledged_by_the_close =
                producer.send(&Record::to(topic).key(&key).value(state)).await.map_err(text)?;
        }
    }
    producer.close(Duration::from_secs(10)).await.map_err(text)
}

async fn consume(arguments: &Arguments, client: &Client) -> Outcome {
    let text = |error: milena::Error| error.to_string();
    let partitions = partitions(arguments, client).await?;
    let from = &arguments.from;
    let start = match from.at {
        Some(time) => StartAt::Timestamp(time),
        None if from.from_beginning => StartAt::Beginning,
        None => StartAt::End,
    };
    let isolation = match arguments.isolation {
        Isolation::ReadCommitted => IsolationLevel::ReadCommitted,
        Isolation::ReadUncommitted => IsolationLevel::ReadUncommitted,
    };
    // No more than is printed, so that the lag at the end is that of what was printed.
    let at_once = arguments.max.map_or(10_000, |most| most.clamp(1, 10_000) as usize);
    let mut builder = client.partition_consumer().isolation_level(isolation).max_poll_records(at_once);
    // Retention may be faster than we are: what is lost is told as an event.
    builder = builder.offset_reset(OffsetReset::Earliest);
    for partition in &partitions {
        builder = builder.assign(partition.topic.clone(), [partition.partition], start);
    }
    let mut consumer = builder.build().await.map_err(text)?;
    let handle = consumer.handle();
    if let Some(last) = from.last {
        seek_before_the_end(&handle, &partitions, last).await?;
    }
    let ends =
        if arguments.exit_at_end { Some(handle.end_offsets(partitions.clone()).await.map_err(text)?) } else { None };
    let mut printer = Printer::new(arguments, ends);
    let began = Instant::now();
    let outcome = read(&mut consumer, &mut printer, &partitions).await;
    tell_events(&handle);
    printer.summary(began, lag(&handle, &partitions));
    consumer.close(Duration::from_secs(10)).await.map_err(text)?;
    outcome
}

/// The partitions to read.
async fn partitions(arguments: &Arguments, client: &Client) -> Outcome<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for name in arguments.topics.iter().collect::<BTreeSet<_>>() {
        let topic = describe(client, name).await?;
        let there: Vec<i32> = topic.partitions.iter().map(|partition| partition.id).collect();
        if let Some(missing) = arguments.partition.iter().find(|wanted| !there.contains(wanted)) {
            return Err(format!("{name} has {} partitions, and none of them is {missing}.", there.len()));
        }
        let wanted = there.into_iter().filter(|id| arguments.partition.is_empty() || arguments.partition.contains(id));
        all.extend(wanted.map(|id| TopicPartition::new(name.as_str(), id)));
    }
    Ok(all)
}

/// What the cluster says of a topic. One that has just been created is soon known; whoever mistypes its name does not wait for long.
async fn describe(client: &Client, name: &str) -> Outcome<Arc<Topic>> {
    let soon = client.admin().timeout(Duration::from_secs(3)).describe_topic(name).await;
    match soon {
        Err(error) if error.kind() == ErrorKind::UnknownTopicOrPartition => Err(error.to_string()),
        Err(_) => client.admin().describe_topic(name).await.map_err(|error| format!("{name}: {error}")),
        Ok(topic) => Ok(topic),
    }
}

/// Moves every partition to so many offsets before its end, which for a reader of committed records is where nothing is decided yet.
async fn seek_before_the_end(handle: &ReaderHandle, partitions: &[TopicPartition], last: i64) -> Outcome {
    let text = |error: milena::Error| error.to_string();
    let begins = handle.beginning_offsets(partitions.to_vec()).await.map_err(text)?;
    for (partition, end) in handle.end_offsets(partitions.to_vec()).await.map_err(text)? {
        let begin = begins.get(&partition).copied().unwrap_or(0);
        handle.seek(&partition, StartAt::Offset((end - last.max(0)).max(begin))).map_err(text)?;
    }
    Ok(())
}

/// How often lag and events are looked at.
const EVERY: Duration = Duration::from_secs(5);

async fn read(consumer: &mut PartitionConsumer, printer: &mut Printer, partitions: &[TopicPartition]) -> Outcome {
    let handle = consumer.handle();
    let mut interrupted = pin!(tokio::signal::ctrl_c());
    let mut tell_at = Instant::now() + EVERY;
    while !printer.is_done(&handle) {
        let mut records = consumer.try_poll().map_err(|error| error.to_string())?;
        if records.is_empty() {
            // Whoever reads the other end sees what there is while we wait.
            if printer.flush()?.is_gone() {
                return Ok(());
            }
            if printer.is_done(&handle) {
                return Ok(());
            }
            records = tokio::select! {
                biased;
                _ = &mut interrupted => return Ok(()),
                polled = consumer.poll(Duration::from_millis(100)) => polled.map_err(|error| error.to_string())?,
            };
        }
        if printer.print(&records)?.is_gone() {
            return Ok(());
        }
        if Instant::now() >= tell_at {
            tell_at = Instant::now() + EVERY;
            tell_events(&handle);
            eprintln!("{} records, lag {}", printer.records, lag(&handle, partitions));
        }
        // A reader that always finds records is ended by Ctrl-C, too.
        let is_interrupted = poll_fn(|cx| Poll::Ready(interrupted.as_mut().poll(cx).is_ready())).await;
        if is_interrupted {
            break;
        }
    }
    printer.flush().map(drop)
}

fn tell_events(handle: &ReaderHandle) {
    while let Some(event) = handle.try_next_event() {
        eprintln!("event: {event:?}");
    }
}

/// Records that are still to be read.
fn lag(handle: &ReaderHandle, partitions: &[TopicPartition]) -> u64 {
    partitions.iter().filter_map(|partition| handle.lag(partition)).sum()
}

// ---- what is printed

/// Whether somebody reads what is printed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reader {
    Reads,
    /// `| head` has had enough.
    Gone,
}

impl Reader {
    fn is_gone(self) -> bool {
        self == Self::Gone
    }
}

struct Printer {
    out: BufWriter<io::StdoutLock<'static>>,
    format: Option<Format>,
    records: u64,
    bytes: u64,
    most: u64,
    /// Where it ends, by partition: offsets that lie behind are not printed.
    ends: Option<BTreeMap<TopicPartition, i64>>,
    /// Those of it that have not been reached.
    open: Vec<TopicPartition>,
}

impl Printer {
    fn new(arguments: &Arguments, ends: Option<BTreeMap<TopicPartition, i64>>) -> Self {
        Self {
            out: BufWriter::with_capacity(256 << 10, stdout().lock()),
            format: (!arguments.json).then(|| arguments.format.clone()),
            records: 0,
            bytes: 0,
            most: arguments.max.unwrap_or(u64::MAX),
            open: ends.iter().flatten().map(|(partition, _)| partition.clone()).collect(),
            ends,
        }
    }

    fn print(&mut self, records: &Records) -> Outcome<Reader> {
        for partition in records.partitions() {
            let end = self.ends.as_ref().and_then(|ends| ends.get(&partition.topic_partition()).copied());
            for record in partition.iter().take_while(|record| end.is_none_or(|end| record.offset() < end)) {
                if self.records >= self.most {
                    return Ok(Reader::Reads);
                }
                let printed = match &self.format {
                    Some(format) => format.print(record, &mut self.out),
                    None => print_json(record, &mut self.out),
                };
                if heard(printed)?.is_gone() {
                    return Ok(Reader::Gone);
                }
                self.records += 1;
                self.bytes += (record.key().map_or(0, <[u8]>::len) + record.value().map_or(0, <[u8]>::len)) as u64;
            }
        }
        Ok(Reader::Reads)
    }

    fn flush(&mut self) -> Outcome<Reader> {
        heard(self.out.flush())
    }

    /// The position decides, not the records: at the end may stand a transaction's marker, or what compaction took.
    fn is_done(&mut self, handle: &ReaderHandle) -> bool {
        if self.records >= self.most {
            return true;
        }
        let Some(ends) = &self.ends else { return false };
        self.open.retain(|partition| handle.position(partition).is_none_or(|position| position < ends[partition]));
        self.open.is_empty()
    }

    fn summary(&mut self, began: Instant, lag: u64) {
        let _ = self.out.flush();
        let seconds = began.elapsed().as_secs_f64();
        let (records, bytes) = (self.records, self.bytes);
        eprintln!(
            "{records} records, {bytes} bytes in {seconds:.2} s, {:.0} records by the second, lag {lag}",
            records as f64 / seconds.max(1e-9)
        );
    }
}

/// What became of a write.
fn heard(written: io::Result<()>) -> Outcome<Reader> {
    match written {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(format!("standard output cannot be written: {error}")),
    }
}

/// What is printed of a record.
#[derive(Clone)]
struct Format(Vec<Piece>);

#[derive(Clone)]
enum Piece {
    Literal(Vec<u8>),
    Value,
    ValueLength,
    ValueLengthBytes,
    Key,
    KeyLength,
    Topic,
    Partition,
    Offset,
    Timestamp,
    Headers,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Outcome<Self> {
        let mut pieces = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&byte, after)) = rest.split_first() {
            rest = after;
            match (byte, after.first()) {
                (b'%', Some(&token)) => {
                    rest = &after[1..];
                    let piece = match token {
                        b's' | b'v' => Piece::Value,
                        b'S' => Piece::ValueLength,
                        b'R' => Piece::ValueLengthBytes,
                        b'k' => Piece::Key,
                        b'K' => Piece::KeyLength,
                        b't' => Piece::Topic,
                        b'p' => Piece::Partition,
                        b'o' => Piece::Offset,
                        b'T' => Piece::Timestamp,
                        b'h' => Piece::Headers,
                        b'%' => {
                            literal.push(b'%');
                            continue;
                        }
                        other => {
                            let other = char::from(other);
                            return Err(format!(
                                "%{other} is no token: there are %s %v %S %R %k %K %t %p %o %T %h and %%"
                            ));
                        }
                    };
                    if !literal.is_empty() {
                        pieces.push(Piece::Literal(std::mem::take(&mut literal)));
                    }
                    pieces.push(piece);
                }
                (b'\\', Some(&escape)) => {
                    rest = &after[1..];
                    literal.push(match escape {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        b'\\' => b'\\',
                        b'x' => {
                            let digits = rest.iter().take(2).take_while(|digit| digit.is_ascii_hexdigit()).count();
                            let (hex, behind) = rest.split_at(digits);
                            rest = behind;
                            let hex = std::str::from_utf8(hex).map_err(|error| error.to_string())?;
                            u8::from_str_radix(hex, 16).map_err(|_| "\\x needs two hexadecimal digits".to_owned())?
                        }
                        other => {
                            return Err(format!(
                                "\\{} is no escape: there are \\n \\r \\t \\\\ \\xNN",
                                char::from(other)
                            ));
                        }
                    });
                }
                (byte @ (b'%' | b'\\'), None) => return Err(format!("nothing follows the last {}", char::from(byte))),
                (byte, _) => literal.push(byte),
            }
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Ok(Self(pieces))
    }
}

impl Format {
    fn print(&self, record: RecordRef<'_>, out: &mut impl Write) -> io::Result<()> {
        let length = |bytes: Option<&[u8]>| bytes.map_or(-1, |bytes| bytes.len() as i64);
        for piece in &self.0 {
            match piece {
                Piece::Literal(bytes) => out.write_all(bytes)?,
                Piece::Value => out.write_all(record.value().unwrap_or_default())?,
                Piece::ValueLength => write!(out, "{}", length(record.value()))?,
                Piece::ValueLengthBytes => out.write_all(&(length(record.value()) as i32).to_be_bytes())?,
                Piece::Key => out.write_all(record.key().unwrap_or_default())?,
                Piece::KeyLength => write!(out, "{}", length(record.key()))?,
                Piece::Topic => out.write_all(record.topic().as_bytes())?,
                Piece::Partition => write!(out, "{}", record.partition())?,
                Piece::Offset => write!(out, "{}", record.offset())?,
                Piece::Timestamp => write!(out, "{}", record.timestamp())?,
                Piece::Headers => {
                    for (index, header) in record.headers().iter().enumerate() {
                        out.write_all(if index == 0 { b"" } else { b"," })?;
                        out.write_all(header.key)?;
                        out.write_all(b"=")?;
                        out.write_all(header.value.unwrap_or(b"NULL"))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// One line. What is no UTF-8 is printed in hexadecimal digits, as `value_hex` in place of `value`.
fn print_json(record: RecordRef<'_>, out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"{\"topic\":")?;
    print_json_text(record.topic(), out)?;
    let (partition, offset, timestamp) = (record.partition(), record.offset(), record.timestamp());
    write!(out, ",\"partition\":{partition},\"offset\":{offset},\"timestamp\":{timestamp},")?;
    print_json_bytes("key", record.key(), out)?;
    out.write_all(b",")?;
    print_json_bytes("value", record.value(), out)?;
    out.write_all(b",\"headers\":[")?;
    for (index, header) in record.headers().iter().enumerate() {
        out.write_all(if index == 0 { b"{" } else { b",{" })?;
        print_json_bytes("key", Some(header.key), out)?;
        out.write_all(b",")?;
        print_json_bytes("value", header.value, out)?;
        out.write_all(b"}")?;
    }
    out.write_all(b"]}\n")
}

fn print_json_bytes(name: &str, bytes: Option<&[u8]>, out: &mut impl Write) -> io::Result<()> {
    match bytes.map(std::str::from_utf8) {
        None => write!(out, "\"{name}\":null"),
        Some(Ok(text)) => {
            write!(out, "\"{name}\":")?;
            print_json_text(text, out)
        }
        Some(Err(_)) => {
            write!(out, "\"{name}_hex\":\"")?;
            bytes.unwrap_or_default().iter().try_for_each(|byte| write!(out, "{byte:02x}"))?;
            out.write_all(b"\"")
        }
    }
}

fn print_json_text(text: &str, out: &mut impl Write) -> io::Result<()> {
    out.write_all(b"\"")?;
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| *byte < 0x20 || matches!(byte, b'"' | b'\\')) {
        out.write_all(&rest[..at])?;
        match rest[at] {
            byte @ (b'"' | b'\\') => out.write_all(&[b'\\', byte])?,
            b'\n' => out.write_all(b"\\n")?,
            byte => write!(out, "\\u{byte:04x}")?,
        }
        rest = &rest[at + 1..];
    }
    out.write_all(rest)?;
    out.write_all(b"\"")
}

/// A time as milliseconds since 1970: a date, with a time of day and an offset from UTC where they are given, or the number itself.
fn parse_time(text: &str) -> Outcome<i64> {
    if let Ok(milliseconds) = text.parse() {
        return Ok(milliseconds);
    }
    let wrong =
        || format!("{text} is no time: give one like 2026-11-01, 2026-11-01T00:00Z or 2026-11-01T01:30:00+01:00");
    let number = |part: &str, range: std::ops::RangeInclusive<i64>| {
        part.parse().ok().filter(|number| range.contains(number)).ok_or_else(wrong)
    };
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00Z"));
    let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().map_err(|_| wrong())?;
    let (year, month, day) = (number(year, 1970..=9999)?, number(month, 1..=12)?, number(day, 1..=31)?);
    let (time, offset) = match time.find(['Z', '+', '-']) {
        None => (time, 0),
        Some(at) if time.ends_with('Z') => (&time[..at], if at + 1 == time.len() { 0 } else { return Err(wrong()) }),
        Some(at) => {
            let (hours, minutes) = time[at + 1..].split_once(':').ok_or_else(wrong)?;
            let minutes = number(hours, 0..=23)? * 60 + number(minutes, 0..=59)?;
            (&time[..at], if time.as_bytes()[at] == b'-' { -minutes } else { minutes })
        }
    };
    let mut parts = time.splitn(3, ':');
    let (hours, minutes) = (number(parts.next().unwrap_or(""), 0..=23)?, number(parts.next().unwrap_or(""), 0..=59)?);
    let seconds: f64 = parts.next().unwrap_or("0").parse().map_err(|_| wrong())?;
    if !(0.0..60.0).contains(&seconds) {
        return Err(wrong());
    }
    // Days since 1970 by the civil calendar, years counted from March so that a leap day is a year's last.
    let (shifted_year, shifted_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (shifted_year / 400, shifted_year % 400);
    let of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Ok(((days * 24 + hours) * 60 + minutes - offset) * 60_000 + (seconds * 1000.0).round() as i64)
}

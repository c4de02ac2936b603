//! The bare repartition loop: words are produced, keyed by themselves, and what was produced is fetched again. No Streams:
//! what a word count cannot be faster than on this machine, whose cores the broker shares.
//!
//! The words are those of this project's documents, over and over, so that keys are as long and as few as in real text.

use std::fs;
use std::path::Path;
use std::time::Duration;

use milena::{Client, NewTopic, PartitionConsumer, Producer, Record, StartAt};
use spine::{Arguments, Measurement, PARTITIONS};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::read();
    let words = words();
    let client = Client::builder(&arguments.bootstrap_servers).connect().await.expect("a client");
    let topic = format!("spine-repartition-{}", std::process::id());
    client.admin().ensure_topics(&[NewTopic::new(&topic, PARTITIONS)]).await.expect("a topic");
    let producer = Producer::builder(&client).build().await.expect("a producer");
    let mut consumer = PartitionConsumer::builder(&client)
        .assign(topic.as_str(), 0..PARTITIONS, StartAt::Beginning)
        .build()
        .await
        .expect("a consumer");

    let measurement = Measurement::start();
    let produce = async {
        for word in words.iter().cycle().take(arguments.records as usize) {
            // The flush below says whether all were delivered.
            let _ = producer.send(&Record::to(&topic).key(word).value(word)).await.expect("every word is taken");
        }
        producer.flush().await.expect("every word is delivered");
    };
    let fetch = async {
        let mut fetched = 0;
        while fetched < arguments.records {
            let batch = consumer.poll(Duration::from_secs(1)).await.expect("words");
            fetched += batch.iter().filter(|word| word.key() == word.value()).count() as u64;
        }
        assert_eq!(fetched, arguments.records, "each word comes back once");
    };
    tokio::join!(biased; produce, fetch);
    println!("{}", measurement.stop(arguments.records));
    client.admin().delete_topics(&[&topic]).await.expect("the topic is deleted");
}

/// All words of the Markdown files in the project's root, as the word count splits them.
fn words() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut words = Vec::new();
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(entry.path()).unwrap_or_default().to_lowercase();
            let split = text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            words.extend(split.filter(|word| !word.is_empty()).map(str::to_owned));
        }
    }
    assert!(!words.is_empty(), "the project has documents");
    words
}

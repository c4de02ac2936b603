//! Word count on real Kafka by several processes that are killed at random points.
//!
//! Every count is compared with a plain count of the text: equal when nothing was killed, never lower with at-least-once when
//! something was, and equal in any case with exactly-once. What is compared is what Java's console consumer reads from the output
//! topic.

#![expect(clippy::disallowed_methods, reason = "real processes live by the real clock")]
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

mod words;

use std::fs;
use std::time::Duration;

use milena::{IsolationLevel, Producer, Record};
use milena_integration_tests::{real_kafka, unique};
use tokio::time::sleep;
use words::Words;

#[tokio::test]
async fn two_instances_count_every_word_and_a_kill_loses_none() {
    let Some(servers) = real_kafka("two_instances_count_every_word_and_a_kill_loses_none") else { return };
    let words = Words::prepare(&servers).await;
    let text = std::env::temp_dir().join(unique("milena-storm-text"));
    fs::write(&text, &words.text).unwrap();
    let (mut random, rounds) = random_and_rounds(1);
    let mut random_instance = random.fork();
    let kills = (0..rounds).map(|_| Some(random.u64(10..90)));
    for kill_at in std::iter::once(None).chain(kills) {
        match kill_at {
            Some(percent) => println!("kill -9 when {percent} % of the words are split from their lines"),
            None => println!("no kill"),
        }
        // Shorter than the default of 45 s, for which nobody would count what the killed one has left.
        let application = words.application(IsolationLevel::ReadUncommitted, &["--session-timeout", "10"]);
        application.run(&["--role", "load", "--input", text.to_str().unwrap()]);
        let mut instances = vec![application.counter()];
        sleep(Duration::from_secs(1)).await;
        instances.push(application.counter());
        if let Some(percent) = kill_at {
            // Not after a time, which on a quick machine is when all is counted: the point is random, that work is under way is not.
            application.until_split(percent).await;
            instances.remove(random_instance.usize(0..2)).kill();
        }
        application.until_counted().await;
        application.stop(instances);
        let counts = application.read_with_java().await;
        assert_eq!(counts.len(), words.expected.len(), "as many distinct words");
        for (word, expected) in &words.expected {
            let counted = counts[word];
            if kill_at.is_some() {
                assert!(counted >= *expected, "{word}: counted {counted}, but it is there {expected} times");
            } else {
                assert_eq!(counted, *expected, "{word}");
            }
        }
        application.forget().await;
    }
    words.client.close().await;
    fs::remove_file(&text).unwrap();
}

/// A part of the text is sent in so many pieces, one after the other: longer in all than the session of a killed instance.
const SLICES: usize = 160;
const SLICE: Duration = Duration::from_millis(50);

#[tokio::test]
async fn three_instances_are_killed_again_and_again_and_every_word_is_counted_once() {
    let Some(servers) = real_kafka("three_instances_are_killed_again_and_again_and_every_word_is_counted_once") else {
        return;
    };
    let words = Words::prepare(&servers).await;
    let (mut random, kills) = random_and_rounds(2);
    let settings = &["--guarantee", "exactly-once", "--session-timeout", "6"];
    let application = words.application(IsolationLevel::ReadCommitted, settings);
    let nothing = std::env::temp_dir().join(unique("milena-storm-text"));
    fs::write(&nothing, "\n").unwrap();
    // Creates the topics.
    application.run(&["--role", "load", "--input", nothing.to_str().unwrap()]);
    fs::remove_file(&nothing).unwrap();
    let mut instances = [application.counter(), application.counter(), application.counter()];
    // The text trickles in, so that there is always something to count; a kill comes when the group has got over the last one.
    let lines: Vec<&str> = words.text.lines().collect();
    let producer = Producer::builder(&words.client).linger(Duration::ZERO).build().await.unwrap();
    let mut killed = 0;
    for part in lines.chunks(lines.len().div_ceil(kills + 1)) {
        let slices = part.chunks(part.len().div_ceil(SLICES));
        // None in the last part: the text ends while three instances are alive.
        let kill_at = (killed < kills).then(|| random.usize(slices.len() * 7 / 8..slices.len()));
        for (number, slice) in slices.enumerate() {
            for line in slice {
                drop(producer.send(&Record::to(&application.lines).value(*line)).await.unwrap());
            }
            sleep(SLICE).await;
            if Some(number) == kill_at {
                killed += 1;
                let instance = &mut instances[random.usize(0..3)];
                println!("kill -9 number {killed}, of {}", instance.id());
                instance.kill();
                *instance = application.counter();
            }
        }
    }
    assert_eq!(killed, kills);
    producer.close(Duration::from_secs(10)).await.unwrap();
    application.until_counted().await;
    application.stop(instances.into());
    assert_eq!(application.read_with_java().await, words.expected, "every word is counted once");
    let aborted = application.aborted_records().await;
    println!("{aborted} words and counts were written in transactions that were aborted");
    assert!(kills < 10 || aborted > 0, "so many kills hit a transaction");
    application.forget().await;
    words.client.close().await;
}

/// A generator whose seed is printed with the way to have it again, and how many kills there are.
fn random_and_rounds(default: usize) -> (fastrand::Rng, usize) {
    let from = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let rounds = from("MILENA_STORM_ROUNDS").map_or(default, |rounds| rounds as usize);
    let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let seed = from("MILENA_STORM_SEED").unwrap_or_else(clock);
    println!("seed {seed}; again with MILENA_STORM_SEED={seed} MILENA_STORM_ROUNDS={rounds}");
    (fastrand::Rng::with_seed(seed), rounds)
}

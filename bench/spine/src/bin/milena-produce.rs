//! milena's producer, as it is by default, through `send`: every delivery is awaited, at most [`WINDOW`] are outstanding.
//!
//! The user's code runs on this thread's runtime, the sockets on the client's own thread: the default configuration.

use std::collections::VecDeque;

use milena::{Client, Delivery, Producer, Record};
use spine::{Arguments, Measurement, PARTITIONS, Partitioning, TOPIC, WINDOW, value, write_key};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments = Arguments::read();
    let client = Client::builder(&arguments.bootstrap_servers).connect().await.expect("a client");
    let producer = Producer::builder(&client).build().await.expect("a producer");
    send(&producer, 0..arguments.warm_up(), arguments.partitioning).await;
    let measurement = Measurement::start();
    send(&producer, arguments.warm_up()..arguments.warm_up() + arguments.records, arguments.partitioning).await;
    println!("{}", measurement.stop(arguments.records));
}

async fn send(producer: &Producer, numbers: std::ops::Range<u64>, partitioning: Partitioning) {
    let value = value();
    let mut key = [0; 16];
    let mut window: VecDeque<Delivery> = VecDeque::with_capacity(WINDOW);
    for n in numbers {
        if window.len() == WINDOW
            && let Some(oldest) = window.pop_front()
        {
            oldest.await.expect("every record is delivered");
        }
        let record = Record::to(TOPIC).value(&value);
        let delivery = match partitioning {
            Partitioning::RoundRobin => producer.send(&record.partition((n % PARTITIONS as u64) as i32)).await,
            Partitioning::Sticky => producer.send(&record).await,
            Partitioning::Murmur2 => {
                write_key(&mut key, n);
                producer.send(&record.key(&key)).await
            }
        };
        window.push_back(delivery.expect("every record is taken"));
    }
    for delivery in window {
        delivery.await.expect("every record is delivered");
    }
}

//! The nearest replica (KIP-392) is killed under its reader, who goes on with the leader and comes back when the replica does.

use milena::{Client, NewTopic, PartitionConsumer, Producer, Record, StartAt};
use milena_integration_tests::{on_broker, unique};
use milena_testkit::{Api, Proxy};
use tokio::time::{Instant, timeout};

use super::{DEADLINE, SECOND, all_in_sync};

/// Through the proxy, which knows who is asked.
pub(super) async fn killed(client: &Client, proxy: &Proxy) {
    let near = Client::builder(proxy.bootstrap_servers()).connect().await.unwrap();
    let topic = unique("nearest");
    near.admin().ensure_topics(&[NewTopic::new(&topic, 1).replication_factor(3)]).await.unwrap();
    let known = near.admin().describe_topic(&topic).await.unwrap();
    let leader = known.partitions[0].leader.unwrap();
    let follower = known.partitions[0].replicas.iter().copied().find(|broker| *broker != leader).unwrap();
    let rack = near.metadata().brokers[&follower].rack.clone().expect("every broker is a rack");
    let producer = client.producer().delivery_timeout(DEADLINE).build().await.unwrap();
    let reader = near.partition_consumer().assign(topic.as_str(), [0], StartAt::Beginning).rack(rack);
    let fetches = |broker: i32| proxy.request_log().api(Api::Fetch).broker(broker).count();
    let mut pair = Pair { topic: &topic, producer, reader: reader.build().await.unwrap(), next: 0 };

    pair.send_and_read().await;
    let at_leader = fetches(leader);
    pair.send_and_read().await;
    let at_follower = fetches(follower);
    assert_eq!(fetches(leader), at_leader, "the follower is read");

    on_broker("kill", follower).await;
    let began = Instant::now();
    // The leader acknowledges, and gives out, nothing before the dead follower has left the replicas in sync: about nine seconds.
    pair.send_and_read().await;
    println!("broker {follower} was read and is killed; the next records came after {:?}", began.elapsed());
    assert!(fetches(leader) > at_leader, "the leader is read");

    on_broker("start", follower).await;
    all_in_sync(client, &topic).await;
    let began = Instant::now();
    let before = fetches(follower);
    while fetches(follower) < before + 5 {
        assert!(
            began.elapsed() < DEADLINE,
            "the follower is back and not read; before its end it was asked {at_follower} times"
        );
        pair.send_and_read().await;
    }
    println!("broker {follower} is back, and read again after {:?}", began.elapsed());
    pair.reader.close(DEADLINE).await.unwrap();
    pair.producer.close(DEADLINE).await.unwrap();
    near.close().await;
    assert_eq!((near.tasks(), near.sockets()), (0, 0));
}

struct Pair<'a> {
    topic: &'a str,
    producer: Producer,
    reader: PartitionConsumer,
    next: i64,
}

impl Pair<'_> {
    /// A hundred records: each is the next one.
    async fn send_and_read(&mut self) {
        for _ in 0..100 {
            let value = "near";
            drop(self.producer.send(&Record::to(self.topic).value(&value)).await.unwrap());
        }
        self.producer.flush().await.unwrap();
        for _ in 0..100 {
            let record = timeout(DEADLINE, self.reader.recv()).await.expect("it comes").unwrap().unwrap();
            assert_eq!(record.offset(), self.next);
            self.next += 1;
        }
        tokio::time::sleep(SECOND / 5).await;
    }
}

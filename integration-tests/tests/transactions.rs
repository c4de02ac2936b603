//! Transactions on every cluster.

use milena::{Client, NewTopic, Record};
use milena_integration_tests::{real_kafka, unique};

/// Runs `test` on real Kafka.
fn on_real_kafka(name: &str, test: impl AsyncFn(&Client)) {
    let Some(servers) = real_kafka(name) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = Client::builder(servers).client_id(name).connect().await.unwrap();
        test(&client).await;
        client.close().await;
        assert_eq!((client.tasks(), client.sockets(), client.spawner().threads()), (0, 0, 0));
    });
}

async fn topic(client: &Client, partitions: i32) -> String {
    let name = unique("orders");
    client.admin().ensure_topics(&[NewTopic::new(&name, partitions)]).await.unwrap();
    name
}

#[test]
fn committed_records_are_there() {
    on_real_kafka("committed_records_are_there", async |client: &Client| {
        let topic = topic(client, 3).await;
        let mut producer = client.producer().transactional_id(unique("id")).build().await.unwrap();
        for round in 0..5 {
            let transaction = producer.begin();
            let mut deliveries = Vec::new();
            for n in 0..100 {
                let value = format!("{round}-{n}");
                deliveries.push(transaction.send(&Record::to(&topic).key(&value).value(&value)).await.unwrap());
            }
            producer = transaction.commit().await.unwrap();
            for delivery in deliveries {
                delivery.await.unwrap();
            }
            let transaction = producer.begin();
            let _ = transaction.send(&Record::to(&topic).value("x")).await.unwrap();
            producer = transaction.abort().await.unwrap();
        }
    });
}

//! confluent-kafka: idempotent by default, five batches in flight; the `send` that borrows.

use std::collections::HashMap;

use confluent_kafka::common::KafkaFuture;
use confluent_kafka::common::serialization::ByteArraySerializer;
use confluent_kafka::producer::{KafkaProducer, ProducerConfig, ProducerRecord, RecordMetadata};

use super::{Contender, LINGER, Shot};
use crate::job::Job;

pub(crate) struct Confluent {
    producer: KafkaProducer<Vec<u8>, Vec<u8>>,
    topic: String,
}

impl Contender for Confluent {
    type Delivery = KafkaFuture<RecordMetadata>;

    async fn connect(job: &Job) -> Self {
        let settings = [
            ("bootstrap.servers", job.bootstrap_servers.clone()),
            ("acks", "all".to_owned()),
            ("enable.idempotence", "true".to_owned()),
            ("linger.ms", LINGER.as_millis().to_string()),
            ("batch.size", job.load.batch.to_string()),
            ("compression.type", if job.load.lz4 { "lz4" } else { "none" }.to_owned()),
            ("partitioner.type", "Murmur2RandomPartitioner".to_owned()),
        ];
        let settings: HashMap<String, String> =
            settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let config = ProducerConfig::new(&settings).expect("settings");
        let serializer = ByteArraySerializer::new;
        let producer = KafkaProducer::new(config, serializer(), serializer()).expect("a producer");
        Self { producer, topic: job.topic.clone() }
    }

    async fn send(&self, shot: Shot<'_>) -> Self::Delivery {
        let key = shot.key.map(<[u8; 16]>::as_slice);
        let value: &[u8] = shot.value;
        let record = match shot.partition {
            None => ProducerRecord::with_key(self.topic.clone(), key, Some(value)),
            partition => {
                ProducerRecord::with_partition_key(self.topic.clone(), partition, key, Some(value)).expect("a record")
            }
        };
        self.producer.send(record, None).await.expect("every record is taken")
    }

    async fn settle(&self, delivery: Self::Delivery) {
        delivery.get().await.expect("every record is delivered");
    }
}

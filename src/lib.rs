#![doc = include_str!("../README.md")]

mod client;

pub use client::Client;

pub use milena_client::{
    Action, Admin, Broker, ByteStream, Changes, ClientBuilder, Counter, Error, ErrorKind, Gauge, Metadata,
    MetadataRecoveryStrategy, Metrics, Name, NewTopic, Observer, OffsetSpec, Outcome, Partition, RefreshReason, Sensor,
    Spawner, Stat, SystemResolver, TcpConnector, Topic, TopicInterest, TopicPartition, WallClock,
};
pub use milena_client::{Deserializer, SerializeError, Serializer, serde};
pub use milena_consumer::{
    Assignment, Assignments, Assignor, AssignorError, BatchError, CompactedTable, CompactedTableBuilder, Consumer,
    ConsumerBuilder, ConsumerEvent, ConsumerHandle, ConsumerRecord, CooperativeSticky, Decoded, GenerationHold,
    GroupMetadata, Headers, IsolationLevel, ListenerFuture, LogTruncation, Member, OffsetAndMetadata,
    OffsetAndTimestamp, OffsetGone, OffsetReset, PartitionConsumer, PartitionConsumerBuilder, PartitionRecords,
    PartitionState, PartitionStream, PartitionStreams, ReadError, ReaderHandle, ReadsRecords, RebalanceListener,
    RebalanceProtocol, RecordPart, RecordRef, RecordStream, Records, RecordsIntoIter, RecordsIter, ResetReason,
    SharedRecord, StartAt, Subscription, TableWatch, TopicSizes, TypedConsumer, TypedStream, UndecodableRecord,
    UnreadableBatch,
};
pub use milena_producer::{
    AbortError, Acknowledged, Acks, AddedHeaders, Appended, AsRecord, Backlog, ByGeohash, Choice, ClusterView,
    CommitError, Compression, Concern, Crc32, Delivery, Finding, Fnv1a, Geohash, Header, InitialiseError, Interceptor,
    Murmur2, OwnedRecord, PartitionQueue, Partitioner, Permit, Placed, Producer, ProducerBuilder, Profile, Purge,
    Purged, Record, RecordView, RoundRobin, Salted, SendsRecords, Sharded, Tiered, TimeBucket, TopicSettings,
    Transaction, TransactionSender, TransactionalProducer, TransactionalProducerBuilder, Typed, TypedRecord,
    UninitialisedProducer, Unplaced, geohash, murmur2_partition, sharded_key, time_bucket_key,
};
pub use milena_protocol::{ApiKey, ErrorCode};

/// Streams: a DSL like Kafka Streams', topologies, a driver to test them, and the runtime.
pub mod streams {
    pub use milena_streams::*;
}

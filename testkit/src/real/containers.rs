//! Real Kafka in a container.

//! Where a task's records leave for a topic.

use std::sync::Arc;

use super::{Cx, Flow, Outgoing, Part, Push, Step};
use crate::{record::Record, serde::SharedSerde, topology::TopicId};

/// Encodes records and hands them to the driver.
pub(crate) struct Sink<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) topic: TopicId,
    /// The topic's name, for the serdes.
    pub(crate) topic_name: Arc<str>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    /// A repartition topic: records without a key are dropped before it (Java's filter node; here it costs no hop).
    pub(crate) needs_key: bool,
}

impl<K: 'static, V: 'static> Push<K, V> for Sink<K, V> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Step {
        let core = &mut *cx.core;
        core.key.clear();
        core.value.clear();
        let no_key = self.key.is_null(&record.key);
        if no_key {
            if self.needs_key {
                core.dropped += 1;
                return Ok(());
            }
        } else if let Err(error) = self.key.encode(&self.topic_name, &record.key, &mut core.key) {
            return Err(core.failure(&self.name, format!("the key cannot be written: {error}")));
        }
        let no_value = self.value.is_null(&record.value);
        if !no_value && let Err(error) = self.value.encode(&self.topic_name, &record.value, &mut core.value) {
            return Err(core.failure(&self.name, format!("the value cannot be written: {error}")));
        }
        cx.driver.send(
            self.topic,
            Part::ByKey,
            Outgoing {
                key: (!no_key).then_some(&core.key),
                value: (!no_value).then_some(&core.value),
                timestamp: record.timestamp,
                headers: &record.headers,
            },
        );
        Ok(())
    }

    fn flush(&mut self, _cx: &mut Cx<'_>) -> Step<Flow> {
        Ok(Flow::Done)
    }
}

//! Where a task's input becomes typed.

use std::sync::Arc;

use super::{Cx, Flow, Out, RawPush, RawRecord, Step};
use crate::{
    record::Record,
    serde::{Serde, SharedSerde},
};

/// Decodes the records of a source topic.
pub(crate) struct Source<K, V> {
    pub(crate) name: Arc<str>,
    pub(crate) key: SharedSerde<K>,
    pub(crate) value: SharedSerde<V>,
    pub(crate) out: Out<K, V>,
}

impl<K: 'static, V: 'static> RawPush for Source<K, V> {
    fn push_raw(&mut self, cx: &mut Cx<'_>, record: RawRecord<'_>) -> Step {
        let RawRecord { owner, key, value, timestamp, headers } = record;
        let topic = cx.core.position.topic.as_deref().unwrap_or_default();
        let key = match decode(&*self.key, topic, key, owner, "key") {
            Ok(key) => key,
            Err(message) => return Err(cx.core.failure(&self.name, message)),
        };
        let value = match decode(&*self.value, topic, value, owner, "value") {
            Ok(value) => value,
            Err(message) => return Err(cx.core.failure(&self.name, message)),
        };
        self.out.push(cx, Record { key, value, timestamp, headers })
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow> {
        self.out.flush(cx)
    }
}

#[inline]
fn decode<T: 'static>(
    serde: &dyn Serde<T>,
    topic: &str,
    raw: Option<&[u8]>,
    owner: &bytes::Bytes,
    what: &str,
) -> Result<T, String> {
    match raw {
        Some(raw) => serde.decode(topic, raw, owner).map_err(|error| format!("the record's {what}: {error}")),
        None => serde.decode_null().ok_or_else(|| {
            let kind = std::any::type_name::<T>();
            format!("the record's {what} is null, and `{kind}` has no null: read it as Option<{kind}>, or as () if it does not matter")
        }),
    }
}

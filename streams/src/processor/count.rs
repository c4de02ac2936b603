//! `count`: how often a key was seen, in a store.
//!
//! With caching (the default) an update only marks its key dirty; the flush at commit writes one changelog record and
//! one downstream record for each dirty key, whatever the number of updates. Behind a repartition source the key bytes of
//! the record *are* the key bytes of the store, so nothing is decoded or encoded until the flush.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{Core, Cx, Flow, Out, Outgoing, Part, Push, RawPush, RawRecord, Step};
use crate::{
    record::{Headers, Record},
    serde::SharedSerde,
};

/// How many dirty entries are copied out of the store at a time: enough to share one allocation, few enough to stay in
/// the first-level cache.
const SLICE: usize = 512;

/// An update of a table. `new` is `None` for a deletion.
#[derive(Debug, Clone)]
pub(crate) struct Change<V> {
    pub(crate) new: Option<V>,
}

/// The part of `count` that does not know its input's type.
pub(crate) struct Count<K, V> {
    pub(crate) counter: CountRaw<K>,
    /// Tells a null value, which is not counted.
    pub(crate) value: SharedSerde<V>,
}

impl<K: Send + 'static, V: 'static> Push<K, V> for Count<K, V> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, V>) -> Step {
        let CountRaw { key_serde, name, topic, .. } = &self.counter;
        let core = &mut *cx.core;
        if key_serde.is_null(&record.key) || self.value.is_null(&record.value) {
            core.dropped += 1;
            return Ok(());
        }
        let mut key = std::mem::take(&mut core.key);
        key.clear();
        let encoded = key_serde.encode(topic, &record.key, &mut key);
        if let Err(error) = encoded {
            return Err(core.failure(name, format!("the key cannot be written: {error}")));
        }
        let done = self.counter.add(cx, &key, record.timestamp);
        cx.core.key = key;
        done
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow> {
        RawPush::flush(&mut self.counter, cx)
    }
}

/// `count` over key bytes.
pub(crate) struct CountRaw<K> {
    pub(crate) name: Arc<str>,
    /// Index into the task's stores.
    pub(crate) store: usize,
    /// The topic that the key serde is told.
    pub(crate) topic: Arc<str>,
    pub(crate) key_serde: SharedSerde<K>,
    pub(crate) out: Out<K, Change<i64>>,
    pub(crate) pending: Pending,
}

impl<K: 'static> RawPush for CountRaw<K> {
    fn push_raw(&mut self, cx: &mut Cx<'_>, record: RawRecord<'_>) -> Step {
        match (record.key, record.value) {
            (Some(key), Some(_)) => self.add(cx, key, record.timestamp),
            _ => {
                cx.core.dropped += 1;
                Ok(())
            }
        }
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow> {
        loop {
            while let Some(update) = self.pending.updates.get(self.pending.next) {
                if !cx.driver.has_room() {
                    return Ok(Flow::NeedRoom);
                }
                let (key, count, timestamp) = (update.key.clone(), update.count, update.timestamp);
                self.pending.next += 1;
                let owner = self.pending.keys.clone();
                self.forward(cx, &owner[key], &owner, count, timestamp)?;
            }
            let kv = &mut cx.core.stores[self.store].kv;
            if kv.is_clean() {
                self.pending = Pending::default();
                break;
            }
            self.pending.next = 0;
            self.pending.updates.clear();
            let (mut keys, updates) = (Vec::new(), &mut self.pending.updates);
            let mut broken = false;
            kv.take_dirty(SLICE, |update| {
                let start = keys.len();
                keys.extend_from_slice(update.key);
                match read(update.value) {
                    Some(count) => {
                        updates.push(Update { key: start..keys.len(), count, timestamp: update.timestamp });
                    }
                    None => broken = true,
                }
            });
            self.pending.keys = Bytes::from(keys);
            if broken {
                return Err(self.broken(cx.core));
            }
        }
        self.out.flush(cx)
    }
}

/// Updates taken from the store and not yet sent: a flush that runs out of room goes on here.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    keys: Bytes,
    updates: Vec<Update>,
    next: usize,
}

#[derive(Debug)]
struct Update {
    key: Range<usize>,
    count: i64,
    timestamp: i64,
}

impl<K: 'static> CountRaw<K> {
    #[inline]
    fn add(&mut self, cx: &mut Cx<'_>, key: &[u8], timestamp: i64) -> Step {
        let store = &mut cx.core.stores[self.store];
        let slot = store.kv.entry(key);
        let (count, timestamp) = match slot.value() {
            None => (1, timestamp),
            Some((value, old)) => match read(Some(value)) {
                Some(count) => (count.wrapping_add(1), timestamp.max(old)),
                None => return Err(self.broken(cx.core)),
            },
        };
        slot.set(Some(&count.to_be_bytes()), timestamp);
        if store.caching {
            return Ok(());
        }
        store.kv.take_dirty(usize::MAX, |_| {});
        let owner = Bytes::copy_from_slice(key);
        self.forward(cx, &owner, &owner, count, timestamp)
    }

    /// Tells the changelog and the children.
    fn forward(&mut self, cx: &mut Cx<'_>, key: &[u8], owner: &Bytes, count: i64, timestamp: i64) -> Step {
        let Cx { core, driver } = cx;
        if let Some(changelog) = core.stores[self.store].changelog {
            let (value, headers) = (count.to_be_bytes(), Headers::default());
            let record = Outgoing { key: Some(key), value: Some(&value), timestamp, headers: &headers };
            driver.send(changelog, Part::Fixed(core.partition), record);
        }
        if self.out.is_none() {
            return Ok(());
        }
        match self.key_serde.decode(&self.topic, key, owner) {
            Ok(key) => {
                let value = Change { new: Some(count) };
                self.out.push(cx, Record { key, value, timestamp, headers: Headers::default() })
            }
            Err(error) => Err(cx.core.failure(&self.name, format!("a key of the store cannot be read: {error}"))),
        }
    }

    #[cold]
    fn broken(&self, core: &Core) -> crate::error::Failure {
        let store = &core.stores[self.store].name;
        core.failure(
            &self.name,
            format!("store {store} holds a value that is no count of 8 bytes: was its changelog written by another application?"),
        )
    }
}

fn read(value: Option<&[u8]>) -> Option<i64> {
    value.and_then(|bytes| bytes.try_into().ok()).map(i64::from_be_bytes)
}

/// `to_stream`: a table's updates as a stream.
pub(crate) struct ToStream<K, V> {
    pub(crate) out: Out<K, V>,
}

impl<K, V> Push<K, Change<V>> for ToStream<K, V> {
    fn push(&mut self, cx: &mut Cx<'_>, record: Record<K, Change<V>>) -> Step {
        let Record { key, value: Change { new }, timestamp, headers } = record;
        match new {
            Some(value) => self.out.push(cx, Record { key, value, timestamp, headers }),
            None => Ok(()),
        }
    }

    fn flush(&mut self, cx: &mut Cx<'_>) -> Step<Flow> {
        self.out.flush(cx)
    }
}

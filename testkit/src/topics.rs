//! Topics, partitions and brokers as the cluster's controller knows them.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::apis::fetch::FetchSessions;
use crate::configs::{self, brokers::Inherited};
use crate::log::Log;
use crate::replication::{Copies, Lost};

/// One broker.
pub(crate) struct Broker {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) rack: Option<String>,
    pub(crate) up: bool,
    pub(crate) sessions: FetchSessions,
}

/// One topic.
pub(crate) struct Topic {
    pub(crate) id: Uuid,
    /// What was configured; everything else has its default.
    pub(crate) configs: BTreeMap<String, String>,
    /// What brokers are configured with for topics that say nothing.
    pub(crate) inherited: Inherited,
    pub(crate) partitions: Vec<Partition>,
}

impl Topic {
    /// A configured value, or that of the brokers, or the default.
    pub(crate) fn config(&self, name: &str) -> Option<&str> {
        self.configured(name).or_else(|| configs::default_of(name))
    }

    /// A value that somebody has set, for the topic or for all brokers.
    pub(crate) fn configured(&self, name: &str) -> Option<&str> {
        self.configs.get(name).or_else(|| self.inherited.get(name)).map(String::as_str)
    }

    /// A configured number, or its default.
    pub(crate) fn config_i64(&self, name: &str) -> Option<i64> {
        self.config(name)?.parse().ok()
    }

    pub(crate) fn is_compacted(&self) -> bool {
        self.has_policy("compact")
    }

    /// Whether what is too old or too much is deleted.
    pub(crate) fn deletes(&self) -> bool {
        self.has_policy("delete")
    }

    fn has_policy(&self, name: &str) -> bool {
        self.config("cleanup.policy").is_some_and(|policy| policy.split(',').any(|p| p.trim() == name))
    }

    pub(crate) fn partition(&self, index: i32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    pub(crate) fn partition_mut(&mut self, index: i32) -> Option<&mut Partition> {
        self.partitions.get_mut(usize::try_from(index).ok()?)
    }
}

/// One partition: who leads it, who follows, and its log.
pub(crate) struct Partition {
    pub(crate) leader: Option<i32>,
    pub(crate) leader_epoch: i32,
    /// In the order of preference.
    pub(crate) replicas: Vec<i32>,
    pub(crate) isr: Vec<i32>,
    pub(crate) log: Log,
    /// Below this offset the log is on the disks of the replicas that have it.
    pub(crate) flushed: i64,
    /// What was lost at its end.
    pub(crate) lost: Option<Lost>,
    pub(crate) copies: Copies,
}

impl Partition {
    /// A new partition, led by the first of those in sync.
    pub(crate) fn new(replicas: Vec<i32>, isr: Vec<i32>) -> Self {
        let mut log = Log::default();
        log.begin_epoch(0);
        Self {
            leader: isr.first().copied(),
            leader_epoch: 0,
            replicas,
            isr,
            log,
            flushed: 0,
            lost: None,
            copies: Copies::default(),
        }
    }

    /// Makes `leader` the leader in a new epoch.
    pub(crate) fn lead(&mut self, leader: Option<i32>) {
        self.leader = leader;
        self.leader_epoch += 1;
        if leader.is_some() {
            self.log.begin_epoch(self.leader_epoch);
        }
    }
}

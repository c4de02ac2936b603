//! Replication as a model: who has how much of a partition's log, who is in sync, and how far consumers may read.
//!
//! There is one log per partition, the leader's; the copy of every other replica is a beginning of it, and this file remembers where
//! the copies end that do not follow: those of brokers that are down, that do not reach the leader, or that a test
//! [holds back](crate::Cluster::hold_follower). All others have everything at once.
//!
//! - The high watermark is the smallest end among the in-sync replicas. It stays where it is while there are fewer of them than
//!   `min.insync.replicas` (or than replicas, if those are fewer), as in Kafka since 3.7 (KIP-966); a cluster like 2.8 does not stop it.
//! - A follower that is held back leaves the in-sync replicas when it lacks something and the broker's `replica.lag.time.max.ms` is over
//!   since it was held; Kafka looks at that twice in this time, the model at once. Let go, it has everything and is in sync again.
//! - A follower that is down or does not reach its leader leaves them at once (Kafka waits for a session to time out, or for the lag).
//!   A leader that does not reach the controller cannot change them: its high watermark stops where the followers it lost stopped.
//! - The first in-sync replica in the order of preference that the controller reaches becomes the leader when there is none. Its log
//!   counts: what the old leader had beyond it is gone, which nobody may have read, and no `acks=all` was answered for. Without such a
//!   replica there is no leader, unless `unclean.leader.election.enable` or a test ([`elect_unclean`](crate::Cluster::elect_unclean))
//!   takes one that lacks records that were.
//! - What a new leader did not have is gone from all copies, also from those that could bring it back in a second unclean election in
//!   Kafka.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::kafka_version::KafkaVersion;
use crate::network::Network;
use crate::planted::Defect;
use crate::state::{Settings, State, Timer};
use crate::topics::{Broker, Partition, Topic};
use crate::{groups, transactions};

/// The replicas of one partition whose copies are not simply the leader's log.
#[derive(Debug, Default)]
pub(crate) struct Copies {
    /// Copies that do not follow now.
    behind: BTreeMap<i32, Copy>,
    /// Followers that a test holds back, and since when.
    held: BTreeMap<i32, Instant>,
    /// No record below this offset may get lost: somebody was told that it is written everywhere, or has read it.
    promised: i64,
}

#[derive(Debug, Clone, Copy)]
struct Copy {
    end: i64,
    /// Its machine has lost its power, and with it what was not on the disk.
    has_lost_its_tail: bool,
}

/// The offsets that lost their records, which may have others now: whoever had read those may go back once.
#[derive(Debug)]
pub(crate) struct Lost {
    from: i64,
    to: i64,
    /// What was written since has this leader epoch, or a later one.
    epoch: i32,
    /// Groups that have gone back since, or beyond all that was lost.
    went_back: BTreeSet<String>,
}

impl Lost {
    /// A group that had committed `before` commits `offset`. Whether it may, as the records up to `before` were lost. `epoch` is that
    /// of the last record before `before`; −1 if the member did not tell.
    pub(crate) fn excuses(&mut self, group: &str, (before, epoch): (i64, i32), offset: i64) -> bool {
        let was_lost = self.from < before && before <= self.to && epoch < self.epoch;
        let is_excused = was_lost && !self.went_back.contains(group);
        if offset > self.to || (offset < before && is_excused) {
            self.went_back.insert(group.to_owned());
        }
        is_excused
    }
}

/// Which brokers see one another.
pub(crate) struct Sight<'a> {
    brokers: &'a BTreeMap<i32, Broker>,
    network: &'a Network,
}

impl Sight<'_> {
    fn is_up(&self, broker: i32) -> bool {
        self.brokers.get(&broker).is_some_and(|broker| broker.up)
    }

    /// Whether the controller knows it to be alive.
    fn is_inside(&self, broker: i32) -> bool {
        self.is_up(broker) && self.network.is_inside(broker)
    }
}

/// Who may be elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Election {
    Clean,
    Unclean,
}

/// What a change among the brokers did to a partition.
#[derive(Debug, Default)]
struct Settled {
    leader_changed: bool,
    /// The log ends here now, and where it ended before.
    truncated: Option<(i64, i64)>,
    /// What must not have happened.
    broken: Option<String>,
}

impl Partition {
    /// Where the copy of a replica ends.
    pub(crate) fn end_of(&self, replica: i32) -> i64 {
        self.copies.behind.get(&replica).map_or(self.log.end(), |copy| copy.end)
    }

    /// Followers that a test holds back.
    pub(crate) fn held(&self) -> Vec<i32> {
        self.copies.held.keys().copied().collect()
    }

    /// The end of what all in-sync replicas have, which the high watermark may not pass.
    pub(crate) fn in_sync_end(&self) -> i64 {
        if self.copies.behind.is_empty() {
            return self.log.end();
        }
        self.isr.iter().map(|replica| self.end_of(*replica)).min().unwrap_or(self.log.end())
    }

    /// Whether as many replicas are in sync as `min.insync.replicas` asks for, of a partition that has so many.
    pub(crate) fn has_enough_in_sync(&self, min_in_sync: usize) -> bool {
        self.isr.len() >= min_in_sync.min(self.replicas.len())
    }

    /// Whether what is appended now is at once below the high watermark.
    pub(crate) fn replicates_at_once(&self, min_in_sync: usize) -> bool {
        self.has_enough_in_sync(min_in_sync) && self.isr.iter().all(|replica| !self.copies.behind.contains_key(replica))
    }

    /// Moves the high watermark as far as it may go. True if it moved.
    fn advance(&mut self, settings: &Settings, min_in_sync: usize) -> bool {
        let stops = settings.kafka_version.is_none_or(KafkaVersion::stops_below_min_in_sync);
        let to = match settings.planted {
            Some(Defect::HighWatermarkAheadOfIsr) => self.log.end(),
            _ if stops && !self.has_enough_in_sync(min_in_sync) => return false,
            _ => self.in_sync_end(),
        };
        self.log.advance_high_watermark(to)
    }

    /// Somebody was told that everything below `end` is written.
    pub(crate) fn promise(&mut self, end: i64) {
        self.copies.promised = self.copies.promised.max(end);
    }

    /// A machine loses its power, and what it had not brought to its disk.
    fn lose_unflushed(&mut self, broker: i32) {
        if self.replicas.contains(&broker) {
            let end = self.end_of(broker).min(self.flushed);
            self.copies.behind.insert(broker, Copy { end, has_lost_its_tail: true });
        }
    }

    /// Nobody leads, and not even one copy has what the log still has: it is lost.
    fn drop_what_nobody_has(&mut self) -> Option<(i64, i64)> {
        let most = self.replicas.iter().map(|replica| self.end_of(*replica)).max()?;
        if self.leader.is_some() { None } else { self.cut(most) }
    }

    fn cut(&mut self, to: i64) -> Option<(i64, i64)> {
        let before = self.log.end();
        if !self.log.truncate(to) {
            return None;
        }
        let end = self.log.end();
        for copy in self.copies.behind.values_mut() {
            copy.end = copy.end.min(end);
        }
        self.flushed = self.flushed.min(end);
        self.lost = Some(Lost {
            from: self.lost.as_ref().map_or(end, |lost| lost.from.min(end)),
            to: self.lost.as_ref().map_or(before, |lost| lost.to.max(before)),
            epoch: self.leader_epoch + 1,
            went_back: BTreeSet::new(),
        });
        Some((end, before))
    }

    /// Remembers where the copies end that do not get what is written from now on.
    fn note_ends(&mut self, sight: &Sight<'_>) {
        for replica in &self.replicas {
            let follows = self.leader.is_some_and(|leader| {
                sight.is_up(*replica) && (leader == *replica || sight.network.reaches(leader, *replica))
            });
            if !follows || self.copies.held.contains_key(replica) {
                let copy = Copy { end: self.log.end(), has_lost_its_tail: false };
                self.copies.behind.entry(*replica).or_insert(copy);
            }
        }
    }

    /// Makes a replica the leader, whose copy is the log from now on.
    fn elect(&mut self, next: i32, election: Election) -> Settled {
        self.copies.held.remove(&next);
        let copy = self.copies.behind.remove(&next);
        let truncated = copy.and_then(|copy| self.cut(copy.end));
        let end = self.log.end();
        let is_excused = election == Election::Unclean || copy.is_some_and(|copy| copy.has_lost_its_tail);
        let broken = (end < self.copies.promised && !is_excused).then(|| {
            format!("b{next} was in sync and ends at {end}, and what lies below {} was promised", self.copies.promised)
        });
        self.copies.promised = self.copies.promised.min(end);
        if election == Election::Unclean {
            self.isr = vec![next];
        }
        self.lead(Some(next));
        Settled { leader_changed: true, truncated, broken }
    }

    /// Finds a leader where there is none that the controller reaches.
    fn elect_if_needed(&mut self, sight: &Sight<'_>, may_be_unclean: bool) -> Settled {
        if self.leader.is_some_and(|leader| sight.is_inside(leader)) {
            return Settled::default();
        }
        let there = self.replicas.iter().copied().filter(|id| sight.is_inside(*id));
        if let Some(next) = there.clone().find(|id| self.isr.contains(id)) {
            return self.elect(next, Election::Clean);
        }
        if let Some(next) = there.clone().next().filter(|_| may_be_unclean) {
            return self.elect(next, Election::Unclean);
        }
        // A leader that is alive and only out of sight goes on.
        let Some(leader) = self.leader.filter(|leader| !sight.is_up(*leader)) else { return Settled::default() };
        if self.isr.iter().any(|id| *id != leader) {
            self.isr.retain(|id| *id != leader);
        }
        self.lead(None);
        Settled { leader_changed: true, ..Settled::default() }
    }

    /// The followers follow.
    fn follow(&mut self, sight: &Sight<'_>) {
        self.note_ends(sight);
        let Some(leader) = self.leader else { return };
        let follows = |id: i32| id == leader || (sight.is_up(id) && sight.network.reaches(leader, id));
        let is_held = |copies: &Copies, id: i32| id != leader && copies.held.contains_key(&id);
        for id in &self.replicas {
            if follows(*id) && !is_held(&self.copies, *id) {
                self.copies.behind.remove(id);
            }
        }
        if !sight.is_inside(leader) {
            return;
        }
        self.isr.retain(|id| follows(*id));
        for id in &self.replicas {
            if follows(*id) && !is_held(&self.copies, *id) && !self.isr.contains(id) {
                self.isr.push(*id);
            }
        }
    }

    /// Held followers that lack something leave the in-sync replicas, if they have been held for so long. True if one did.
    fn drop_laggards(&mut self, now: Instant, most: Duration) -> bool {
        let (before, end) = (self.isr.len(), self.log.end());
        let lags =
            |id: &i32| self.end_of(*id) < end && self.copies.held.get(id).is_some_and(|since| now >= *since + most);
        let lagging: BTreeSet<i32> = self.isr.iter().copied().filter(lags).collect();
        self.isr.retain(|id| !lagging.contains(id));
        self.isr.len() != before
    }
}

impl Topic {
    /// `min.insync.replicas`.
    pub(crate) fn min_in_sync(&self) -> usize {
        self.config_i64("min.insync.replicas").and_then(|min| usize::try_from(min).ok()).unwrap_or(1)
    }

    fn may_be_unclean(&self) -> bool {
        self.config("unclean.leader.election.enable") == Some("true")
    }
}

impl State {
    /// Empty partitions with these replicas. In sync are those that the controller knows to be alive, and the first of them leads.
    pub(crate) fn new_partitions(&self, replicas: Vec<Vec<i32>>) -> Vec<Partition> {
        let sight = Sight { brokers: &self.brokers, network: &self.network };
        let one = |replicas: Vec<i32>| {
            let alive: Vec<i32> = replicas.iter().copied().filter(|id| sight.is_inside(*id)).collect();
            let mut partition = match alive.is_empty() {
                false => Partition::new(replicas, alive),
                // Only a test's own word makes it so: whichever comes back first leads.
                true => Partition { leader: None, ..Partition::new(replicas.clone(), replicas) },
            };
            partition.follow(&sight);
            partition
        };
        replicas.into_iter().map(one).collect()
    }

    /// Whether the controller knows a broker to be alive.
    pub(crate) fn is_alive(&self, broker: i32) -> bool {
        Sight { brokers: &self.brokers, network: &self.network }.is_inside(broker)
    }

    /// Brokers died, came back, or lost sight of one another: in-sync replicas, leaders and coordinators follow.
    pub(crate) fn on_brokers_changed(&mut self, now: Instant) {
        self.network.find_those_outside(&self.brokers);
        let sight = Sight { brokers: &self.brokers, network: &self.network };
        let mut all = Vec::new();
        for (name, topic) in &mut self.topics {
            let may_be_unclean = topic.may_be_unclean();
            for (index, partition) in topic.partitions.iter_mut().enumerate() {
                partition.note_ends(&sight);
                let mut settled = partition.elect_if_needed(&sight, may_be_unclean);
                partition.follow(&sight);
                settled.truncated = settled.truncated.or(partition.drop_what_nobody_has());
                all.push((name.clone(), index as i32, settled));
            }
        }
        for (topic, index, settled) in all {
            self.on_settled(&topic, index, settled, now);
        }
        groups::on_coordinators_changed(self, now);
        transactions::on_coordinators_changed(self, now);
        transactions::markers::write_all(self, now);
    }

    fn on_settled(&mut self, topic: &str, index: i32, settled: Settled, now: Instant) {
        let Settled { leader_changed, truncated, broken } = settled;
        if let Some((end, before)) = truncated {
            let id = self.topics.get(topic).map(|topic| topic.id);
            if let Some(id) = id {
                self.invariants.on_truncated(id, index, end);
            }
            self.note(now, format!("{topic}-{index} has lost everything from offset {end} on, up to {before}"));
        }
        if let Some(sentence) = broken {
            self.violation(format!("{topic}-{index}: {sentence}"));
        }
        if self.advance(topic, index) || leader_changed {
            self.on_partition_changed(topic, index, now);
        }
    }

    /// Moves a partition's high watermark as far as it may go. True if it moved.
    pub(crate) fn advance(&mut self, topic: &str, index: i32) -> bool {
        let Some(topic) = self.topics.get_mut(topic) else { return false };
        let min_in_sync = topic.min_in_sync();
        topic.partition_mut(index).is_some_and(|partition| partition.advance(&self.settings, min_in_sync))
    }

    /// What became of a partition by a test's own word.
    fn change(
        &mut self,
        topic: &str,
        index: i32,
        now: Instant,
        what: impl FnOnce(&mut Partition, &Sight<'_>) -> Settled,
    ) {
        let sight = Sight { brokers: &self.brokers, network: &self.network };
        let Some(partition) = self.topics.get_mut(topic).and_then(|topic| topic.partition_mut(index)) else { return };
        partition.note_ends(&sight);
        let settled = what(partition, &sight);
        partition.follow(&sight);
        self.on_settled(topic, index, settled, now);
        self.on_partition_changed(topic, index, now); // a follower that has more now may be read, too
        transactions::markers::write_all(self, now);
    }

    /// A machine loses its power.
    pub(crate) fn lose_power(&mut self, broker: i32) {
        let partitions = self.topics.values_mut().flat_map(|topic| &mut topic.partitions);
        partitions.for_each(|partition| partition.lose_unflushed(broker));
    }

    /// A test makes a broker the leader, which is in sync or has all it lacks by that.
    pub(crate) fn move_leader(&mut self, topic: &str, index: i32, broker: i32, now: Instant) {
        self.note_leader(topic, index, broker, now);
        self.change(topic, index, now, |partition, _| {
            if !partition.replicas.contains(&broker) {
                partition.replicas.push(broker);
            }
            if !partition.isr.contains(&broker) {
                partition.copies.behind.remove(&broker);
                partition.isr.push(broker);
            }
            partition.elect(broker, Election::Clean)
        });
    }

    /// Refuses a broker that cannot lead.
    pub(crate) fn check_up(&self, broker: i32) -> Result<(), String> {
        let is_up = self.brokers.get(&broker).is_some_and(|broker| broker.up);
        if is_up { Ok(()) } else { Err(format!("broker {broker} does not exist or is down")) }
    }

    /// A test makes a broker the leader, whatever it lacks.
    pub(crate) fn elect_unclean(&mut self, topic: &str, index: i32, broker: i32, now: Instant) {
        self.note_leader(topic, index, broker, now);
        self.change(topic, index, now, |partition, _| partition.elect(broker, Election::Unclean));
    }

    fn note_leader(&mut self, topic: &str, index: i32, broker: i32, now: Instant) {
        let Some(partition) = self.topics.get(topic).and_then(|topic| topic.partition(index)) else { return };
        let epoch = partition.leader_epoch + 1;
        self.note(now, format!("{topic}-{index} is led by b{broker} in epoch {epoch}"));
    }

    /// A test keeps a follower from copying anything more.
    pub(crate) fn hold_follower(&mut self, topic: &str, index: i32, broker: i32, now: Instant) {
        self.note(now, format!("{topic}-{index}: b{broker} is held back"));
        self.change(topic, index, now, |partition, _| {
            partition.copies.held.entry(broker).or_insert(now);
            Settled::default()
        });
        self.at(now + self.settings.replica_lag, Timer::Lag(topic.to_owned(), index));
    }

    /// A test lets a follower copy what it lacks.
    pub(crate) fn release_follower(&mut self, topic: &str, index: i32, broker: i32, now: Instant) {
        self.note(now, format!("{topic}-{index}: b{broker} is held no longer"));
        self.change(topic, index, now, |partition, _| {
            partition.copies.held.remove(&broker);
            Settled::default()
        });
    }

    /// A test does not wait for a follower to lag for long enough.
    pub(crate) fn drop_from_isr(&mut self, topic: &str, index: i32, broker: i32, now: Instant) {
        self.note(now, format!("{topic}-{index}: b{broker} leaves the in-sync replicas"));
        self.change(topic, index, now, |partition, _| {
            partition.isr.retain(|id| *id != broker);
            Settled::default()
        });
    }

    /// Something was appended, or a follower has been held for long: who lags is in sync no longer.
    pub(crate) fn drop_laggards(&mut self, topic: &str, index: i32, now: Instant) {
        let most = self.settings.replica_lag;
        let sight = Sight { brokers: &self.brokers, network: &self.network };
        let Some(partition) = self.topics.get_mut(topic).and_then(|topic| topic.partition_mut(index)) else { return };
        let can_change = partition.leader.is_some_and(|leader| sight.is_inside(leader));
        if partition.copies.held.is_empty() || !can_change || !partition.drop_laggards(now, most) {
            return;
        }
        let isr = format!("{:?}", partition.isr);
        self.note(now, format!("{topic}-{index}: a follower lags, {isr} are in sync"));
        if self.advance(topic, index) {
            self.on_partition_changed(topic, index, now);
        }
        transactions::markers::write_all(self, now);
    }

    /// A batch is in the log of its leader: followers copy it, and those who wait for it look again.
    pub(crate) fn on_appended(&mut self, topic: &str, index: i32, now: Instant) {
        if self.advance(topic, index) {
            self.on_partition_changed(topic, index, now);
        }
        self.drop_laggards(topic, index, now);
    }
}

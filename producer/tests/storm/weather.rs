//! What befalls the cluster while producers send: cut connections and links, applied or not, errors, held answers, late copies, leaders
//! that move, brokers that die and come back, followers that fall behind, quotas.

use std::time::Duration;

use milena_testkit::{Api, Cluster, ErrorCode, Fault, Link, Reaction};

use crate::{PARTITIONS, TOPIC};

pub(crate) struct Weather<'a> {
    cluster: &'a Cluster,
    faults: Vec<Fault>,
    has_late_copies: bool,
    /// Unclean elections happen: what was acknowledged may be lost, by Kafka.
    pub(crate) is_unclean: bool,
    down: Option<i32>,
    is_cut: bool,
    is_throttled: bool,
    held: Option<(i32, i32)>,
}

const BROKERS: std::ops::RangeInclusive<i32> = 1..=3;

impl<'a> Weather<'a> {
    pub(crate) fn new(cluster: &'a Cluster, rng: &mut fastrand::Rng) -> Self {
        let millis = |rng: &mut fastrand::Rng, most| Duration::from_millis(rng.u64(1..most));
        let often = [
            (0.04, Reaction::Disconnect),
            (0.04, Reaction::ApplyThenDisconnect),
            (0.01, Reaction::ApplyThenDrop),
            (0.01, Reaction::Drop),
            (0.01, Reaction::HalfOpen),
            (0.01, Reaction::TruncateAnswer),
            (0.01, Reaction::WrongCorrelationId),
            (0.01, Reaction::Bandwidth(20_000)),
            (0.02, Reaction::Error(ErrorCode::NOT_ENOUGH_REPLICAS)),
            (0.02, Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
            (0.02, Reaction::ApplyThenError(ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND)),
            (0.01, Reaction::ApplyThenError(ErrorCode::REQUEST_TIMED_OUT)),
            (0.01, Reaction::Error(ErrorCode::MESSAGE_TOO_LARGE)),
            (0.01, Reaction::Error(ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER)),
            (0.05, Reaction::DelayAnswer(millis(rng, 400))),
            (0.05, Reaction::Delay(millis(rng, 400))),
        ];
        let produce = || cluster.faults().when(Api::Produce);
        let mut faults = Vec::new();
        let has_late_copies = rng.bool();
        if has_late_copies {
            // What a connection that broke had swallowed arrives after its repeat. First of all, so that whatever else befalls such a
            // request, its first copy has no answer: a network that repeats what was answered there is not.
            for _ in 0..4 {
                let nth = rng.u64(1..120);
                faults.push(produce().nth(nth).then(Reaction::LateCopy(millis(rng, 5000))));
                faults.push(produce().nth(nth).then(Reaction::Disconnect));
            }
        }
        for (often, reaction) in often {
            if rng.u32(0..3) == 0 {
                faults.push(produce().probability(often).then(reaction));
            }
        }
        Self {
            cluster,
            faults,
            has_late_copies,
            is_unclean: rng.u32(0..5) == 0,
            down: None,
            is_cut: false,
            is_throttled: false,
            held: None,
        }
    }

    pub(crate) fn has_late_copies(&self) -> bool {
        self.has_late_copies
    }

    /// What happens between two records: mostly nothing.
    pub(crate) fn change(&mut self, rng: &mut fastrand::Rng) {
        let (partition, broker) = (rng.i32(0..PARTITIONS), rng.i32(BROKERS));
        match rng.u32(0..200) {
            0..=1 => self.move_leader(partition, broker),
            2..=3 => self.cluster.disconnect(broker),
            4 => self.crash(broker),
            5..=6 => self.restart(),
            7 => self.hold(partition, broker),
            8..=9 => self.release(rng),
            10 => {
                self.is_cut = true;
                match rng.u32(0..4) {
                    0 => self.cluster.cut(Link::Clients(broker)),
                    1 => self.cluster.cut(Link::ClientsTo(broker)),
                    2 => self.cluster.cut(Link::ToClients(broker)),
                    _ => self.cluster.cut(Link::Brokers(broker, broker % 3 + 1)),
                }
            }
            11..=12 => self.heal(),
            13 => {
                self.is_throttled = !self.is_throttled;
                let time = if self.is_throttled { Duration::from_millis(rng.u64(1..300)) } else { Duration::ZERO };
                self.cluster.throttle(Api::Produce, time);
            }
            14 if self.is_unclean => self.elect_unclean(partition, broker),
            15 => {
                let info = self.cluster.partition_info(TOPIC, partition);
                if info.log_start_offset < info.high_watermark {
                    let before = rng.i64(info.log_start_offset..=info.high_watermark);
                    self.cluster.delete_records(TOPIC, partition, before);
                }
            }
            _ => {}
        }
    }

    fn move_leader(&self, partition: i32, broker: i32) {
        let info = self.cluster.partition_info(TOPIC, partition);
        if self.down != Some(broker) && info.isr.contains(&broker) && info.leader.is_some() {
            self.cluster.move_leader(TOPIC, partition, broker);
        }
    }

    /// One at a time, so that `min.insync.replicas` can be had.
    fn crash(&mut self, broker: i32) {
        if self.down.is_none() {
            self.down = Some(broker);
            self.cluster.crash(broker);
        }
    }

    fn restart(&mut self) {
        if let Some(broker) = self.down.take() {
            self.cluster.restart(broker);
        }
    }

    fn hold(&mut self, partition: i32, broker: i32) {
        let info = self.cluster.partition_info(TOPIC, partition);
        if self.held.is_none() && info.leader.is_some_and(|leader| leader != broker) && self.down != Some(broker) {
            self.held = Some((partition, broker));
            self.cluster.hold_follower(TOPIC, partition, broker);
        }
    }

    /// Out of the in-sync replicas first, or at once back to them.
    fn release(&mut self, rng: &mut fastrand::Rng) {
        let Some((partition, broker)) = self.held else { return };
        let info = self.cluster.partition_info(TOPIC, partition);
        if rng.bool() && info.held.contains(&broker) && info.isr.contains(&broker) && info.isr.len() > 2 {
            self.cluster.drop_from_isr(TOPIC, partition, broker);
        } else {
            self.held = None;
            self.cluster.release_follower(TOPIC, partition, broker);
        }
    }

    fn elect_unclean(&mut self, partition: i32, broker: i32) {
        if self.down != Some(broker) {
            self.cluster.elect_unclean(TOPIC, partition, broker);
        }
    }

    fn heal(&mut self) {
        if std::mem::take(&mut self.is_cut) {
            self.cluster.heal_all();
        }
    }

    /// The sun comes out.
    pub(crate) fn clear(&mut self) {
        for fault in self.faults.drain(..) {
            fault.remove();
        }
        self.restart();
        self.heal();
        if let Some((partition, broker)) = self.held.take() {
            self.cluster.release_follower(TOPIC, partition, broker);
        }
        self.cluster.throttle(Api::Produce, Duration::ZERO);
    }
}

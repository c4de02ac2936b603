//! What befalls the cluster while readers read: requests that fail in every way, leaders that move, brokers that die and come back,
//! followers that fall behind, logs that lose their beginning, their end, or records in their midst, bits that turn over.

use std::fmt;
use std::ops::AddAssign;
use std::time::Duration;

use milena_testkit::{Api, Cluster, ErrorCode, Fault, Reaction};

use crate::history::{History, Place};
use crate::{BROKERS, COMPACTED, MADE_ANEW, TOPICS};

pub(crate) struct Weather<'a> {
    cluster: &'a Cluster,
    faults: Vec<(&'static str, Fault)>,
    down: Option<i32>,
    is_throttled: bool,
    held: Option<(Place, i32)>,
    /// What was read may be lost.
    is_unclean: bool,
    happened: Happened,
}

/// How often each kind of weather happened.
#[derive(Debug, Default, Clone)]
pub(crate) struct Happened(pub(crate) std::collections::BTreeMap<&'static str, u64>);

impl Happened {
    pub(crate) fn note(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

impl AddAssign for Happened {
    fn add_assign(&mut self, other: Self) {
        for (what, times) in other.0 {
            *self.0.entry(what).or_default() += times;
        }
    }
}

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(|(what, times)| format!("{what} {times}")).collect();
        f.write_str(&all.join(", "))
    }
}

/// What a fetch, and what leads to one, may run into, and how often.
fn troubles(rng: &mut fastrand::Rng) -> Vec<(&'static str, Api, f64, Reaction)> {
    let mut millis = |most| Duration::from_millis(rng.u64(1..most));
    vec![
        ("disconnects before", Api::Fetch, 0.02, Reaction::Disconnect),
        ("disconnects after", Api::Fetch, 0.02, Reaction::ApplyThenDisconnect),
        ("answers cut short", Api::Fetch, 0.02, Reaction::TruncateAnswer),
        ("answers lost", Api::Fetch, 0.003, Reaction::ApplyThenDrop),
        ("half-open connections", Api::Fetch, 0.003, Reaction::HalfOpen),
        ("slow networks", Api::Fetch, 0.01, Reaction::Bandwidth(100_000)),
        ("wrong correlation ids", Api::Fetch, 0.005, Reaction::WrongCorrelationId),
        ("late answers", Api::Fetch, 0.05, Reaction::DelayAnswer(millis(400))),
        ("late requests", Api::Fetch, 0.05, Reaction::Delay(millis(400))),
        ("sessions not found", Api::Fetch, 0.02, Reaction::Error(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)),
        ("session epochs refused", Api::Fetch, 0.02, Reaction::Error(ErrorCode::INVALID_FETCH_SESSION_EPOCH)),
        ("sessions lost behind", Api::Fetch, 0.01, Reaction::ApplyThenError(ErrorCode::FETCH_SESSION_ID_NOT_FOUND)),
        ("no leaders", Api::Fetch, 0.02, Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        ("fenced epochs", Api::Fetch, 0.02, Reaction::Error(ErrorCode::FENCED_LEADER_EPOCH)),
        ("unknown epochs", Api::Fetch, 0.02, Reaction::Error(ErrorCode::UNKNOWN_LEADER_EPOCH)),
        ("offsets not available", Api::Fetch, 0.01, Reaction::Error(ErrorCode::OFFSET_NOT_AVAILABLE)),
        ("bad disks", Api::Fetch, 0.01, Reaction::Error(ErrorCode::KAFKA_STORAGE_ERROR)),
        ("unknown errors", Api::Fetch, 0.01, Reaction::Error(ErrorCode::UNKNOWN_SERVER_ERROR)),
        ("look-ups refused", Api::ListOffsets, 0.2, Reaction::Error(ErrorCode::NOT_LEADER_OR_FOLLOWER)),
        ("look-ups cut off", Api::ListOffsets, 0.1, Reaction::ApplyThenDisconnect),
        ("late look-ups", Api::ListOffsets, 0.2, Reaction::DelayAnswer(millis(300))),
        ("late metadata", Api::Metadata, 0.2, Reaction::DelayAnswer(millis(300))),
    ]
}

impl<'a> Weather<'a> {
    pub(crate) fn new(cluster: &'a Cluster, rng: &mut fastrand::Rng) -> Self {
        let mut faults = Vec::new();
        for (what, api, often, reaction) in troubles(rng) {
            if rng.u32(0..3) == 0 {
                faults.push((what, cluster.faults().when(api).probability(often).then(reaction)));
            }
        }
        let is_unclean = rng.bool();
        Self { cluster, faults, down: None, is_throttled: false, held: None, is_unclean, happened: Happened::default() }
    }

    /// What happens between two steps: mostly nothing.
    pub(crate) fn change(&mut self, history: &mut History, rng: &mut fastrand::Rng) {
        let places = history.places();
        let place = places[rng.usize(0..places.len())];
        let broker = rng.i32(BROKERS);
        match rng.u32(0..120) {
            0..=2 => self.move_leader(place, broker),
            3..=4 => {
                self.cluster.disconnect(broker);
                self.happened.note("connections closed");
            }
            5 if self.down.is_none() => {
                self.down = Some(broker);
                self.cluster.crash(broker);
                self.happened.note("crashes");
            }
            6..=7 => self.restart(),
            8 | 28..=29 => self.hold(place, broker),
            9..=10 => self.release(),
            11 => {
                self.is_throttled = !self.is_throttled;
                let time = if self.is_throttled { Duration::from_millis(rng.u64(1..300)) } else { Duration::ZERO };
                self.cluster.throttle(Api::Fetch, time);
                self.happened.note("quotas");
            }
            12..=14 => self.delete_records(place, rng),
            15 if place.topic == "log" => {
                self.cluster.apply_retention(place.topic);
                self.happened.note("retention");
            }
            16..=18 => {
                self.mend(history);
                self.cluster.compact(COMPACTED);
                history.on_compacted(self.cluster, COMPACTED);
                self.happened.note("compactions");
            }
            19..=20 => self.damage(place, history, rng),
            21 => self.mend(history),
            22..=25 if self.is_unclean => self.elect_unclean(place, broker, rng),
            26 if rng.u32(0..2) == 0 => {
                if self.held.is_some_and(|(place, _)| place.topic == MADE_ANEW) {
                    self.held = None;
                }
                self.cluster.delete_topic(MADE_ANEW);
                self.cluster.create_topic(MADE_ANEW, 1);
                history.on_recreated(self.cluster, MADE_ANEW);
                self.happened.note("topics made anew");
            }
            27 if self.cluster.partitions("log") == Some(TOPICS[0].1) => {
                self.cluster.grow_topic("log", TOPICS[0].1 + 1);
                history.on_grown(Place { topic: "log", partition: TOPICS[0].1 });
                self.happened.note("topics grown");
            }
            _ => return,
        }
        history.look(self.cluster);
    }

    fn move_leader(&mut self, place: Place, broker: i32) {
        let info = self.cluster.partition_info(place.topic, place.partition);
        if self.down != Some(broker) && info.isr.contains(&broker) && info.leader.is_some_and(|leader| leader != broker)
        {
            self.cluster.move_leader(place.topic, place.partition, broker);
            self.happened.note("leader moves");
        }
    }

    fn restart(&mut self) {
        if let Some(broker) = self.down.take() {
            self.cluster.restart(broker);
        }
    }

    /// What a held follower lacks, readers do not get; and if it becomes the leader, it is gone before anybody got it.
    fn hold(&mut self, place: Place, broker: i32) {
        let info = self.cluster.partition_info(place.topic, place.partition);
        if self.held.is_none() && info.leader.is_some_and(|leader| leader != broker) && self.down != Some(broker) {
            self.held = Some((place, broker));
            self.cluster.hold_follower(place.topic, place.partition, broker);
            self.happened.note("followers held");
        }
    }

    /// A follower that has been left behind becomes the leader: what it lacks is gone, and may have been read.
    fn elect_unclean(&mut self, place: Place, broker: i32, rng: &mut fastrand::Rng) {
        let (place, broker) = self.held.unwrap_or((place, broker));
        let info = self.cluster.partition_info(place.topic, place.partition);
        if self.down == Some(broker) || info.leader.is_none() || !info.replicas.contains(&broker) {
            return;
        }
        if rng.u32(0..4) > 0 && info.held.contains(&broker) && info.isr.contains(&broker) {
            // Lets the others go on without it.
            self.cluster.drop_from_isr(place.topic, place.partition, broker);
            return;
        }
        if self.held.take_if(|(held, _)| *held == place).is_some() {
            self.happened.note("unclean elections");
        }
        self.cluster.elect_unclean(place.topic, place.partition, broker);
    }

    fn release(&mut self) {
        if let Some((place, broker)) = self.held.take() {
            self.cluster.release_follower(place.topic, place.partition, broker);
        }
    }

    fn delete_records(&mut self, place: Place, rng: &mut fastrand::Rng) {
        let info = self.cluster.partition_info(place.topic, place.partition);
        if place.topic == "log" && info.log_start_offset < info.high_watermark {
            let before = rng.i64(info.log_start_offset..=info.high_watermark);
            self.cluster.delete_records(place.topic, place.partition, before);
            self.happened.note("records deleted");
        }
    }

    /// One bit of one batch, in one place at a time.
    fn damage(&mut self, place: Place, history: &mut History, rng: &mut fastrand::Rng) {
        let log = &history.logs[&place];
        if place.topic != "log" || log.live.is_empty() || history.logs.values().any(|log| log.is_damaged.is_some()) {
            return;
        }
        // Late ones, which are still to be read.
        let at = log.live.len() - 1 - rng.usize(0..log.live.len().min(20));
        if let Some(offset) = log.live.keys().nth(at).copied()
            && self.cluster.turn_bit_over(place.topic, place.partition, offset)
        {
            history.on_damaged(place, offset);
            self.happened.note("bits turned over");
        }
    }

    fn mend(&mut self, history: &mut History) {
        let damaged = history.logs.iter().find_map(|(place, log)| Some((*place, log.is_damaged?)));
        if let Some((place, offset)) = damaged {
            if history.logs[&place].live.contains_key(&offset) {
                self.cluster.turn_bit_over(place.topic, place.partition, offset);
                history.on_damaged(place, offset);
            } else {
                history.logs.get_mut(&place).unwrap().is_damaged = None;
            }
        }
    }

    /// The sun comes out.
    pub(crate) fn clear(mut self, history: &mut History) -> Happened {
        self.mend(history);
        self.restart();
        self.release();
        self.cluster.throttle(Api::Fetch, Duration::ZERO);
        history.look(self.cluster);
        for (what, fault) in self.faults.drain(..) {
            let fired = fault.fired();
            if fired > 0 {
                *self.happened.0.entry(what).or_default() += fired;
            }
            fault.remove();
        }
        self.happened
    }
}

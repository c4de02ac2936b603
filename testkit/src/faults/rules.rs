//! All faults of a cluster or a proxy, and how a request is compared with them.

use std::collections::BTreeMap;
use std::panic::Location;
use std::time::Duration;

use bytes::Bytes;
use milena_protocol::ErrorCode;
use tokio::sync::watch;

use super::Reaction;
use super::when::{Facts, When};
use crate::apis::Parked;

/// An error that a handler has to give for the partitions it names.
#[derive(Debug, Clone)]
pub(crate) struct InjectedError {
    topic: Option<String>,
    partition: Option<i32>,
    code: ErrorCode,
}

impl InjectedError {
    /// An error that concerns the whole request.
    pub(crate) fn for_all(code: ErrorCode) -> Self {
        Self { topic: None, partition: None, code }
    }

    /// Whether the error concerns this partition.
    pub(crate) fn concerns(&self, topic: &str, partition: i32) -> bool {
        self.topic.as_deref().is_none_or(|t| t == topic) && self.partition.is_none_or(|p| p == partition)
    }

    /// Whether the fault names no topic and no partition.
    pub(crate) fn is_for_all(&self) -> bool {
        self.topic.is_none() && self.partition.is_none()
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }
}

/// The fault that decides about a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chosen {
    pub(crate) fault: u64,
    pub(crate) reaction: Reaction,
    /// A number from the fault's seed, for reactions that draw lots.
    pub(crate) lot: u64,
}

/// What the faults say about one request.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) errors: Vec<InjectedError>,
    pub(crate) reaction: Option<Chosen>,
    /// Copies that come after a time, or when their fault is released.
    pub(crate) copies: Vec<(u64, Option<Duration>)>,
    /// The faults that fired.
    pub(super) fired: Vec<(u64, Reaction)>,
}

impl Verdict {
    /// What the log says about the faults that fired.
    pub(crate) fn lines(&self, broker: i32, connection: u64) -> impl Iterator<Item = String> {
        self.fired
            .iter()
            .map(move |(fault, reaction)| format!("b{broker} c{connection} fault {fault} fires: {reaction:?}"))
    }
}

/// What waits for [`Fault::release`](super::Fault::release) in an in-process cluster.
pub(crate) enum Held {
    Request(Parked),
    Answer { connection: u64, frame: Bytes },
    Copy { broker: i32, frame: Bytes },
}

/// How far a fault is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(super) fired: u64,
    pub(crate) released: bool,
}

struct Rule {
    when: When,
    reaction: Reaction,
    line: &'static Location<'static>,
    rng: fastrand::Rng,
    matched: u64,
    progress: watch::Sender<Progress>,
    held: Vec<Held>,
}

impl Rule {
    fn progress(&self) -> Progress {
        *self.progress.borrow()
    }
}

/// All faults.
pub(crate) struct Rules {
    rules: BTreeMap<u64, Rule>,
    next_id: u64,
    seed: u64,
    freed: Vec<Held>,
}

impl Rules {
    pub(crate) fn new(seed: u64) -> Self {
        Self { rules: BTreeMap::new(), next_id: 1, seed, freed: Vec::new() }
    }

    /// Whether there is nothing to compare a request with.
    pub(crate) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    pub(super) fn add(
        &mut self,
        when: When,
        reaction: Reaction,
        line: &'static Location<'static>,
    ) -> (u64, watch::Receiver<Progress>) {
        let id = self.next_id;
        self.next_id += 1;
        let rng = fastrand::Rng::with_seed(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (progress, seen) = watch::channel(Progress::default());
        self.rules.insert(id, Rule { when, reaction, line, rng, matched: 0, progress, held: Vec::new() });
        (id, seen)
    }

    /// Compares a request with all faults.
    pub(crate) fn judge(&mut self, facts: &Facts<'_>) -> Verdict {
        let mut verdict = Verdict::default();
        for (id, rule) in &mut self.rules {
            let Progress { fired, released } = rule.progress();
            if released || !rule.when.matches(facts) || !rule.reaction.fits(facts) {
                continue;
            }
            rule.matched += 1;
            if rule.matched < rule.when.nth.max(1)
                || rule.when.times.is_some_and(|times| fired >= times)
                || (verdict.reaction.is_some() && !rule.reaction.adds_up())
                || rule.when.probability.is_some_and(|p| rule.rng.f64() >= p)
            {
                continue;
            }
            rule.progress.send_modify(|progress| progress.fired += 1);
            verdict.fired.push((*id, rule.reaction));
            match rule.reaction {
                Reaction::Error(code) => {
                    let (topic, partition) = (rule.when.topic.clone(), rule.when.partition);
                    verdict.errors.push(InjectedError { topic, partition, code });
                }
                Reaction::LateCopy(delay) => verdict.copies.push((*id, Some(delay))),
                Reaction::HoldCopy => verdict.copies.push((*id, None)),
                reaction => {
                    let lot = match reaction {
                        Reaction::CorruptRequest | Reaction::CorruptAnswer => rule.rng.u64(..),
                        _ => 0,
                    };
                    verdict.reaction = Some(Chosen { fault: *id, reaction, lot });
                }
            }
        }
        verdict
    }

    /// Keeps something until its fault is released; gives it back if that has happened already.
    pub(crate) fn hold(&mut self, fault: u64, held: Held) -> Option<Held> {
        match self.rules.get_mut(&fault).filter(|rule| !rule.progress().released) {
            Some(rule) => {
                rule.held.push(held);
                None
            }
            None => Some(held),
        }
    }

    /// What a fault has let go since this was asked last, in the order of its arrival.
    pub(crate) fn take_freed(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.freed)
    }

    /// Follows a fault; `None` if it is gone.
    pub(crate) fn follow(&self, fault: u64) -> Option<watch::Receiver<Progress>> {
        self.rules.get(&fault).map(|rule| rule.progress.subscribe())
    }

    pub(super) fn release(&mut self, id: u64) {
        if let Some(rule) = self.rules.get_mut(&id) {
            rule.progress.send_modify(|progress| progress.released = true);
            self.freed.append(&mut rule.held);
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.release(id);
        self.rules.remove(&id);
    }

    /// A sentence for each fault that should have fired and has not.
    pub(crate) fn silent(&self) -> Vec<String> {
        let silent = self.rules.values().filter(|rule| !rule.when.optional && rule.progress().fired == 0);
        silent
            .map(|rule| {
                let Rule { when, reaction, line, matched, .. } = rule;
                let seen = match matched {
                    0 => "no request was like that".to_owned(),
                    1 => "1 request was like that".to_owned(),
                    matched => format!("{matched} requests were like that"),
                };
                format!("the fault made at {line} never fired: {when}, then {reaction:?}; {seen}")
            })
            .collect()
    }

    /// Ends all faults: whoever waits for one is told.
    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }
}

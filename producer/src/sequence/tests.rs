//! Scenarios of the window in plain words, then a model broker that is lied to, cut off and replaced under a seed.

use std::collections::BTreeMap;

use super::*;

const OK: ErrorCode = ErrorCode::NONE;

/// A window with a clock, whose batches are numbers.
struct Flow {
    window: Window<u32>,
    now: Instant,
    rng: fastrand::Rng,
    stamps: BTreeMap<u32, Stamp>,
    next: u32,
}

#[expect(clippy::disallowed_methods, reason = "a test's first reading; from there on time is moved by hand")]
fn start() -> Instant {
    Instant::now()
}

impl Flow {
    fn new() -> Self {
        Self {
            window: Window::new(true, 5),
            now: start(),
            rng: fastrand::Rng::with_seed(1),
            stamps: BTreeMap::new(),
            next: 0,
        }
    }

    fn at_sequence(sequence: i32) -> Self {
        let mut flow = Self::new();
        flow.window.next_sequence = sequence;
        flow
    }

    /// Does all that may be done now; returns what was sent.
    fn run(&mut self) -> Vec<(Ticket, u32)> {
        self.run_with(u32::MAX)
    }

    fn run_with(&mut self, new: u32) -> Vec<(Ticket, u32)> {
        let mut sent = Vec::new();
        let mut left = new;
        loop {
            match self.window.next(self.now) {
                Next::Admit if left > 0 => {
                    left -= 1;
                    let batch = self.next;
                    self.next += 1;
                    let deadline = self.now + Duration::from_secs(120);
                    let identity = Some(Identity { producer_id: 7, epoch: 0 });
                    let (number, stamp) = self.window.admit(10, deadline, identity, self.now, batch);
                    self.stamps.insert(batch, stamp);
                    self.window.prepared(number);
                }
                Next::Prepare(number) => {
                    let (batch, stamp) = self.window.begin_preparing(number).unwrap();
                    self.stamps.insert(*batch, stamp);
                    self.window.prepared(number);
                }
                Next::Send(number) => {
                    let (ticket, _, batch) = self.window.send(number).unwrap();
                    sent.push((ticket, *batch));
                }
                _ => return sent,
            }
        }
    }

    fn answer(&mut self, ticket: Ticket, code: ErrorCode) -> Answer<u32> {
        self.window.on_answer(ticket, code, self.now, &mut self.rng)
    }

    fn lose(&mut self, sent: &[(Ticket, u32)]) {
        for (ticket, _) in sent {
            self.window.on_lost(*ticket, self.now, &mut self.rng);
        }
    }

    fn wait(&mut self) {
        self.now += Duration::from_secs(2);
    }

    /// A partition on which a first batch has been acked, so that five can be in flight.
    fn proven() -> Self {
        let mut flow = Self::new();
        let sent = flow.run();
        assert_eq!(batches(&sent), [0]);
        assert!(matches!(flow.answer(sent[0].0, OK), Answer::Written(_)));
        flow
    }

    fn sequence(&self, batch: u32) -> (i16, i32) {
        let stamp = self.stamps[&batch];
        (stamp.epoch, stamp.base_sequence)
    }
}

fn batches(sent: &[(Ticket, u32)]) -> Vec<u32> {
    sent.iter().map(|(_, batch)| *batch).collect()
}

#[test]
fn nothing_is_pipelined_before_the_first_ack_and_five_are_in_flight_after_it() {
    // Lessons 5.1, 4: otherwise request 2 could be accepted where request 1 was refused.
    let mut flow = Flow::new();
    let first = flow.run();
    assert_eq!(batches(&first), [0]);
    flow.answer(first[0].0, OK);
    assert_eq!(batches(&flow.run()), [1, 2, 3, 4, 5]);
    assert_eq!((flow.sequence(1), flow.sequence(5)), ((0, 10), (0, 50)));
}

#[test]
fn a_partition_that_was_idle_for_an_hour_proves_itself_again() {
    let mut flow = Flow::proven();
    flow.now += Duration::from_secs(3600);
    let sent = flow.run();
    assert_eq!(batches(&sent), [1]);
    flow.answer(sent[0].0, OK);
    assert_eq!(flow.run().len(), 5);
}

#[test]
fn sequences_wrap_to_zero_after_two_to_the_31_minus_one() {
    // Lessons 5.1, 2.
    let mut flow = Flow::at_sequence(i32::MAX - 4);
    let sent = flow.run();
    flow.answer(sent[0].0, OK);
    flow.run();
    assert_eq!(flow.sequence(0), (0, i32::MAX - 4));
    assert_eq!(flow.sequence(1), (0, 5), "2³¹−1 is followed by 0");
}

#[test]
fn a_lost_connection_sends_the_whole_window_again_in_order_the_first_alone() {
    // Lessons 5.1, 8 and 10: same batches, same sequences, and a repeat that the broker recognises is a success.
    let mut flow = Flow::proven();
    let sent = flow.run();
    let before = flow.stamps.clone();
    flow.lose(&sent);
    assert!(flow.run().is_empty(), "not before the back-off");
    flow.wait();
    let again = flow.run_with(0);
    assert_eq!(batches(&again), [1]);
    assert!(matches!(flow.answer(again[0].0, ErrorCode::DUPLICATE_SEQUENCE_NUMBER), Answer::Written(_)));
    assert_eq!(batches(&flow.run_with(0)), [2, 3, 4, 5]);
    assert_eq!(flow.stamps, before, "a retry is the same bytes");
}

#[test]
fn one_refused_batch_waits_for_those_behind_it_and_then_all_go_again_in_order() {
    let mut flow = Flow::proven();
    let sent = flow.run();
    assert!(matches!(flow.answer(sent[0].0, ErrorCode::NOT_ENOUGH_REPLICAS), Answer::Again));
    flow.wait();
    assert!(flow.run().is_empty(), "four are still with the broker");
    for (ticket, _) in &sent[1..] {
        assert!(matches!(flow.answer(*ticket, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), Answer::Again));
    }
    flow.wait();
    let again = flow.run();
    assert_eq!(batches(&again), [1]);
    flow.answer(again[0].0, OK);
    assert_eq!(batches(&flow.run()), [2, 3, 4, 5, 6]);
    assert_eq!(flow.sequence(2), (0, 20), "no bump: what followed a refusal says nothing about the broker's state");
}

#[test]
fn a_leader_move_sends_the_window_to_the_new_leader_before_anything_new_without_waiting_for_the_old_one() {
    // Lessons 5.1, 3, where the design decides otherwise than franz-go: a frozen leader must not stall the partition.
    let mut flow = Flow::proven();
    let old = flow.run();
    flow.window.on_move();
    let new = flow.run();
    assert_eq!(batches(&new), [1], "the first alone, at once");
    // The old leader's late answers: an error means nothing, a success is a success.
    assert!(matches!(flow.answer(old[0].0, ErrorCode::NOT_LEADER_OR_FOLLOWER), Answer::Ignored));
    assert!(matches!(flow.answer(old[2].0, OK), Answer::Written(slot) if slot.batch == 3));
    assert!(matches!(flow.answer(new[0].0, OK), Answer::Written(_)));
    assert!(matches!(flow.answer(old[0].0, OK), Answer::Ignored), "a second answer for the same batch");
    assert_eq!(batches(&flow.run()), [2, 4, 5, 6, 7]);
}

#[test]
fn an_unknown_answer_is_remembered_through_every_retry() {
    // Lessons 5.1, 1: REQUEST_TIMED_OUT, NOT_ENOUGH_REPLICAS_AFTER_APPEND, a cut connection: it may be in the log.
    for lost in
        [ErrorCode::REQUEST_TIMED_OUT, ErrorCode::NOT_ENOUGH_REPLICAS_AFTER_APPEND, ErrorCode::NOT_LEADER_OR_FOLLOWER]
    {
        let mut flow = Flow::proven();
        let sent = flow.run_with(1);
        assert!(matches!(flow.answer(sent[0].0, lost), Answer::Again));
        flow.wait();
        let again = flow.run_with(0);
        let end = flow.answer(again[0].0, ErrorCode::MESSAGE_TOO_LARGE);
        assert!(matches!(end, Answer::Failed(_, Outcome::Unknown)), "{end:?}");
    }
}

#[test]
fn a_lost_broker_state_bumps_the_epoch_and_sends_only_what_was_certainly_refused() {
    let mut flow = Flow::proven();
    let sent = flow.run();
    for (ticket, _) in &sent {
        assert!(matches!(flow.answer(*ticket, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), Answer::Again));
    }
    flow.wait();
    assert_eq!(flow.window.next(flow.now), Next::Bump);
    assert!(flow.window.bump(None).is_empty());
    let again = flow.run();
    assert_eq!(batches(&again), [1], "a new epoch proves itself first");
    assert_eq!(flow.sequence(1), (1, 0));
    flow.answer(again[0].0, OK);
    assert_eq!(batches(&flow.run()), [2, 3, 4, 5, 6]);
    assert_eq!(flow.sequence(2), (1, 10));
}

#[test]
fn a_batch_whose_fate_is_unknown_is_not_sent_again_after_a_bump() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(3);
    flow.lose(&sent[..2]);
    assert!(matches!(flow.answer(sent[2].0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER), Answer::Again));
    flow.wait();
    for batch in [1, 2] {
        let again = flow.run_with(0);
        assert_eq!(batches(&again), [batch], "while the old epoch lasts the broker is asked");
        let end = flow.answer(again[0].0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert!(matches!(end, Answer::Failed(slot, Outcome::Unknown) if slot.batch == batch));
    }
    assert_eq!(flow.window.next(flow.now), Next::Bump);
    assert!(flow.window.bump(None).is_empty());
    flow.wait();
    assert_eq!(batches(&flow.run_with(0)), [3]);
    assert_eq!(flow.sequence(3), (1, 0));
}

#[test]
fn expired_batches_leave_a_gap_that_a_bump_closes_and_later_records_succeed() {
    // Lessons 5.1, 9.
    let mut flow = Flow::proven();
    let sent = flow.run_with(2);
    flow.lose(&sent);
    flow.now += Duration::from_secs(120);
    let expired = flow.window.expire(flow.now);
    assert!(expired.iter().all(|(_, outcome)| *outcome == Outcome::Unknown) && expired.len() == 2);
    assert_eq!(flow.window.next(flow.now), Next::Bump);
    flow.window.bump(None);
    let sent = flow.run();
    assert_eq!((batches(&sent), flow.sequence(3)), (vec![3], (1, 0)));
    assert!(matches!(flow.answer(sent[0].0, OK), Answer::Written(_)));
}

#[test]
fn what_followed_an_expired_batch_is_still_asked_for_and_may_turn_out_to_be_written() {
    let mut flow = Flow::proven();
    let first = flow.run_with(1);
    flow.now += Duration::from_secs(60);
    let second = flow.run_with(1);
    flow.lose(&first);
    flow.lose(&second);
    flow.now += Duration::from_secs(60);
    assert_eq!(flow.window.expire(flow.now).len(), 1);
    let again = flow.run();
    assert_eq!(batches(&again), [2], "and nothing new");
    assert!(matches!(flow.answer(again[0].0, OK), Answer::Written(_)));
    assert_eq!(flow.window.next(flow.now), Next::Bump);
}

#[test]
fn a_batch_that_was_only_ever_refused_expires_as_not_written() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(1);
    flow.answer(sent[0].0, ErrorCode::NOT_ENOUGH_REPLICAS);
    flow.now += Duration::from_secs(120);
    assert!(matches!(flow.window.expire(flow.now).as_slice(), [(_, Outcome::NotWritten)]));
}

#[test]
fn a_refused_batch_does_not_take_its_successors_with_it() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(3);
    assert!(matches!(flow.answer(sent[0].0, ErrorCode::INVALID_RECORD), Answer::Failed(_, Outcome::NotWritten)));
    assert_eq!(flow.window.next(flow.now), Next::Blocked, "two are still with the broker");
    for (ticket, _) in &sent[1..] {
        flow.answer(*ticket, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    }
    assert_eq!(flow.window.next(flow.now), Next::Bump);
    assert!(flow.window.bump(None).is_empty());
    assert_eq!(batches(&flow.run_with(0)), [2]);
}

#[test]
fn a_batch_that_is_too_large_becomes_two_and_no_sequence_changes_behind_it() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(2);
    let Answer::Split(number) = flow.answer(sent[0].0, ErrorCode::MESSAGE_TOO_LARGE) else { panic!("no split") };
    flow.answer(sent[1].0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
    assert!(flow.run().is_empty(), "somebody has the batch in hand");
    assert_eq!(flow.window.split(number, [(4, 100), (6, 101)]), Some((10, 1)));
    flow.wait();
    let mut order = Vec::new();
    for _ in 0..2 {
        for (ticket, batch) in flow.run_with(0) {
            order.push((batch, flow.sequence(batch).1));
            flow.answer(ticket, OK);
        }
    }
    assert_eq!(order, [(100, 10), (101, 14), (2, 20)]);
}

#[test]
fn a_purge_of_what_is_queued_leaves_what_is_in_flight_and_closes_the_gap_after_it() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(2);
    assert_eq!(flow.window.next(flow.now), Next::Admit);
    let (number, _) = flow.window.admit(10, flow.now + Duration::from_secs(120), None, flow.now, 77);
    flow.window.prepared(number);
    assert!(matches!(flow.window.purge(false).as_slice(), [(slot, Outcome::NotWritten)] if slot.batch == 77));
    assert_eq!(flow.window.next(flow.now), Next::Blocked, "two are with the broker");
    for (ticket, _) in sent {
        assert!(matches!(flow.answer(ticket, OK), Answer::Written(_)));
    }
    assert_eq!(flow.window.next(flow.now), Next::Bump);
    flow.window.bump(None);
    assert_eq!(batches(&flow.run_with(1)), [3]);
    assert_eq!(flow.sequence(3), (1, 0));
}

#[test]
fn a_purged_batch_that_was_in_flight_is_in_no_later_epoch_and_its_late_answer_means_nothing() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(3);
    assert!(flow.window.purge(false).is_empty(), "all three are with the broker");
    let purged = flow.window.purge(true);
    assert!(purged.iter().all(|(_, outcome)| *outcome == Outcome::Unknown) && purged.len() == 3);
    assert_eq!(flow.window.next(flow.now), Next::Bump);
    assert!(flow.window.bump(None).is_empty());
    let after = flow.run_with(1);
    assert_eq!((batches(&after), flow.sequence(4)), (vec![4], (1, 0)));
    for (ticket, _) in sent {
        assert!(matches!(flow.answer(ticket, OK), Answer::Ignored));
    }
    assert!(matches!(flow.answer(after[0].0, OK), Answer::Written(slot) if slot.batch == 4));
    assert!(flow.window.is_empty());
}

#[test]
fn what_has_lost_its_answer_is_purged_only_with_what_is_in_flight() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(1);
    flow.lose(&sent);
    assert!(flow.window.purge(false).is_empty(), "it may be in the log");
    assert!(matches!(flow.window.purge(true).as_slice(), [(_, Outcome::Unknown)]));
}

#[test]
fn what_was_certainly_refused_is_purged_as_not_written() {
    let mut flow = Flow::proven();
    let sent = flow.run_with(1);
    assert!(matches!(flow.answer(sent[0].0, ErrorCode::NOT_ENOUGH_REPLICAS), Answer::Again));
    assert!(matches!(flow.window.purge(false).as_slice(), [(_, Outcome::NotWritten)]));
}

#[test]
fn the_largest_epoch_asks_for_a_new_producer_id() {
    let mut flow = Flow::proven();
    flow.window.identity = Some(Identity { producer_id: 7, epoch: i16::MAX });
    assert!(flow.window.needs_new_producer_id());
    flow.window.bump(Some(Identity { producer_id: 8, epoch: 0 }));
    flow.run();
    assert_eq!(flow.stamps[&1], Stamp { producer_id: 8, epoch: 0, base_sequence: 0, transactional: false });
}

#[test]
fn without_idempotence_one_batch_at_a_time_keeps_the_order() {
    let mut window = Window::new(false, 5);
    let now = start();
    let mut rng = fastrand::Rng::with_seed(1);
    for batch in 0..3 {
        let (number, stamp) = window.admit(10, now + Duration::from_secs(1), None, now, batch);
        assert_eq!((stamp.producer_id, stamp.base_sequence), (-1, -1));
        window.prepared(number);
        let (ticket, ..) = window.send(number).unwrap();
        assert_eq!(window.next(now), Next::Blocked);
        assert!(matches!(window.on_answer(ticket, OK, now, &mut rng), Answer::Written(_)));
        assert_eq!(window.next(now), Next::Admit);
    }
}

/// One partition's log and producer state, as a broker keeps them.
#[derive(Debug, Clone, Default)]
struct Log {
    batches: Vec<u32>,
    /// The epoch, and the batches appended in it.
    state: Option<(i16, Vec<Appended>)>,
}

/// First sequence, number of records, batch.
type Appended = (i32, u32, u32);

impl Log {
    fn append(&mut self, stamp: Stamp, count: u32, batch: u32) -> ErrorCode {
        match &mut self.state {
            Some((epoch, recent)) if stamp.epoch == *epoch => {
                if recent.iter().rev().take(5).any(|(first, _, _)| *first == stamp.base_sequence) {
                    return OK;
                }
                let (first, last_count, _) = recent.last().copied().unwrap();
                if sequence_after(first, last_count) != stamp.base_sequence {
                    return ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER;
                }
                recent.push((stamp.base_sequence, count, batch));
            }
            Some((epoch, _)) if stamp.epoch < *epoch => return ErrorCode::INVALID_PRODUCER_EPOCH,
            Some(_) if stamp.base_sequence != 0 => return ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
            // Also a producer that is not known at all, at any sequence.
            _ => self.state = Some((stamp.epoch, vec![(stamp.base_sequence, count, batch)])),
        }
        self.batches.push(batch);
        OK
    }
}

#[derive(Debug, Default)]
struct History {
    log: Vec<u32>,
    /// What an unclean election took out of the log again.
    truncated: Vec<u32>,
    acked: Vec<u32>,
    not_written: Vec<u32>,
    unknown: Vec<u32>,
}

fn history(seed: u64) -> History {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut flow = Flow::new();
    flow.rng = rng.fork();
    let mut log = Log::default();
    let History { mut truncated, mut acked, mut not_written, mut unknown, .. } = History::default();
    // Requests on the connection to the leader of now, and on those to leaders of before, which may come through late.
    let mut wire: VecDeque<(Ticket, u32, Stamp)> = VecDeque::new();
    let mut stale: Vec<(Ticket, u32, Stamp)> = Vec::new();
    let mut most = 0;
    for step in 0..400 {
        let quiet = step > 330;
        flow.now += Duration::from_millis(rng.u64(0..300));
        for (slot, outcome) in flow.window.expire(flow.now) {
            if outcome == Outcome::NotWritten { &mut not_written } else { &mut unknown }.push(slot.batch);
        }
        if flow.window.next(flow.now) == Next::Bump {
            unknown.extend(flow.window.bump(None).into_iter().map(|slot| slot.batch));
        }
        let new = if quiet { 0 } else { rng.u32(0..4) };
        for (ticket, batch) in flow.run_with(new) {
            wire.push_back((ticket, batch, flow.stamps[&batch]));
        }
        // (What expired while it was with the broker is nobody's any more.)
        let numbers: Vec<_> = flow.window.slots.iter().map(|slot| slot.number).collect();
        most = most.max(wire.iter().filter(|(ticket, ..)| numbers.contains(&ticket.number)).count());
        let dice = if quiet { 9 } else { rng.u32(0..12) };
        match dice {
            // The connection is cut; what was written to it may or may not reach the log before anything else does.
            0 => {
                let arrives = rng.usize(0..=wire.len());
                for (at, (ticket, batch, stamp)) in wire.drain(..).enumerate() {
                    if at < arrives {
                        log.append(stamp, 10, batch);
                    }
                    flow.window.on_lost(ticket, flow.now, &mut flow.rng);
                }
            }
            // A new leader with the same log; the old one answers late or never, having applied what it could before the move.
            1 => {
                let applied = rng.usize(0..=wire.len());
                for (at, (ticket, batch, stamp)) in wire.drain(..).enumerate() {
                    if at < applied && log.append(stamp, 10, batch) == OK && rng.bool() {
                        stale.push((ticket, batch, stamp));
                    }
                }
                flow.window.on_move();
            }
            // The producer was silent for so long that the broker has forgotten it.
            2 if rng.u32(0..4) == 0 && wire.is_empty() && flow.window.is_empty() => {
                flow.now += FORGOTTEN_AFTER;
                log.state = None;
            }
            3 => {
                for (ticket, batch, _) in stale.drain(..) {
                    if let Answer::Written(_) = flow.answer(ticket, OK) {
                        acked.push(batch);
                    }
                }
            }
            // An unclean election: an acked batch is gone, so every sequence is wrong.
            4 if rng.u32(0..8) == 0 => {
                if let Some((_, recent)) = &mut log.state
                    && recent.len() > 1
                    && log.batches.last() == recent.last().map(|(_, _, batch)| batch)
                {
                    recent.pop();
                    truncated.extend(log.batches.pop());
                }
            }
            // An answer that is not the whole truth.
            5 | 6 => {
                if let Some((ticket, batch, stamp)) = wire.pop_front() {
                    let code = match rng.u32(0..4) {
                        0 => ErrorCode::NOT_ENOUGH_REPLICAS,
                        1 => {
                            log.append(stamp, 10, batch);
                            ErrorCode::REQUEST_TIMED_OUT
                        }
                        2 => ErrorCode::NOT_LEADER_OR_FOLLOWER,
                        _ => ErrorCode::INVALID_RECORD,
                    };
                    if let Answer::Failed(slot, outcome) = flow.answer(ticket, code) {
                        if outcome == Outcome::NotWritten { &mut not_written } else { &mut unknown }.push(slot.batch);
                    }
                }
            }
            7 if rng.u32(0..10) == 0 => flow.now += Duration::from_secs(121),
            _ => {
                for _ in 0..if quiet { 5 } else { 1 } {
                    let Some((ticket, batch, stamp)) = wire.pop_front() else { break };
                    let code = log.append(stamp, 10, batch);
                    match flow.answer(ticket, code) {
                        Answer::Written(slot) => acked.push(slot.batch),
                        Answer::Failed(slot, outcome) => {
                            assert_eq!(outcome, Outcome::Unknown, "seed {seed}: {} failed by {code}", slot.batch);
                            unknown.push(slot.batch);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    assert!(most <= 5, "seed {seed}: {most} in flight");
    assert!(flow.window.is_empty(), "seed {seed}: not everything was settled: {:?}", flow.window);
    History { log: log.batches, truncated, acked, not_written, unknown }
}

#[test]
fn no_history_loses_doubles_or_reorders_a_batch() {
    let mut written = 0;
    for seed in 0..2000 {
        let History { log, truncated, acked, not_written, unknown } = history(seed);
        let in_log = |batch: &u32| log.iter().filter(|logged| *logged == batch).count();
        assert!(log.is_sorted(), "seed {seed}: order {log:?}");
        assert!(log.iter().all(|batch| in_log(batch) == 1), "seed {seed}: a batch is there twice: {log:?}");
        assert!(
            acked.iter().all(|batch| in_log(batch) == 1 || truncated.contains(batch)),
            "seed {seed}: an acked batch is lost"
        );
        assert!(not_written.iter().all(|batch| in_log(batch) == 0), "seed {seed}: `NotWritten` was written");
        let ends = acked.len() + not_written.len() + unknown.len();
        assert!(log.len() <= ends && !acked.is_empty(), "seed {seed}");
        written += acked.len();
    }
    assert!(written > 100_000, "a history in which nothing happens proves nothing: {written}");
}

// ---- transactions

impl Flow {
    fn transactional() -> Self {
        Self { window: Window::transactional(5), ..Self::new() }
    }

    /// With the first batch acked, so that the others are pipelined.
    fn in_transaction() -> Self {
        let mut flow = Self::transactional();
        let sent = flow.run_with(1);
        assert!(matches!(flow.answer(sent[0].0, OK), Answer::Written(_)));
        flow
    }
}

#[test]
fn batches_of_a_transaction_say_so() {
    assert!(Flow::in_transaction().stamps[&0].transactional);
    let mut flow = Flow::new();
    flow.run();
    assert!(!flow.stamps[&0].transactional);
}

#[test]
fn a_new_epoch_starts_at_sequence_zero_and_pipelines_at_once() {
    let mut flow = Flow::in_transaction();
    for epoch in 1..4 {
        flow.window.restart(Identity { producer_id: 7, epoch });
        let first = flow.next;
        let sent = flow.run();
        assert_eq!(sent.len(), 5, "not one round trip for each transaction");
        let expected = Stamp { producer_id: 7, epoch, base_sequence: 0, transactional: true };
        assert_eq!(flow.stamps[&first], expected);
        assert_eq!(flow.stamps[&(first + 4)].base_sequence, 40);
        for (ticket, _) in sent {
            assert!(matches!(flow.answer(ticket, OK), Answer::Written(_)));
        }
    }
    // Of another producer id the broker has never heard.
    flow.window.restart(Identity { producer_id: 8, epoch: 0 });
    assert_eq!(flow.run().len(), 1);
}

#[test]
fn a_failure_stops_the_partition_until_the_next_epoch_and_bumps_nothing() {
    // librdkafka 1.8.2 (#3575): no new epoch in the midst of a transaction.
    for code in [
        ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER,
        ErrorCode::UNKNOWN_PRODUCER_ID,
        ErrorCode::INVALID_PRODUCER_EPOCH,
        ErrorCode::TRANSACTION_ABORTABLE,
        ErrorCode::INVALID_TXN_STATE,
        ErrorCode::PRODUCER_FENCED,
    ] {
        let mut flow = Flow::in_transaction();
        let sent = flow.run_with(3);
        let answer = flow.answer(sent[0].0, code);
        assert!(matches!(answer, Answer::Failed(_, Outcome::NotWritten)), "{code}: {answer:?}");
        let answer = flow.answer(sent[1].0, ErrorCode::OUT_OF_ORDER_SEQUENCE_NUMBER);
        assert!(matches!(answer, Answer::Failed(_, Outcome::NotWritten)), "{code}: {answer:?}");
        assert!(matches!(flow.answer(sent[2].0, ErrorCode::NOT_ENOUGH_REPLICAS), Answer::Again));
        assert_eq!(flow.window.next(flow.now + Duration::from_secs(3600)), Next::Blocked, "{code}");
        assert_eq!(flow.window.drain().len(), 1);
        flow.window.restart(Identity { producer_id: 7, epoch: 1 });
        flow.now += Duration::from_secs(60);
        assert_eq!(flow.run_with(1).len(), 1, "{code}");
    }
}

#[test]
fn what_is_given_up_is_not_sent_again_and_comes_back_when_nothing_of_it_is_under_way() {
    let mut flow = Flow::in_transaction();
    let sent = flow.run_with(4);
    let drained = flow.window.drain();
    assert!(drained.is_empty(), "they are with the broker");
    assert!(matches!(flow.answer(sent[0].0, OK), Answer::Written(_)));
    let refused = flow.answer(sent[1].0, ErrorCode::NOT_ENOUGH_REPLICAS);
    assert!(matches!(refused, Answer::Failed(_, Outcome::NotWritten)), "{refused:?}");
    // The leader moves: the old one may still answer, nobody sends to the new one.
    flow.window.on_move();
    assert_eq!(flow.window.next(flow.now), Next::Blocked);
    assert!(matches!(flow.answer(sent[2].0, OK), Answer::Written(_)));
    let lost = flow.window.on_lost(sent[3].0, flow.now, &mut flow.rng);
    assert!(matches!(lost, Some((_, Outcome::Unknown))), "{lost:?}");
    assert!(flow.window.is_empty());
}

#[test]
fn what_was_not_sent_when_the_transaction_is_given_up_was_not_written() {
    let mut flow = Flow::in_transaction();
    let sent = flow.run_with(2);
    // The first waits to be sent again, the second too: one of unknown fate, one that was never with a broker.
    flow.window.on_lost(sent[0].0, flow.now, &mut flow.rng);
    assert!(flow.window.on_unsent(sent[1].0).is_none());
    let outcomes: Vec<_> = flow.window.drain().into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes, [Outcome::Unknown, Outcome::NotWritten]);
}

#[test]
fn a_batch_that_comes_before_the_markers_of_the_transaction_before_is_sent_again_in_milliseconds() {
    let mut flow = Flow::in_transaction();
    let sent = flow.run_with(1);
    assert!(matches!(flow.answer(sent[0].0, ErrorCode::CONCURRENT_TRANSACTIONS), Answer::Again));
    let Next::NotBefore(at) = flow.window.next(flow.now) else { panic!("it is not sent again") };
    assert!(at - flow.now < Duration::from_millis(25));
    flow.now = at;
    let sent = flow.run_with(0);
    assert!(matches!(flow.answer(sent[0].0, OK), Answer::Written(_)));
}

#[test]
fn a_batch_that_was_given_back_unsent_was_not_sent_before() {
    let mut flow = Flow::in_transaction();
    let sent = flow.run_with(1);
    assert!(!sent[0].0.is_again());
    assert!(flow.window.on_unsent(sent[0].0).is_none());
    let sent = flow.run_with(0);
    assert!(!sent[0].0.is_again());
    flow.window.on_lost(sent[0].0, flow.now, &mut flow.rng);
    flow.now += Duration::from_secs(60);
    let sent = flow.run_with(0);
    assert!(flow.window.on_unsent(sent[0].0).is_none());
    assert!(flow.run_with(0)[0].0.is_again());
}

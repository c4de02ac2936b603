//! The reader: in the user's own task it takes batches in turn, checks, decompresses and decodes them, and hands out records.
//!
//! Nothing here waits for a broker and nothing is decoded before it is asked for. The lock is taken twice per batch; per record there
//! are one relaxed load (did somebody seek, pause or revoke?) and, for `recv`, two relaxed stores (what is done; the user lives).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use milena_client::Error;
use milena_protocol::records::{Place, RawBatch, Scratch};

use crate::partitions::{HoldState, Queued, Taken};
use crate::records::{Held, OpenBatch, RecordRef, Records, Run};
use crate::shared::{Shared, batch_error};

/// What stood between the reader and its next batch.
enum Next {
    /// A batch is held.
    Held,
    /// Nothing is queued; the waker is registered.
    Empty,
    /// The consumer was closed.
    Closed,
}

#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) shared: Arc<Shared>,
    /// The batch that is being read, and the offset that comes next in it.
    held: Option<Held>,
    next: i64,
    /// Whether its records are lent one by one (`recv`) at present.
    lending: bool,
    /// The record that is lent.
    place: Option<Place>,
    lent: u64,
    scratch: Scratch,
    /// The last control signal that was looked at.
    control: u64,
    polls: u64,
    /// How many runs the last poll had: the next one's vector is made that large.
    runs: usize,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            held: None,
            next: 0,
            lending: false,
            place: None,
            lent: 0,
            scratch: Scratch::new(),
            control: 0,
            polls: 0,
            runs: 3,
        }
    }

    /// Finds the next record to lend; [`lent`](Self::lent_record) then makes the view. Ready with false when the consumer is closed.
    ///
    /// (A view that is made inside the loop and returned from it would borrow the reader for all of the loop.)
    #[inline]
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        self.touch();
        // The fast path: another record of the batch at hand.
        if self.lending
            && self.shared.signals.control.load(Ordering::Acquire) == self.control
            && let Some(held) = &mut self.held
            && held.left > 0
            && let Ok(Some(place)) = held.batch.batch.next_place(&mut held.cursor)
        {
            held.left -= 1;
            self.lent += 1;
            self.place = Some(place);
            // Asking for this one acknowledges all before it.
            self.shared.lent_at.store(place.offset, Ordering::Release);
            return Poll::Ready(Ok(true));
        }
        self.poll_next_batch(cx)
    }

    #[cold]
    #[inline(never)]
    fn poll_next_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        // A reader that always finds data must still let its runtime's other tasks run.
        let coop = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        loop {
            self.look_at_control();
            if self.held.as_ref().is_none_or(|held| held.left == 0) {
                self.end_lending();
                match self.open_next(Some(cx.waker())) {
                    Err(error) => {
                        coop.made_progress();
                        return Poll::Ready(Err(error));
                    }
                    Ok(Next::Closed) => return Poll::Ready(Ok(false)),
                    Ok(Next::Empty) => return Poll::Pending,
                    Ok(Next::Held) => {}
                }
            }
            // A batch that a poll has begun is lent from where the poll stopped.
            if !self.lending && !self.start_lending() {
                continue;
            }
            coop.made_progress();
            let Some(held) = &mut self.held else { continue };
            match held.batch.batch.next_place(&mut held.cursor) {
                Ok(Some(place)) => {
                    held.left -= 1;
                    self.lent += 1;
                    self.place = Some(place);
                    self.shared.lent_at.store(place.offset, Ordering::Release);
                    return Poll::Ready(Ok(true));
                }
                failed => return Poll::Ready(Err(self.broken(failed.err()))),
            }
        }
    }

    /// The record that [`poll_next`](Self::poll_next) found.
    #[inline]
    pub(crate) fn lent_record(&self) -> Option<RecordRef<'_>> {
        let held = self.held.as_ref()?;
        Some(RecordRef { view: held.batch.batch.view(self.place?), origin: &held.batch.origin })
    }

    /// Everything that is there, up to the poll's limit; `None` if there is nothing, with `waker` registered.
    pub(crate) fn try_poll(&mut self, waker: &Waker) -> Result<Option<Records>, Error> {
        self.touch();
        self.look_at_control();
        self.end_lending();
        let most = self.shared.config.max_poll_records;
        let mut runs = Vec::new();
        let mut count = 0;
        while count < most {
            if self.held.is_none() {
                // Only a poll that has nothing waits.
                match self.open_next(runs.is_empty().then_some(waker)) {
                    Ok(Next::Held) => {}
                    Ok(Next::Empty) => break,
                    Ok(Next::Closed) if runs.is_empty() => return Err(closed()),
                    Ok(Next::Closed) => break,
                    // What has been gathered comes first; the error waits for the next poll.
                    Err(error) if !runs.is_empty() => {
                        self.shared.change(|partitions| partitions.fail(error));
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            if runs.capacity() == 0 {
                runs.reserve_exact(self.runs + 1);
            }
            match self.take_run((most - count) as u32) {
                Ok(Some(run)) => {
                    count += run.count as usize;
                    runs.push(run);
                }
                Ok(None) => {}
                Err(error) if runs.is_empty() => return Err(error),
                Err(error) => {
                    self.shared.change(|partitions| partitions.fail(error));
                    break;
                }
            }
        }
        if runs.is_empty() {
            return Ok(None);
        }
        self.runs = runs.len().max(self.runs / 2);
        let records = self.register(runs);
        Ok(Some(records))
    }

    /// Takes up to `most` records of the batch at hand.
    fn take_run(&mut self, most: u32) -> Result<Option<Run>, Error> {
        let Some(held) = &mut self.held else { return Ok(None) };
        let (cursor, count) = (held.cursor, held.left.min(most));
        let batch = held.batch.clone();
        if count == held.left {
            self.finish();
            let to = batch.batch.next_offset();
            return Ok(Some(Run { batch, cursor, count, to, id: 0 }));
        }
        // The batch is split: walk to the place where the next poll goes on.
        let mut to = self.next;
        for _ in 0..count {
            match held.batch.batch.next_place(&mut held.cursor) {
                Ok(Some(place)) => to = place.offset + 1,
                failed => {
                    let error = failed.err();
                    return Err(self.broken(error));
                }
            }
        }
        held.left -= count;
        self.next = to;
        Ok(Some(Run { batch, cursor, count, to, id: 0 }))
    }

    /// Enters the runs as handed out. Those of partitions that were sought or revoked meanwhile are left out.
    fn register(&mut self, mut runs: Vec<Run>) -> Records {
        let mut bytes = 0;
        {
            let mut partitions = self.shared.partitions();
            runs.retain_mut(|run| match partitions.hand_out(&run.batch, run.to, false) {
                Some(id) => {
                    run.id = id;
                    // The share of a split batch, so that the sum is right.
                    let of = run.batch.batch.count().max(1) as usize;
                    bytes += run.batch.batch.owner().len() * run.count as usize / of;
                    true
                }
                None => false,
            });
        }
        // Together by partition: in place, without an allocation.
        runs.sort_unstable_by_key(|run| (run.batch.origin.slot, run.to));
        let count = runs.iter().map(|run| run.count as usize).sum();
        self.shared.metrics.records.add(count as u64);
        self.shared.metrics.bytes.add(bytes as u64);
        Records { runs, count, shared: self.shared.clone() }
    }

    /// The user lives.
    #[inline]
    fn touch(&mut self) {
        self.polls += 1;
        self.shared.polls.store(self.polls, Ordering::Relaxed);
    }

    /// Somebody may have sought, paused or revoked: is what is held still to be handed out?
    fn look_at_control(&mut self) {
        let control = self.shared.signals.control.load(Ordering::Acquire);
        if control == self.control {
            return;
        }
        self.control = control;
        let Some(held) = &self.held else { return };
        let (slot, generation) = (held.batch.origin.slot, held.batch.generation);
        match self.shared.partitions().hold_state(slot, generation) {
            HoldState::Good => return,
            HoldState::Paused | HoldState::Invalid => {}
        }
        self.end_lending();
        let Some(held) = self.held.take() else { return };
        let bytes = held.bytes;
        let kept = self.shared.partitions().put_back(slot, generation, Queued::Begun(held, self.next));
        if !kept {
            self.shared.budget.free(bytes);
        }
    }

    /// Enters the batch at hand as lent. False if its partition has been sought or revoked since it was taken.
    fn start_lending(&mut self) -> bool {
        let Some(held) = &self.held else { return false };
        let mut partitions = self.shared.partitions();
        if partitions.hand_out(&held.batch, held.batch.batch.next_offset(), true).is_some() {
            // Under the lock, because whoever commits reads the two together.
            self.shared.lent_at.store(self.next, Ordering::Release);
            drop(partitions);
            self.lending = true;
            return true;
        }
        drop(partitions);
        self.finish();
        false
    }

    /// Asking for more acknowledges all that was lent. A batch that has been lent to its end is used up.
    fn end_lending(&mut self) {
        if !self.lending {
            return;
        }
        self.lending = false;
        let Some(held) = &self.held else { return };
        if let Some(place) = self.place.take() {
            self.next = place.offset + 1;
        }
        let used_up = held.left == 0;
        let of = u64::from(held.batch.batch.count().max(1));
        let lent = std::mem::take(&mut self.lent);
        self.shared.metrics.records.add(lent);
        self.shared.metrics.bytes.add(held.batch.batch.owner().len() as u64 * lent / of);
        let to = if used_up { held.batch.batch.next_offset() } else { self.next };
        self.shared.partitions().end_lent(to);
        if used_up {
            self.finish();
        }
    }

    /// The batch at hand is used up.
    fn finish(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.budget.free(held.bytes);
        }
    }

    /// Takes the next batch that has a record for the user.
    fn open_next(&mut self, waker: Option<&Waker>) -> Result<Next, Error> {
        loop {
            let taken = {
                let mut partitions = self.shared.partitions();
                if let Some(error) = partitions.next_error() {
                    return Err(error);
                }
                match partitions.take() {
                    Some(taken) => taken,
                    None => {
                        return match partitions.closed() {
                            Some(None) => Ok(Next::Closed),
                            Some(Some(error)) => Err(error.clone()),
                            None => {
                                if let Some(waker) = waker {
                                    partitions.park_reader(waker);
                                }
                                Ok(Next::Empty)
                            }
                        };
                    }
                }
            };
            if self.open(taken)? {
                return Ok(Next::Held);
            }
        }
    }

    /// Checks, decompresses and begins a batch. False if it has nothing for the user.
    fn open(&mut self, taken: Taken) -> Result<bool, Error> {
        let raw = match taken.queued {
            Queued::Raw(ref raw) => raw.clone(),
            Queued::Begun(held, next) => {
                self.held = Some(held);
                self.next = next;
                return Ok(true);
            }
        };
        let (bytes, to) = (raw.len() as i64, raw.next_offset());
        if raw.is_control() {
            self.shared.partitions().skip(taken.slot, taken.generation, to);
            self.shared.budget.free(bytes);
            return Ok(false);
        }
        let limit = self.shared.config.max_batch_bytes;
        let check = |raw: &RawBatch| if self.shared.config.check_crcs { raw.verify_crc() } else { Ok(()) };
        let batch = match check(&raw).and_then(|()| raw.clone().open(&mut self.scratch, limit)) {
            Ok(batch) => batch,
            Err(error) => {
                let error = batch_error(&taken.origin, raw.base_offset(), Some(error));
                // The position stays: the error comes again until somebody seeks.
                if !self.shared.partitions().put_back(taken.slot, taken.generation, taken.queued) {
                    self.shared.budget.free(bytes);
                }
                return Err(error);
            }
        };
        let mut cursor = batch.cursor();
        let mut left = batch.count();
        let mut next = batch.base_offset().max(taken.position);
        if batch.base_offset() < taken.position {
            // The batch begins before the offset that was asked for.
            let mut ahead = cursor;
            while let Ok(Some(place)) = batch.next_place(&mut ahead) {
                if place.offset >= taken.position {
                    break;
                }
                (cursor, left, next) = (ahead, left - 1, taken.position);
            }
        }
        if left == 0 {
            // Emptied by compaction, or all of it lies before the position.
            self.shared.partitions().skip(taken.slot, taken.generation, to);
            self.shared.budget.free(bytes);
            return Ok(false);
        }
        let batch = Arc::new(OpenBatch::new(batch, taken.origin, taken.generation));
        self.held = Some(Held { batch, cursor, left, bytes });
        self.next = next;
        Ok(true)
    }

    /// The batch at hand turned out to be unreadable after its checks.
    fn broken(&mut self, error: Option<milena_protocol::records::BatchError>) -> Error {
        let Some(held) = self.held.take() else { return closed() };
        self.lending = false;
        self.place = None;
        self.shared.budget.free(held.bytes);
        let error = batch_error(&held.batch.origin, held.batch.batch.base_offset(), error);
        let mut partitions = self.shared.partitions();
        partitions.end_lent(self.shared.lent_at.load(Ordering::Acquire));
        partitions.stand_stuck(held.batch.origin.slot, held.batch.generation);
        error
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.finish();
    }
}

pub(crate) fn closed() -> Error {
    Error::new(milena_client::ErrorKind::Closed, "the consumer is closed: build a new one.")
}

//! The reader: in the user's own task it takes batches in turn, checks, decompresses and decodes them, and hands out records.
//!
//! Nothing here waits for a broker and nothing is decoded before it is asked for. The lock is taken twice per batch; per record there
//! are one relaxed load (did somebody seek, pause or revoke?) and, for `recv`, two relaxed stores (what is done; the user lives).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use milena_client::{Error, TopicPartition};
use milena_protocol::planted;
use milena_protocol::records::{Cursor, Place, Scratch};

use crate::errors::UnreadableBatch;
use crate::owned::{SharedRecord, SharedRun};
use crate::partition_streams::Lane;
use crate::partitions::{HandOut, HoldState, Queued, Taken};
use crate::records::{Held, OpenBatch, RecordRef, Records, Run};
use crate::shared::Shared;

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
    /// The only partition that it reads, if it is one stream of several.
    lane: Option<Lane>,
    /// The batch that is being read, and the offset that comes next in it.
    held: Option<Held>,
    next: i64,
    /// Whether its records are lent one by one (`recv`) at present.
    lending: bool,
    /// The record that is lent.
    place: Option<Place>,
    /// The run whose records are given one by one, owned, at present. Never while they are lent.
    owned: Option<Arc<SharedRun>>,
    /// Whether a stream was told why the consumer is over.
    told: bool,
    /// Records of the batch at hand that were lent or given.
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
        let scratch = Scratch::counting(shared.pinned.clone());
        Self {
            shared,
            lane: None,
            held: None,
            next: 0,
            lending: false,
            place: None,
            owned: None,
            told: false,
            lent: 0,
            scratch,
            control: 0,
            polls: 0,
            runs: 3,
        }
    }

    /// A reader of one partition, beside others.
    pub(crate) fn of_one(shared: Arc<Shared>, lane: Lane) -> Self {
        let mut reader = Self::new(shared);
        reader.lane = Some(lane);
        reader
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
        self.end_giving();
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
            if let Err(error) = self.settle() {
                coop.made_progress();
                return Poll::Ready(Err(error));
            }
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
        Some(RecordRef { view: held.batch.batch.view(self.place.as_ref()?), origin: &held.batch.origin })
    }

    /// The same, with the batch that it lies in.
    pub(crate) fn lent_in_batch(&self) -> Option<(RecordRef<'_>, &OpenBatch)> {
        Some((self.lent_record()?, &self.held.as_ref()?.batch))
    }

    /// The next record, owned; `None` when the consumer is closed.
    #[inline]
    pub(crate) fn poll_owned(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<SharedRecord, Error>>> {
        self.touch();
        if self.shared.signals.control.load(Ordering::Acquire) == self.control
            && let Some(record) = self.next_owned()
        {
            return Poll::Ready(Some(Ok(record)));
        }
        self.poll_owned_batch(cx).map(Result::transpose)
    }

    /// Another record of the batch at hand, if its records are given one by one.
    #[inline]
    fn next_owned(&mut self) -> Option<SharedRecord> {
        let (Some(held), Some(run)) = (&mut self.held, &self.owned) else { return None };
        if held.left == 0 {
            return None;
        }
        let index = held.cursor.read();
        let Ok(Some(place)) = held.batch.batch.next_place(&mut held.cursor) else { return None };
        held.left -= 1;
        self.lent += 1;
        self.next = place.offset + 1;
        held.batch.note_given(self.next);
        Some(SharedRecord { run: run.clone(), place, index })
    }

    #[cold]
    #[inline(never)]
    fn poll_owned_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<SharedRecord>, Error>> {
        let coop = std::task::ready!(tokio::task::coop::poll_proceed(cx));
        self.end_lending();
        loop {
            self.look_at_control();
            if self.held.as_ref().is_none_or(|held| held.left == 0) {
                self.end_giving();
                match self.open_next(Some(cx.waker())) {
                    // It is over, and that has been told: the stream ends.
                    Err(_) if self.told => return Poll::Ready(Ok(None)),
                    Err(error) => {
                        self.told = self.shared.partitions().closed().is_some();
                        coop.made_progress();
                        return Poll::Ready(Err(error));
                    }
                    Ok(Next::Closed) => return Poll::Ready(Ok(None)),
                    Ok(Next::Empty) => return Poll::Pending,
                    Ok(Next::Held) => {}
                }
            }
            if let Err(error) = self.settle() {
                coop.made_progress();
                return Poll::Ready(Err(error));
            }
            if self.held.as_ref().is_some_and(|held| held.batch.copies) {
                match self.take_copied() {
                    Ok(None) => continue,
                    taken => {
                        coop.made_progress();
                        return Poll::Ready(taken);
                    }
                }
            }
            if self.owned.is_none() && !self.start_giving() {
                continue;
            }
            coop.made_progress();
            match self.next_owned() {
                Some(record) => return Poll::Ready(Ok(Some(record))),
                None => {
                    let Some(held) = &mut self.held else { continue };
                    let failed = held.batch.batch.next_place(&mut held.cursor).err();
                    return Poll::Ready(Err(self.broken(failed)));
                }
            }
        }
    }

    /// Everything that is there, up to the poll's limit; `None` if there is nothing, with `waker` registered.
    pub(crate) fn try_poll(&mut self, waker: &Waker) -> Result<Option<Records>, Error> {
        self.touch();
        self.look_at_control();
        self.end_turn();
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
                // At once, before the next batch is looked at: what that one skips must not overtake what this one hands out.
                Ok(Some(mut run)) => {
                    if let Some(id) = self.shared.partitions().hand_out(&run.batch, run.to, HandOut::Whole) {
                        run.id = id;
                        count += run.count as usize;
                        runs.push(run);
                    }
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
        Ok(Some(self.gather(runs, count)))
    }

    /// Takes up to `most` records of the batch at hand.
    fn take_run(&mut self, most: u32) -> Result<Option<Run>, Error> {
        self.settle()?;
        let Some(held) = &mut self.held else { return Ok(None) };
        // Each copied record is a run of its own: so whoever keeps one keeps that one alone, and it alone is waited for.
        let most = if held.batch.copies { 1 } else { most };
        let (cursor, count) = (held.cursor, held.left.min(most));
        let batch = held.batch.clone();
        if count == held.left {
            self.finish();
            let to = batch.batch.next_offset();
            return Ok(Some(run(batch, cursor, count, to)));
        }
        // The batch is split.
        held.left -= count;
        held.handed_out = count;
        let to = match batch.offset_behind(cursor.read() + count) {
            Some(to) => to,
            None => {
                // There are holes in it: only the last record knows its offset.
                let mut last = batch.cursor_behind(cursor, count - 1).map_err(|error| self.broken(error))?;
                match batch.batch.next_place(&mut last) {
                    Ok(Some(place)) => place.offset + 1,
                    failed => return Err(self.broken(failed.err())),
                }
            }
        };
        self.next = to;
        Ok(Some(run(batch, cursor, count, to)))
    }

    /// The next record of a batch whose records are copied. `None` if there is nothing more of the batch.
    #[cold]
    fn take_copied(&mut self) -> Result<Option<SharedRecord>, Error> {
        let Some(mut run) = self.take_run(1)? else { return Ok(None) };
        let id = self.shared.partitions().hand_out(&run.batch, run.to, HandOut::Whole);
        // Nobody else can take it back once it is begun.
        let Some(id) = id.filter(|_| run.batch.begin(run.to)) else {
            self.finish();
            return Ok(None);
        };
        run.id = id;
        let mut cursor = run.cursor;
        match run.batch.batch.next_place(&mut cursor) {
            Ok(Some(place)) => {
                self.shared.metrics.records.add(1);
                self.shared.metrics.bytes.add(run.batch.batch.records_len() as u64);
                let index = run.cursor.read();
                Ok(Some(SharedRecord { run: SharedRun::of(&run, &self.shared), place, index }))
            }
            failed => {
                self.finish();
                self.shared.on_broken_batch(&run.batch, failed.err());
                Ok(None)
            }
        }
    }

    /// Moves the cursor of the batch at hand behind what the last poll has handed out.
    fn settle(&mut self) -> Result<(), Error> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let handed_out = std::mem::take(&mut held.handed_out);
        if handed_out == 0 {
            return Ok(());
        }
        match held.batch.cursor_behind(held.cursor, handed_out) {
            Ok(cursor) => held.cursor = cursor,
            Err(error) => return Err(self.broken(error)),
        }
        Ok(())
    }

    /// Makes records of runs.
    fn gather(&self, mut runs: Vec<Run>, count: usize) -> Records {
        // The share of a split batch, so that the sum is right.
        let share = |run: &Run| {
            let of = u64::from(run.batch.batch.count().max(1));
            run.batch.batch.records_len() as u64 * u64::from(run.count) / of
        };
        self.shared.metrics.records.add(count as u64);
        self.shared.metrics.bytes.add(runs.iter().map(share).sum());
        // Together by partition: in place, without an allocation.
        runs.sort_unstable_by_key(|run| (run.batch.origin.slot, run.to));
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
        self.give_back();
    }

    /// Puts what is held back into the table, if it is still good: whoever reads the partition next begins there.
    pub(crate) fn give_back(&mut self) {
        self.end_turn();
        let Some(held) = self.held.take() else { return };
        let (slot, generation, bytes) = (held.batch.origin.slot, held.batch.generation, held.bytes());
        let kept = self.shared.partitions().put_back(slot, generation, Queued::Begun(held, self.next));
        if !kept {
            self.shared.budget.free(bytes);
        }
    }

    /// Enters the batch at hand as lent. False if its partition has been sought or revoked since it was taken.
    fn start_lending(&mut self) -> bool {
        let Some(held) = &self.held else { return false };
        let mut partitions = self.shared.partitions();
        if partitions.hand_out(&held.batch, held.batch.batch.next_offset(), HandOut::Lend).is_some() {
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
        self.count_lent(held);
        self.lent = 0;
        let to = if used_up { held.batch.batch.next_offset() } else { self.next };
        self.shared.partitions().end_lent(to);
        if used_up {
            self.finish();
        }
    }

    /// Enters what is left of the batch at hand as given one by one. False if its partition has been sought or revoked.
    fn start_giving(&mut self) -> bool {
        let Some(held) = &self.held else { return false };
        let to = held.batch.batch.next_offset();
        let id = self.shared.partitions().hand_out(&held.batch, to, HandOut::Give);
        // Nobody else can take it back now: what has not been given is cut off when the reader sees the change.
        if let Some(id) = id.filter(|_| held.batch.begin(to)) {
            let first = held.cursor.read();
            let (batch, shared) = (held.batch.clone(), self.shared.clone());
            self.owned = Some(Arc::new(SharedRun { batch, shared, id, records: first..first + held.left }));
            return true;
        }
        self.finish();
        false
    }

    /// What has not been given of the run at hand is not the user's. A batch that has been given to its end is used up.
    fn end_giving(&mut self) {
        let Some(run) = self.owned.take() else { return };
        let Some(held) = &self.held else { return };
        self.count_lent(held);
        if held.left > 0 {
            self.shared.partitions().cut_run(&run, self.next, held.cursor.read());
            self.lent = 0;
        } else {
            self.lent = 0;
            self.shared.partitions().end_given(&run, held.batch.batch.next_offset());
            self.finish();
        }
    }

    /// Lends and gives no more of the batch at hand: what comes next is asked for in another way, or not at all.
    pub(crate) fn end_turn(&mut self) {
        self.end_lending();
        self.end_giving();
    }

    fn count_lent(&self, held: &Held) {
        let of = u64::from(held.batch.batch.count().max(1));
        self.shared.metrics.records.add(self.lent);
        self.shared.metrics.bytes.add(held.batch.batch.records_len() as u64 * self.lent / of);
    }

    /// The batch at hand is used up.
    fn finish(&mut self) {
        if let Some(held) = self.held.take() {
            self.shared.budget.free(held.bytes());
        }
    }

    /// Takes the next batch that has a record for the user.
    fn open_next(&mut self, waker: Option<&Waker>) -> Result<Next, Error> {
        loop {
            let taken = {
                let mut partitions = self.shared.partitions();
                let (error, taken) = match &self.lane {
                    None => match partitions.next_error() {
                        Some(error) => (Some(error), None),
                        None => (None, partitions.take()),
                    },
                    Some(lane) => {
                        let tp = partitions.tp(lane.slot).clone();
                        match partitions.next_error_of(&tp) {
                            Some(error) => (Some(error), None),
                            None => (None, partitions.take_of(lane.slot)),
                        }
                    }
                };
                if let Some(error) = error {
                    return Err(error);
                }
                match taken {
                    Some(taken) => taken,
                    None => {
                        return match (partitions.closed(), waker, &self.lane) {
                            (Some(None), ..) => Ok(Next::Closed),
                            (Some(Some(error)), ..) => Err(error.clone()),
                            (None, Some(waker), None) => {
                                partitions.park_reader(waker);
                                Ok(Next::Empty)
                            }
                            (None, Some(waker), Some(lane)) => {
                                lane.park(&mut partitions, waker);
                                Ok(Next::Empty)
                            }
                            (None, None, _) => Ok(Next::Empty),
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
            Queued::Raw(raw) => raw,
            Queued::Begun(held, next) => {
                self.held = Some(held);
                self.next = next;
                return Ok(true);
            }
            Queued::Trouble(error) => {
                // It stays, and the other partitions have their turns before it is told again.
                let again = Queued::Trouble(error.clone());
                self.shared.partitions().put_back(taken.slot, taken.generation, again);
                return Err(error);
            }
            Queued::Hole(to) => {
                self.shared.partitions().skip(taken.slot, taken.generation, to);
                return Ok(false);
            }
        };
        let (bytes, to) = (raw.len() as i64, raw.next_offset());
        // Here, and not where the bytes arrive: there it costs a tenth, because they are in that core's cache, but then decoding has to
        // fetch them, and the sum is the same (tried: 60 ns against 62); and what is thrown away unread is not checked.
        let checked = if self.shared.config.check_crcs { raw.verify_crc() } else { Ok(()) };
        // Also what says that it is a marker: a bit of a header that was turned over must not hide a batch of records.
        if raw.is_control() && checked.is_ok() {
            if !planted::is("position_not_moved_over_control_records") {
                self.shared.partitions().skip(taken.slot, taken.generation, to);
            }
            self.shared.budget.free(bytes);
            return Ok(false);
        }
        let limit = self.shared.config.max_batch_bytes;
        let batch = match checked.and_then(|()| raw.open(&mut self.scratch, limit)) {
            Ok(batch) => batch,
            Err(error) => {
                let tp = TopicPartition { topic: taken.origin.topic.clone(), partition: taken.origin.partition };
                let offset = raw.base_offset().max(taken.position);
                let error = UnreadableBatch::error(tp, offset, UnreadableBatch::end_of(&raw, &error), error);
                // The position stays: the error comes again until somebody seeks.
                if !self.shared.partitions().put_back(taken.slot, taken.generation, Queued::Raw(raw)) {
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
        let copies = self.shared.pinned.is_over();
        if copies {
            self.shared.warn_of_pinned();
        }
        let batch = Arc::new(OpenBatch::new(batch, taken.origin, taken.generation).copying(copies));
        self.held = Some(Held { batch, cursor, handed_out: 0, left, raw });
        self.next = next;
        Ok(true)
    }

    /// The batch at hand turned out to be unreadable after its checks.
    fn broken(&mut self, error: Option<milena_protocol::records::BatchError>) -> Error {
        let Some(held) = self.held.take() else { return closed() };
        self.lending = false;
        self.place = None;
        self.shared.budget.free(held.bytes());
        let offset = held.batch.first_unreadable();
        let error = held.batch.unreadable(offset, error);
        let given = self.owned.take();
        let mut partitions = self.shared.partitions();
        partitions.end_lent(self.shared.lent_at.load(Ordering::Acquire));
        if let Some(run) = given {
            partitions.cut_run(&run, self.next, held.cursor.read());
        }
        let others = partitions.stick_at(held.batch.origin.slot, held.batch.generation, offset, error.clone());
        drop(partitions);
        // Readers of other partitions share the table's waker.
        others.into_iter().for_each(Waker::wake);
        error
    }
}

/// Part of a batch for the user, who may keep it for long.
fn run(batch: Arc<OpenBatch>, cursor: Cursor, count: u32, to: i64) -> Run {
    // What cannot be copied is broken, and the iteration will say so.
    match batch.copies.then(|| batch.part(cursor, count)) {
        Some(Ok(part)) => Run { batch: Arc::new(part), cursor: Cursor::default(), count, to, id: 0 },
        _ => Run { batch, cursor, count, to, id: 0 },
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use milena_client::{Client, Owner, TopicPartition};
    use milena_protocol::records::{BatchBuilder, ProducerStamp, RawBatch, split_batch};
    use milena_testkit::Cluster;
    use tokio::sync::mpsc;

    use super::*;
    use crate::config::Config;
    use crate::partitions::Stand;

    const CONTROL: u8 = 0x20;

    /// A reader of one partition whose batches the test queues itself; no loop runs.
    struct Scene {
        reader: Reader,
        _owner: Owner,
        _cluster: Cluster,
    }

    /// A batch at `offset` that was written with `last_delta + 1` records, of which the first `count` are left.
    fn batch(offset: i64, count: u8, last_delta: u8, attributes: u8) -> RawBatch {
        let mut builder = BatchBuilder::new(vec![0; 4096], 0);
        for value in 0..count {
            builder.append(0, None, Some(&[value]), &[]).unwrap();
        }
        if count == 0 {
            builder.append(0, None, None, &[]).unwrap();
        }
        let mut sealed = builder.seal();
        sealed.stamp(ProducerStamp::NONE);
        let mut bytes = sealed.bytes().to_vec();
        if count == 0 {
            // What compaction leaves of a batch: its header.
            bytes.truncate(61);
            bytes[8..12].copy_from_slice(&49i32.to_be_bytes());
            bytes[57..61].copy_from_slice(&0i32.to_be_bytes());
        }
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        bytes[22] = attributes;
        bytes[23..27].copy_from_slice(&i32::from(last_delta).to_be_bytes());
        split_batch(&mut Bytes::from(bytes)).unwrap().unwrap()
    }

    impl Scene {
        async fn new(position: i64) -> Self {
            Self::with_polls_of(Config::default().max_poll_records, position).await
        }

        async fn with_polls_of(max_poll_records: usize, position: i64) -> Self {
            let cluster = Cluster::builder().brokers(1).topic("t", 1).start_in_memory().unwrap();
            let client = Client::builder(cluster.bootstrap_servers())
                .connector(cluster.connector())
                .resolver(cluster.resolver())
                .simulation(tokio::runtime::Handle::current())
                .seed(1)
                .connect()
                .await
                .unwrap();
            let owner = client.new_owner("reader");
            // The batches are edited, so their checksums are not right.
            let config = Config { check_crcs: false, max_poll_records, ..Config::default() };
            let (group, _) = mpsc::unbounded_channel();
            let shared = Arc::new(Shared::new(config, owner.link().clone(), Some(group)));
            {
                let mut partitions = shared.partitions();
                let tp = TopicPartition::new("t", 0);
                partitions.assign([(tp, Stand::AwaitCommitted, crate::metrics::PartitionGauges::default())]);
                let look_up = partitions.look_ups().remove(0);
                partitions.start_at(look_up.slot, look_up.generation, position, -1);
            }
            Self { reader: Reader::new(shared), _owner: owner, _cluster: cluster }
        }

        fn queue(&self, raw: RawBatch) -> bool {
            self.reader.shared.partitions().queue(0, 1, raw)
        }

        fn position(&self) -> Option<i64> {
            self.reader.shared.partitions().state(&TopicPartition::new("t", 0)).unwrap().position
        }

        fn frontier(&self) -> i64 {
            self.reader.shared.frontiers(None)[0].1
        }

        /// The offsets that a poll gives; all of them acknowledged.
        fn poll(&mut self) -> Vec<i64> {
            let Some(records) = self.reader.try_poll(Waker::noop()).unwrap() else { return Vec::new() };
            let offsets = records.iter().map(|record| record.offset()).collect();
            records.ack();
            offsets
        }
    }

    #[tokio::test(start_paused = true)]
    async fn control_batches_are_not_delivered_and_move_position_and_frontier() {
        let mut scene = Scene::new(0).await;
        assert!(scene.queue(batch(0, 1, 0, CONTROL)));
        assert_eq!((scene.poll(), scene.position(), scene.frontier()), (vec![], Some(1), 1));
        assert!(scene.queue(batch(1, 3, 2, 0)) && scene.queue(batch(4, 1, 0, CONTROL)));
        assert_eq!((scene.poll(), scene.position(), scene.frontier()), (vec![1, 2, 3], Some(5), 5));
    }

    #[tokio::test(start_paused = true)]
    async fn holes_at_the_end_of_a_batch_and_emptied_batches_move_position_and_frontier() {
        let mut scene = Scene::new(0).await;
        assert!(scene.queue(batch(0, 3, 9, 0)) && scene.queue(batch(10, 0, 4, 0)));
        assert_eq!((scene.poll(), scene.position(), scene.frontier()), (vec![0, 1, 2], Some(15), 15));
        assert_eq!(scene.reader.shared.budget.used(), -(batch(0, 3, 9, 0).len() as i64) - 61, "all of it was freed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_begins_before_the_position_is_read_from_the_position_on() {
        let mut scene = Scene::new(5).await;
        assert!(scene.queue(batch(3, 6, 5, 0)));
        assert_eq!((scene.poll(), scene.position()), (vec![5, 6, 7, 8], Some(9)));
        assert!(!scene.queue(batch(3, 6, 5, 0)), "another broker's copy of what is here already");
        assert!(!scene.reader.shared.partitions().queue(0, 7, batch(9, 1, 0, 0)), "asked for in another generation");
    }

    #[tokio::test(start_paused = true)]
    async fn a_split_batch_goes_on_where_the_last_poll_ended_whether_it_was_iterated_or_not() {
        for last_delta in [6, 9] {
            let mut scene = Scene::with_polls_of(2, 0).await;
            assert!(scene.queue(batch(0, 7, last_delta, 0)));
            assert_eq!((scene.poll(), scene.frontier()), (vec![0, 1], 2));
            let unread = scene.reader.try_poll(Waker::noop()).unwrap().unwrap();
            assert_eq!((scene.poll(), scene.frontier()), (vec![4, 5], 2), "the second poll is not done");
            assert_eq!(unread.iter().take(1).count(), 1);
            unread.ack();
            assert_eq!((scene.poll(), scene.frontier()), (vec![6], i64::from(last_delta) + 1));
            assert!(scene.poll().is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_poll_has_left_of_a_batch_is_lent_one_by_one() {
        let mut scene = Scene::with_polls_of(2, 0).await;
        assert!(scene.queue(batch(0, 4, 3, 0)));
        let mut cx = Context::from_waker(Waker::noop());
        let unread = scene.reader.try_poll(Waker::noop()).unwrap().unwrap();
        for offset in 2..4 {
            assert!(matches!(scene.reader.poll_next(&mut cx), Poll::Ready(Ok(true))));
            assert_eq!(scene.reader.lent_record().unwrap().offset(), offset);
        }
        assert_eq!(unread.iter().map(|record| record.offset()).collect::<Vec<_>>(), [0, 1]);
    }

    #[tokio::test(start_paused = true)]
    async fn lent_records_are_acknowledged_one_by_one_and_revoked_between_two() {
        let mut scene = Scene::new(0).await;
        scene.queue(batch(0, 5, 4, 0));
        let tp = [TopicPartition::new("t", 0)];
        let mut cx = Context::from_waker(Waker::noop());
        for offset in 0..3 {
            assert!(matches!(scene.reader.poll_next(&mut cx), Poll::Ready(Ok(true))));
            assert_eq!(scene.reader.lent_record().unwrap().offset(), offset);
            assert_eq!(scene.frontier(), offset, "what is lent is not done");
        }
        scene.reader.shared.change(|partitions| partitions.begin_revoke(&tp));
        assert!(!scene.reader.shared.partitions().is_drained(&tp), "one is in the user's hands");
        assert!(scene.reader.poll_next(&mut cx).is_pending(), "nothing more of it");
        assert!(scene.reader.shared.partitions().is_drained(&tp));
        assert_eq!(scene.frontier(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_whose_records_are_broken_is_an_error_and_stops_its_partition() {
        let mut scene = Scene::new(0).await;
        let sound = batch(0, 3, 2, 0);
        let mut bytes = sound.bytes().to_vec();
        let last = bytes.len() - 3;
        bytes[last] = 0x7f;
        scene.queue(split_batch(&mut Bytes::from(bytes)).unwrap().unwrap());
        let records = scene.reader.try_poll(Waker::noop()).unwrap().unwrap();
        assert!(records.iter().count() < 3);
        let error = scene.reader.try_poll(Waker::noop()).unwrap_err();
        assert_eq!(error.topic_partition().unwrap().to_string(), "t-0");
        assert_eq!(scene.reader.try_poll(Waker::noop()).unwrap_err().offset(), error.offset(), "and comes again");
        records.ack();
        assert!(scene.frontier() < 3, "records that nobody has seen are not committed");
    }
}

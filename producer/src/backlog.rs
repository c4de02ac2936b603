//! Records on their way into a partition: what is not taken stays.

use std::collections::VecDeque;
use std::fmt;
use std::iter::Fuse;

/// Records for [`Producer::append`](crate::Producer::append), which takes them from the front. What it does not take stays, and is what
/// this iterates over.
///
/// ```
/// # use milena_producer::{Backlog, Record};
/// let mut lines = Backlog::new(["a", "b"].map(|line| Record::to("lines").value(line)));
/// // … append them as far as there is room, and then:
/// assert_eq!(lines.count(), 2, "none of them was taken yet");
/// ```
///
/// An iterator that says how many records it has at least ([`Iterator::size_hint`]), as those over slices, arrays and vectors do, is asked
/// for up to 64 of them in advance, which are then taken under one lock. Any other is asked for them one by one: it may have to wait for
/// the next one, as a channel's does, and what came before goes out meanwhile. One that promises records and then waits for them, such as
/// `repeat_with(|| channel.recv())`, is for [`one_by_one`](Self::one_by_one).
pub struct Backlog<I: Iterator> {
    ahead: VecDeque<I::Item>,
    /// Of `ahead`, from its front: they are dropped where nothing is locked.
    taken: usize,
    rest: Fuse<I>,
    most: usize,
}

/// Records that are taken under one lock: some microseconds of encoding, for which others who send there may have to wait.
const RUN: usize = 64;

impl<I: Iterator> Backlog<I> {
    /// Nothing has been asked for yet.
    pub fn new(records: impl IntoIterator<IntoIter = I>) -> Self {
        Self { ahead: VecDeque::new(), taken: 0, rest: records.into_iter().fuse(), most: RUN }
    }

    /// The same for an iterator that may wait, whatever it promises: none is asked for before the one in front of it is taken.
    pub fn one_by_one(records: impl IntoIterator<IntoIter = I>) -> Self {
        Self { most: 1, ..Self::new(records) }
    }

    /// The next record.
    pub fn peek(&mut self) -> Option<&I::Item> {
        self.fill();
        self.front()
    }

    /// Asks for more if there are none in advance. Runs the iterator, and drops records that were taken.
    pub(crate) fn fill(&mut self) {
        self.ahead.drain(..std::mem::take(&mut self.taken));
        if self.ahead.is_empty() {
            let sure = self.rest.size_hint().0.clamp(1, self.most);
            self.ahead.reserve(sure);
            for record in self.rest.by_ref().take(sure) {
                self.ahead.push_back(record);
            }
        }
    }

    /// The next one of those that were asked for. Runs nobody's code.
    #[inline]
    pub(crate) fn front(&self) -> Option<&I::Item> {
        self.ahead.get(self.taken)
    }

    /// The record in front has been taken. At once, so that none is taken twice if the next one panics.
    #[inline]
    pub(crate) fn take_front(&mut self) {
        self.taken += 1;
    }
}

impl<I: Iterator> Iterator for Backlog<I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        self.fill();
        self.ahead.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let ahead = self.ahead.len() - self.taken;
        let (least, most) = self.rest.size_hint();
        (least.saturating_add(ahead), most.and_then(|most| most.checked_add(ahead)))
    }
}

impl<I: Iterator> fmt::Debug for Backlog<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backlog").field("least", &self.size_hint().0).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_not_taken_comes_out_again_in_order() {
        let mut backlog = Backlog::new(0..200);
        assert_eq!(backlog.size_hint(), (200, Some(200)));
        for n in 0..70 {
            assert_eq!(backlog.peek(), Some(&n));
            backlog.take_front();
        }
        assert_eq!(backlog.size_hint(), (130, Some(130)));
        assert!(backlog.eq(70..200));
    }

    #[test]
    fn who_promises_nothing_is_asked_for_one_at_a_time() {
        let asked = Cell::new(0);
        let count = |n: &i32| {
            asked.set(asked.get() + 1);
            *n < 1000
        };
        // Filtered: it does not say how many there are.
        let mut backlog = Backlog::new((0..1000).filter(count));
        for n in 0..10 {
            assert_eq!((backlog.peek(), asked.get()), (Some(&n), n + 1));
            backlog.take_front();
        }
        let mut promised = Backlog::new(0..1000);
        assert_eq!(promised.peek(), Some(&0));
        assert_eq!(promised.ahead.len(), RUN);
        let mut waits = Backlog::one_by_one(0..1000);
        assert_eq!(waits.peek(), Some(&0));
        assert_eq!(waits.ahead.len(), 1);
    }
}

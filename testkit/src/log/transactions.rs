//! What one partition knows about transactions: which are open, which were aborted, and hence the last stable offset. Kafka's
//! `ProducerStateManager.firstUnstableOffset` and `TransactionIndex`.

use std::collections::{BTreeMap, BTreeSet};

/// An aborted transaction as it is remembered until its records are deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborted {
    pub(crate) producer_id: i64,
    pub(crate) first_offset: i64,
    /// The marker's offset.
    pub(crate) last_offset: i64,
    /// What the last stable offset became with the marker.
    last_stable_offset: i64,
}

/// The transactions of a partition.
#[derive(Debug, Default)]
pub(crate) struct Transactions {
    /// Open ones: first offset and producer.
    open: BTreeMap<i64, i64>,
    /// In the order of their markers.
    aborted: Vec<Aborted>,
}

impl Transactions {
    /// Where the first open transaction begins.
    pub(crate) fn first_open(&self) -> Option<i64> {
        self.open.keys().next().copied()
    }

    /// A producer's transaction begins.
    pub(crate) fn begin(&mut self, producer_id: i64, first_offset: i64) {
        self.open.insert(first_offset, producer_id);
    }

    /// A marker at `marker` ends the transaction that began at `first_offset`.
    pub(crate) fn end(&mut self, first_offset: i64, marker: i64, aborted: bool) {
        let Some(producer_id) = self.open.remove(&first_offset) else { return };
        if aborted {
            let last_stable_offset = self.first_open().unwrap_or(marker + 1);
            self.aborted.push(Aborted { producer_id, first_offset, last_offset: marker, last_stable_offset });
        }
    }

    /// Aborted transactions that a reader of `from..below` has to know, as a broker tells them: those that end at `from` or later and
    /// begin below `below`, in the order of their markers. The list ends with the first behind which everything below `below` was
    /// decided.
    pub(crate) fn aborted(&self, from: i64, below: i64) -> Vec<Aborted> {
        let mut found = Vec::new();
        for aborted in &self.aborted {
            if aborted.last_offset >= from && aborted.first_offset < below {
                found.push(*aborted);
            }
            if aborted.last_stable_offset >= below {
                break;
            }
        }
        found
    }

    /// All aborted ones that are remembered.
    pub(crate) fn all_aborted(&self) -> &[Aborted] {
        &self.aborted
    }

    /// No record of these aborted ones is left, named by the offsets of their markers.
    pub(crate) fn forget_aborted(&mut self, markers: &BTreeSet<i64>) {
        self.aborted.retain(|aborted| !markers.contains(&aborted.last_offset));
    }

    /// The log starts at `start` now.
    pub(crate) fn forget_before(&mut self, start: i64) {
        self.aborted.retain(|aborted| aborted.last_offset >= start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_open_transaction_holds_the_stable_offset_back() {
        let mut transactions = Transactions::default();
        transactions.begin(1, 10);
        transactions.begin(2, 12);
        assert_eq!(transactions.first_open(), Some(10));
        transactions.end(12, 20, false);
        assert_eq!(transactions.first_open(), Some(10));
        transactions.end(10, 21, false);
        assert_eq!(transactions.first_open(), None);
    }

    #[test]
    fn a_reader_learns_of_the_aborted_transactions_that_touch_its_range() {
        let mut transactions = Transactions::default();
        transactions.begin(1, 0);
        transactions.begin(2, 5);
        transactions.end(5, 8, true);
        transactions.end(0, 9, true);
        transactions.begin(3, 10);
        transactions.end(10, 12, true);
        let of = |from, below| -> Vec<i64> {
            transactions.aborted(from, below).iter().map(|aborted| aborted.producer_id).collect()
        };
        assert_eq!(of(0, 100), [2, 1, 3]);
        assert_eq!(of(0, 4), [1], "the second began at 5");
        assert_eq!(of(9, 10), [1], "the marker at 9 is the last of the first");
        assert_eq!(of(13, 100), [0; 0]);
        transactions.forget_before(9);
        assert_eq!(transactions.aborted(0, 4).len(), 1);
    }
}

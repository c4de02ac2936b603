//! Defects that a test plants in the brokers, to see that its checks can fail:
//! `Cluster::builder().planted(Defect::SequenceCheckOff)`.
#![doc(hidden)]

/// One defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Defect {
    /// A batch is appended whatever its sequence is.
    SequenceCheckOff,
    /// A batch that came already is appended again.
    DuplicateAccepted,
    /// Fetch does not look at the leader epoch that the client knows.
    LeaderEpochIgnored,
    /// The high watermark is the log's end, whatever the in-sync replicas have.
    HighWatermarkAheadOfIsr,
    /// A batch with `acks=all` is acknowledged as soon as its leader has it, however few replicas are in sync.
    AckBeforeMinIsr,
    /// The task of all brokers panics at the first request.
    Panic,
}

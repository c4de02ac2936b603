//! Which release of Kafka the cluster behaves like, and what brokers of that release say they can speak.
//!
//! The tables are the answers of real brokers to ApiVersions: 2.8.2 with ZooKeeper, 3.9.1 and 4.3.0 with KRaft. APIs that a release has
//! and this cluster has not are in them, too; a broker of the cluster tells what both have.

use milena_protocol::ApiKey;

/// A release of Kafka whose brokers a cluster can be like: [`ClusterBuilder::kafka_version`](crate::ClusterBuilder::kafka_version).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum KafkaVersion {
    /// 2.8.2: no topic ids in Fetch, no hints about leaders, one group or transactional id per look-up, no features, and transactions
    /// that nobody verifies.
    V2_8,
    /// 3.9.1: the transactions of before KIP-890, whose partitions are verified.
    V3_9,
    /// 4.3.0: as without a pinned release, but for versions that this release has not got any more.
    V4_3,
}

impl KafkaVersion {
    /// The APIs that a broker of this release tells its clients of, with the lowest and the highest version of each, in the order of
    /// their numbers.
    pub fn apis(self) -> impl Iterator<Item = (ApiKey, i16, i16)> {
        self.table().iter().map(|(key, min, max)| (ApiKey(*key), *min, *max))
    }

    /// The lowest and the highest version that this release has of an API.
    pub(crate) fn versions(self, api: ApiKey) -> Option<(i16, i16)> {
        self.table().iter().find(|(key, ..)| *key == api.0).map(|(_, min, max)| (*min, *max))
    }

    fn table(self) -> &'static [(i16, i16, i16)] {
        match self {
            Self::V2_8 => V2_8,
            Self::V3_9 => V3_9,
            Self::V4_3 => V4_3,
        }
    }

    /// The level of transaction.version where nobody says another one.
    pub(crate) fn transaction_version(self) -> i16 {
        if self >= Self::V4_3 { 2 } else { 0 }
    }

    /// A partition's leader asks the coordinator about a transaction that begins there (KIP-890, from 3.6 on).
    pub(crate) fn verifies_transactions(self) -> bool {
        self >= Self::V3_9
    }

    /// High watermarks stop while fewer replicas are in sync than `min.insync.replicas` (KIP-966, from 3.7 on).
    pub(crate) fn stops_below_min_in_sync(self) -> bool {
        self >= Self::V3_9
    }

    /// Timestamps may lie at most an hour ahead if a topic says nothing (from 4.0 on).
    pub(crate) fn limits_timestamps(self) -> bool {
        self >= Self::V4_3
    }
}

#[rustfmt::skip]
const V2_8: &[(i16, i16, i16)] = &[
    (0, 0, 9), (1, 0, 12), (2, 0, 6), (3, 0, 11), (4, 0, 5), (5, 0, 3), (6, 0, 7), (7, 0, 3), (8, 0, 8), (9, 0, 7),
    (10, 0, 3), (11, 0, 7), (12, 0, 4), (13, 0, 4), (14, 0, 5), (15, 0, 5), (16, 0, 4), (17, 0, 1), (18, 0, 3),
    (19, 0, 7), (20, 0, 6), (21, 0, 2), (22, 0, 4), (23, 0, 4), (24, 0, 3), (25, 0, 3), (26, 0, 3), (27, 0, 1),
    (28, 0, 3), (29, 0, 2), (30, 0, 2), (31, 0, 2), (32, 0, 4), (33, 0, 2), (34, 0, 2), (35, 0, 2), (36, 0, 2),
    (37, 0, 3), (38, 0, 2), (39, 0, 2), (40, 0, 2), (41, 0, 2), (42, 0, 2), (43, 0, 2), (44, 0, 1), (45, 0, 0),
    (46, 0, 0), (47, 0, 0), (48, 0, 1), (49, 0, 1), (50, 0, 0), (51, 0, 0), (56, 0, 0), (57, 0, 0), (60, 0, 0),
    (61, 0, 0),
];

#[rustfmt::skip]
const V3_9: &[(i16, i16, i16)] = &[
    (0, 0, 11), (1, 0, 17), (2, 0, 9), (3, 0, 12), (8, 0, 9), (9, 0, 9), (10, 0, 6), (11, 0, 9), (12, 0, 4), (13, 0, 5),
    (14, 0, 5), (15, 0, 5), (16, 0, 5), (17, 0, 1), (18, 0, 4), (19, 0, 7), (20, 0, 6), (21, 0, 2), (22, 0, 5),
    (23, 0, 4), (24, 0, 5), (25, 0, 4), (26, 0, 4), (27, 0, 1), (28, 0, 4), (29, 0, 3), (30, 0, 3), (31, 0, 3),
    (32, 0, 4), (33, 0, 2), (34, 0, 2), (35, 0, 4), (36, 0, 2), (37, 0, 3), (38, 0, 3), (39, 0, 2), (40, 0, 2),
    (41, 0, 3), (42, 0, 2), (43, 0, 2), (44, 0, 1), (45, 0, 0), (46, 0, 0), (47, 0, 0), (48, 0, 1), (49, 0, 1),
    (50, 0, 0), (51, 0, 0), (55, 0, 2), (57, 0, 1), (60, 0, 1), (61, 0, 0), (64, 0, 0), (65, 0, 0), (66, 0, 1),
    (68, 0, 0), (69, 0, 0), (74, 0, 0), (75, 0, 0), (80, 0, 0), (81, 0, 0),
];

#[rustfmt::skip]
const V4_3: &[(i16, i16, i16)] = &[
    (0, 0, 13), (1, 4, 18), (2, 1, 11), (3, 0, 13), (8, 2, 10), (9, 1, 10), (10, 0, 6), (11, 0, 9), (12, 0, 4),
    (13, 0, 5), (14, 0, 5), (15, 0, 6), (16, 0, 5), (17, 0, 1), (18, 0, 4), (19, 2, 7), (20, 1, 6), (21, 0, 2),
    (22, 0, 5), (23, 2, 4), (24, 0, 5), (25, 0, 4), (26, 0, 5), (27, 1, 2), (28, 0, 5), (29, 1, 3), (30, 1, 3),
    (31, 1, 3), (32, 1, 4), (33, 0, 2), (34, 1, 2), (35, 1, 5), (36, 0, 2), (37, 0, 3), (38, 1, 3), (39, 1, 2),
    (40, 1, 2), (41, 1, 3), (42, 0, 2), (43, 0, 2), (44, 0, 1), (45, 0, 1), (46, 0, 0), (47, 0, 0), (48, 0, 1),
    (49, 0, 1), (50, 0, 0), (51, 0, 0), (55, 0, 2), (57, 0, 2), (60, 0, 2), (61, 0, 0), (64, 0, 0), (65, 0, 0),
    (66, 0, 2), (68, 0, 1), (69, 0, 1), (74, 0, 1), (75, 0, 0), (76, 1, 1), (77, 1, 1), (78, 1, 2), (79, 1, 2),
    (80, 0, 1), (81, 0, 0), (83, 0, 0), (84, 0, 0), (85, 0, 1), (86, 0, 0), (87, 0, 1), (88, 0, 0), (89, 0, 0),
    (90, 0, 1), (91, 0, 0), (92, 0, 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_in_order_and_has_no_empty_range() {
        for version in [KafkaVersion::V2_8, KafkaVersion::V3_9, KafkaVersion::V4_3] {
            let apis: Vec<_> = version.apis().collect();
            assert!(apis.is_sorted_by(|a, b| a.0.0 < b.0.0), "{version:?}");
            assert!(apis.iter().all(|(_, min, max)| min <= max), "{version:?}");
        }
    }
}

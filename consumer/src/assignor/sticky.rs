//! `cooperative-sticky`: as balanced as possible, then as little movement as possible, and nothing changes hands while its owner
//! still reads it (KIP-54, KIP-429).
//!
//! 1. Who owns what? Every member says so itself; of two claims the one of the higher generation counts, of two equal ones neither.
//! 2. If all members want the same topics (the usual case), quotas decide: everybody keeps up to its quota and the rest fills up
//!    the others. Otherwise a search moves partitions one at a time ([`balance`]).
//! 3. A partition that goes to a new member while an old one still owns it is withheld. The old owner gives it up, joins again,
//!    and the next, quick rebalance hands it over.
//!
//! The steps and their order are Java's `AbstractStickyAssignor`, so that a Java leader and a milena leader of the same group agree;
//! where Java walks a hash map, this walks in order of member ids. Racks (KIP-881) are not looked at yet.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use milena_client::TopicPartition;

use super::{Assignments, Assignor, AssignorError, Member, TopicSizes, balance};
use crate::group::{Assignment, Subscription};

/// The default assignor, `cooperative-sticky`.
#[derive(Debug, Clone, Copy, Default)]
pub struct CooperativeSticky;

impl Assignor for CooperativeSticky {
    fn name(&self) -> &str {
        "cooperative-sticky"
    }

    /// The generation, for leaders that read only versions of the subscription that do not carry it.
    fn user_data(&self, subscription: &Subscription) -> Option<Bytes> {
        let mut buf = BytesMut::with_capacity(4);
        buf.put_i32(subscription.generation);
        Some(buf.freeze())
    }

    fn assign(&self, topics: &TopicSizes, members: &[Member]) -> Result<Assignments, AssignorError> {
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        if members.is_empty() {
            return Ok(Assignments::new());
        }
        let problem = Problem::new(topics, &members);
        let claims = Claims::new(&problem, &members);
        let mut assigned =
            if problem.all_want_the_same() { by_quota(&problem, &claims)? } else { balance::assign(&problem, &claims) };
        for (member, partitions) in assigned.iter_mut().enumerate() {
            partitions.retain(|&partition| claims.is_free_for(partition, member));
        }
        Ok(members
            .iter()
            .zip(assigned)
            .map(|(member, partitions)| (member.id.clone(), problem.assignment(partitions)))
            .collect())
    }
}

/// The topics, partitions and members of one assignment, by number. Partitions are numbered by topic name, then by partition;
/// members by id.
pub(super) struct Problem {
    topics: Vec<Arc<str>>,
    /// (topic, partition) of each partition.
    pub(super) partitions: Vec<(usize, i32)>,
    /// The first partition of each topic, and one more for the end.
    first: Vec<usize>,
    /// Which topics each member wants, in order.
    pub(super) wants: Vec<Vec<usize>>,
    /// Which members want each topic, in order.
    pub(super) wanted_by: Vec<Vec<usize>>,
}

impl Problem {
    fn new(topics: &TopicSizes, members: &[&Member]) -> Self {
        let is_wanted = |topic: &Arc<str>| members.iter().any(|member| member.subscription.topics.contains(topic));
        let topics: Vec<(&Arc<str>, i32)> =
            topics.iter().filter(|(topic, _)| is_wanted(topic)).map(|(topic, &size)| (topic, size)).collect();
        let mut problem = Self {
            topics: topics.iter().map(|(topic, _)| (*topic).clone()).collect(),
            partitions: Vec::new(),
            first: vec![0],
            wants: vec![Vec::new(); members.len()],
            wanted_by: vec![Vec::new(); topics.len()],
        };
        for (index, &(topic, size)) in topics.iter().enumerate() {
            problem.partitions.extend((0..size.max(0)).map(|partition| (index, partition)));
            problem.first.push(problem.partitions.len());
            for (number, member) in members.iter().enumerate() {
                if member.subscription.topics.contains(topic) {
                    problem.wants[number].push(index);
                    problem.wanted_by[index].push(number);
                }
            }
        }
        problem
    }

    pub(super) fn members(&self) -> usize {
        self.wants.len()
    }

    pub(super) fn topic_of(&self, partition: usize) -> usize {
        self.partitions[partition].0
    }

    /// How many partitions a topic has.
    pub(super) fn size(&self, topic: usize) -> usize {
        self.first[topic + 1] - self.first[topic]
    }

    /// The partitions of a topic.
    pub(super) fn of_topic(&self, topic: usize) -> std::ops::Range<usize> {
        self.first[topic]..self.first[topic + 1]
    }

    fn find(&self, partition: &TopicPartition) -> Option<usize> {
        let topic = self.topics.binary_search(&partition.topic).ok()?;
        let offset = usize::try_from(partition.partition).ok()?;
        (offset < self.size(topic)).then(|| self.first[topic] + offset)
    }

    fn all_want_the_same(&self) -> bool {
        self.wants.windows(2).all(|pair| pair[0] == pair[1])
    }

    fn assignment(&self, mut partitions: Vec<usize>) -> Assignment {
        partitions.sort_unstable();
        let name = |partition: usize| {
            let (topic, partition) = self.partitions[partition];
            TopicPartition { topic: self.topics[topic].clone(), partition }
        };
        Assignment { partitions: partitions.into_iter().map(name).collect(), user_data: None }
    }
}

/// What the members say they own.
pub(super) struct Claims {
    /// What each member owns, after contested claims are settled.
    pub(super) owned: Vec<Vec<usize>>,
    /// The owner of each partition; of a partition that several claim with equal right, one of them.
    owner: Vec<Option<usize>>,
    /// Claimed by several members of the same generation: nobody keeps it.
    contested: Vec<bool>,
    /// Who claimed it with the highest of the lower generations.
    pub(super) former: Vec<Option<usize>>,
}

impl Claims {
    fn new(problem: &Problem, members: &[&Member]) -> Self {
        let generations: Vec<i32> = members.iter().map(|member| generation(&member.subscription)).collect();
        let count = problem.partitions.len();
        let mut claims = Self {
            owned: vec![Vec::new(); members.len()],
            owner: vec![None; count],
            contested: vec![false; count],
            former: vec![None; count],
        };
        for (member, partition) in members
            .iter()
            .enumerate()
            .flat_map(|(number, member)| member.subscription.owned.iter().map(move |owned| (number, owned)))
            .filter_map(|(number, owned)| Some((number, problem.find(owned)?)))
        {
            match claims.owner[partition] {
                None => claims.give(partition, member),
                Some(other) if other == member => {}
                Some(other) if generations[member] == generations[other] => {
                    // A member that says the same a million times is heard once.
                    if !std::mem::replace(&mut claims.contested[partition], true) {
                        claims.owned[other].retain(|&owned| owned != partition);
                    }
                }
                Some(other) if generations[member] > generations[other] => {
                    claims.owned[other].retain(|&owned| owned != partition);
                    claims.former[partition] = Some(other);
                    claims.give(partition, member);
                }
                Some(_) => {
                    let former = claims.former[partition].map(|former| generations[former]);
                    if former.is_none_or(|former| former < generations[member]) {
                        claims.former[partition] = Some(member);
                    }
                }
            }
        }
        claims
    }

    fn give(&mut self, partition: usize, member: usize) {
        self.owned[member].push(partition);
        self.owner[partition] = Some(member);
        self.contested[partition] = false;
    }

    /// Whether nobody but `member` owns the partition.
    fn is_free_for(&self, partition: usize, member: usize) -> bool {
        !self.contested[partition] && self.owner[partition].is_none_or(|owner| owner == member)
    }
}

/// The generation of a member's claims: in its subscription from version 2 on, before that in the assignor's own data.
fn generation(subscription: &Subscription) -> i32 {
    if subscription.generation >= 0 {
        return subscription.generation;
    }
    subscription.user_data.clone().and_then(|mut data| data.try_get_i32().ok()).unwrap_or(-1)
}

/// All members want the same topics: everybody gets ⌊P/C⌋ or ⌈P/C⌉ partitions and keeps what it owns up to that.
fn by_quota(problem: &Problem, claims: &Claims) -> Result<Vec<Vec<usize>>, AssignorError> {
    let (partitions, members) = (problem.partitions.len(), problem.members());
    let (low, high) = (partitions / members, partitions.div_ceil(members));
    // So many members have the higher quota (if it is higher at all).
    let mut places_above = partitions % members;
    let mut assigned: Vec<Vec<usize>> = vec![Vec::new(); members];
    let mut kept = vec![false; partitions];
    // Members below the low quota, and members on it that may get one more.
    let (mut below, mut on_it) = (Vec::new(), Vec::new());
    for (member, assigned) in assigned.iter_mut().enumerate() {
        let mut owned = claims.owned[member].clone();
        owned.sort_unstable_by_key(|&partition| (problem.partitions[partition].1, problem.topic_of(partition)));
        if owned.len() < low {
            below.push(member);
        } else if owned.len() >= high && places_above > 0 {
            owned.truncate(high);
            places_above -= 1;
            if places_above == 0 {
                on_it.clear();
            }
        } else {
            owned.truncate(low);
            if places_above > 0 {
                on_it.push(member);
            }
        }
        owned.iter().for_each(|&partition| kept[partition] = true);
        *assigned = owned;
    }
    let mut on_it = std::collections::VecDeque::from(on_it);
    let mut turn = 0;
    for partition in (0..partitions).filter(|&partition| !kept[partition]) {
        if below.is_empty() {
            let member = on_it.pop_front().filter(|_| places_above > 0);
            let member =
                member.ok_or_else(|| AssignorError(format!("no member has room for partition {partition}")))?;
            assigned[member].push(partition);
            places_above -= 1;
            continue;
        }
        turn %= below.len();
        let member = below[turn];
        assigned[member].push(partition);
        if assigned[member].len() == low {
            below.remove(turn);
            on_it.push_back(member);
        } else {
            turn += 1;
        }
    }
    Ok(assigned)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn topics(sizes: &[(&str, i32)]) -> TopicSizes {
        sizes.iter().map(|&(topic, size)| (topic.into(), size)).collect()
    }

    fn member(id: &str, wants: &[&str], owned: &[(&str, i32)], generation: i32) -> Member {
        let subscription = Subscription {
            topics: wants.iter().map(|&topic| topic.into()).collect(),
            owned: owned.iter().map(|&(topic, partition)| TopicPartition::new(topic, partition)).collect(),
            generation,
            ..Default::default()
        };
        Member { id: id.into(), instance_id: None, subscription }
    }

    fn assign(sizes: &[(&str, i32)], members: &[Member]) -> BTreeMap<String, Vec<String>> {
        let assignments = CooperativeSticky.assign(&topics(sizes), members).unwrap();
        let text = |assignment: &Assignment| assignment.partitions.iter().map(ToString::to_string).collect();
        assignments.iter().map(|(id, assignment)| (id.to_string(), text(assignment))).collect()
    }

    #[test]
    fn a_lone_member_gets_everything() {
        let given = assign(&[("t", 3)], &[member("a", &["t"], &[], -1)]);
        assert_eq!(given["a"], ["t-0", "t-1", "t-2"]);
    }

    #[test]
    fn new_members_share_in_turn() {
        let members = [member("a", &["t"], &[], -1), member("b", &["t"], &[], -1)];
        let given = assign(&[("t", 5)], &members);
        assert_eq!((given["a"].len(), given["b"].len()), (3, 2));
    }

    #[test]
    fn what_moves_is_withheld_until_its_owner_has_given_it_up() {
        let all = [("t", 0), ("t", 1), ("t", 2), ("t", 3)];
        let first = assign(&[("t", 4)], &[member("a", &["t"], &all, 1), member("b", &["t"], &[], -1)]);
        assert_eq!((&first["a"], &first["b"]), (&vec!["t-0".to_owned(), "t-1".into()], &vec![]));
        let second = assign(&[("t", 4)], &[member("a", &["t"], &all[..2], 2), member("b", &["t"], &[], 2)]);
        assert_eq!((&second["a"], &second["b"]), (&first["a"], &vec!["t-2".to_owned(), "t-3".into()]));
    }

    #[test]
    fn of_two_claims_the_higher_generation_counts_and_equal_ones_cancel_out() {
        let stale = [member("a", &["t"], &[("t", 0)], 3), member("b", &["t"], &[("t", 0)], 4)];
        let given = assign(&[("t", 1)], &stale);
        assert_eq!((given["a"].len(), given["b"].len()), (0, 1));
        let equal = [member("a", &["t"], &[("t", 0)], 4), member("b", &["t"], &[("t", 0)], 4)];
        let given = assign(&[("t", 1)], &equal);
        assert_eq!((given["a"].len(), given["b"].len()), (0, 0), "both still read it: both must give it up first");
    }

    #[test]
    fn topics_that_do_not_exist_and_partitions_that_are_gone_are_left_out() {
        let members = [member("a", &["t", "missing"], &[("t", 7), ("gone", 0)], 2)];
        assert_eq!(assign(&[("t", 2), ("unwanted", 9)], &members)["a"], ["t-0", "t-1"]);
        assert_eq!(assign(&[], &members)["a"].len(), 0);
    }

    #[test]
    fn members_with_different_topics_get_only_what_they_want() {
        let members = [member("a", &["x"], &[], -1), member("b", &["x", "y"], &[], -1), member("c", &["y"], &[], -1)];
        let given = assign(&[("x", 3), ("y", 3)], &members);
        assert!(given["a"].iter().all(|partition| partition.starts_with('x')));
        assert!(given["c"].iter().all(|partition| partition.starts_with('y')));
        assert!(given.values().all(|partitions| partitions.len() == 2), "{given:?}");
    }

    #[test]
    fn claims_of_javas_old_members_carry_their_generation_in_user_data() {
        let mut old = member("a", &["t"], &[("t", 0)], -1);
        old.subscription.user_data = Some(Bytes::from_static(&[0, 0, 0, 9]));
        let given = assign(&[("t", 1)], &[old, member("b", &["t"], &[("t", 0)], 8)]);
        assert_eq!((given["a"].len(), given["b"].len()), (1, 0));
    }

    /// Rebalances until nobody has to give anything up, as a group does, and returns what everybody then owns.
    fn settle(sizes: &TopicSizes, members: &mut [Member]) -> BTreeMap<Arc<str>, BTreeSet<TopicPartition>> {
        for round in 0..4 {
            let given = CooperativeSticky.assign(sizes, members).unwrap();
            let mut seen = BTreeSet::new();
            let mut moved = false;
            for member in members.iter_mut() {
                let now = &given[&member.id].partitions;
                assert!(now.iter().all(|partition| seen.insert(partition.clone())), "given twice");
                moved |= member.subscription.owned.iter().any(|owned| !now.contains(owned));
                member.subscription.owned = now.clone();
                member.subscription.generation = round + 100;
            }
            if !moved {
                return members
                    .iter()
                    .map(|m| (m.id.clone(), m.subscription.owned.iter().cloned().collect()))
                    .collect();
            }
        }
        panic!("the group does not come to rest");
    }

    /// Nobody could take a partition from somebody who has two more.
    fn assert_balanced(sizes: &TopicSizes, members: &[Member], owned: &BTreeMap<Arc<str>, BTreeSet<TopicPartition>>) {
        let all: usize = owned.values().map(BTreeSet::len).sum();
        let wanted = |topic: &Arc<str>| members.iter().any(|member| member.subscription.topics.contains(topic));
        let expected: i32 = sizes.iter().filter(|(topic, _)| wanted(topic)).map(|(_, size)| size).sum();
        assert_eq!(all as i32, expected, "every partition has an owner");
        for poor in members {
            for (rich, partitions) in owned {
                let could_take = partitions.iter().any(|partition| poor.subscription.topics.contains(&partition.topic));
                let gap = partitions.len() as i64 - owned[&poor.id].len() as i64;
                assert!(!could_take || gap <= 1, "{} could take from {rich}: {owned:?}", poor.id);
            }
        }
    }

    fn group(wants: &[Vec<bool>], names: &[&str]) -> Vec<Member> {
        let topics =
            |wants: &[bool]| names.iter().zip(wants).filter(|(_, w)| **w).map(|(name, _)| *name).collect::<Vec<_>>();
        wants.iter().enumerate().map(|(index, wants)| member(&format!("m{index}"), &topics(wants), &[], -1)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn equal_subscriptions_are_balanced_and_a_leaver_moves_nothing_else(
            sizes in proptest::collection::vec(0..12i32, 1..5), count in 2..7usize, leaver in 0..7usize,
        ) {
            let names = ["t0", "t1", "t2", "t3", "t4"];
            let sizes: TopicSizes = names.iter().zip(&sizes).map(|(name, size)| ((*name).into(), *size)).collect();
            let mut members = group(&vec![vec![true; 5]; count], &names);
            let before = settle(&sizes, &mut members);
            assert_balanced(&sizes, &members, &before);
            prop_assert_eq!(&settle(&sizes, &mut members), &before, "joining again moves nothing");
            members.remove(leaver % count);
            let after = settle(&sizes, &mut members);
            assert_balanced(&sizes, &members, &after);
            for member in &members {
                prop_assert!(before[&member.id].is_subset(&after[&member.id]), "a survivor keeps what it had");
            }
        }

        #[test]
        fn different_subscriptions_are_balanced_and_sticky_too(
            sizes in proptest::collection::vec(1..6i32, 4),
            wants in proptest::collection::vec(proptest::collection::vec(any::<bool>(), 4), 2..6),
            newcomer in proptest::collection::vec(any::<bool>(), 4),
        ) {
            let names = ["t0", "t1", "t2", "t3"];
            let sizes: TopicSizes = names.iter().zip(&sizes).map(|(name, size)| ((*name).into(), *size)).collect();
            let mut members = group(&wants, &names);
            let before = settle(&sizes, &mut members);
            prop_assert_eq!(&settle(&sizes, &mut members), &before, "joining again moves nothing");
            let mut more = group(&[newcomer], &names);
            more[0].id = "newcomer".into();
            members.append(&mut more);
            let after = settle(&sizes, &mut members);
            let all: usize = after.values().map(BTreeSet::len).sum();
            let unique: BTreeSet<_> = after.values().flatten().collect();
            prop_assert_eq!(all, unique.len());
            for member in &members {
                prop_assert!(after[&member.id].iter().all(|p| member.subscription.topics.contains(&p.topic)));
            }
            assert_balanced(&sizes, &members, &after);
        }
    }
}

//! Who runs which task: the group's leader distributes tasks, and a task is all partitions of one number of its
//! sub-topology's topics, so that what is partitioned alike stays together.
//!
//! A task stays with the member that has it as long as no member gets more than its share; what is left goes to those
//! with the fewest. A task that moves is withheld until its owner has given it up (the cooperative protocol, KIP-429).
//! The protocol's name differs from Java's ("stream") on purpose: a group of both would share no state format for the
//! assignment, and each would take the other for broken.

use std::{collections::BTreeMap, sync::Arc};

use milena_client::TopicPartition;
use milena_consumer::{Assignment, Assignments, Assignor, AssignorError, Member, TopicSizes};

use crate::task::TaskId;

/// The assignor of Streams applications.
#[derive(Debug, Clone)]
pub(crate) struct TaskAssignor {
    /// Source topics of all sub-topologies.
    sources: BTreeMap<Arc<str>, usize>,
}

impl TaskAssignor {
    pub(crate) fn new(sources: BTreeMap<Arc<str>, usize>) -> Self {
        Self { sources }
    }

    fn task(&self, partition: &TopicPartition) -> Option<TaskId> {
        let sub_topology = *self.sources.get(&partition.topic)?;
        Some(TaskId { sub_topology, partition: partition.partition })
    }
}

impl Assignor for TaskAssignor {
    fn name(&self) -> &str {
        "milena-streams"
    }

    fn assign(&self, topics: &TopicSizes, members: &[Member]) -> Result<Assignments, AssignorError> {
        let mut tasks: BTreeMap<TaskId, Vec<TopicPartition>> = BTreeMap::new();
        for (topic, sub_topology) in &self.sources {
            let Some(size) = topics.get(topic) else {
                return Err(AssignorError(format!(
                    "the source topic {topic} is gone: create it again, or close the application"
                )));
            };
            for partition in 0..*size {
                let id = TaskId { sub_topology: *sub_topology, partition };
                tasks.entry(id).or_default().push(TopicPartition { topic: topic.clone(), partition });
            }
        }
        let mut members: Vec<&Member> = members.iter().collect();
        members.sort_by(|a, b| a.id.cmp(&b.id));
        if members.is_empty() {
            return Ok(Assignments::new());
        }
        // Whoever still reads a partition of a task blocks it for others; of two claims the newer generation's counts for
        // stickiness.
        let mut owners: BTreeMap<TaskId, Vec<(i32, usize)>> = BTreeMap::new();
        for (number, member) in members.iter().enumerate() {
            for task in member.subscription.owned.iter().filter_map(|partition| self.task(partition)) {
                let owners = owners.entry(task).or_default();
                if !owners.iter().any(|(_, owner)| *owner == number) {
                    owners.push((member.subscription.generation, number));
                }
            }
        }
        let sticky: BTreeMap<TaskId, usize> = owners
            .iter()
            .filter_map(|(task, owners)| {
                let newest = owners.iter().map(|(generation, _)| *generation).max()?;
                let mut newest = owners.iter().filter(|(generation, _)| *generation == newest);
                match (newest.next(), newest.next()) {
                    (Some((_, owner)), None) => Some((*task, *owner)),
                    _ => None,
                }
            })
            .collect();
        let target = distribute(&tasks.keys().copied().collect::<Vec<_>>(), members.len(), &sticky);
        let mut assignments = vec![Assignment::default(); members.len()];
        for (task, partitions) in tasks {
            let owner = target[&task];
            let blocked = owners.get(&task).is_some_and(|owners| owners.iter().any(|(_, other)| *other != owner));
            if !blocked {
                assignments[owner].partitions.extend(partitions);
            }
        }
        Ok(members.iter().map(|member| member.id.clone()).zip(assignments).collect())
    }
}

/// Distributes tasks over so many members: every one gets ⌊tasks / members⌋ or one more; a task stays where it is if that
/// allows it; the rest goes to whoever has the fewest tasks, and of those the fewest of the same sub-topology.
fn distribute(tasks: &[TaskId], members: usize, sticky: &BTreeMap<TaskId, usize>) -> BTreeMap<TaskId, usize> {
    let (share, mut extra) = (tasks.len() / members, tasks.len() % members);
    let mut counts = vec![0; members];
    let mut of_sub: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut target = BTreeMap::new();
    for task in tasks {
        let Some(owner) = sticky.get(task) else { continue };
        if counts[*owner] == share {
            if extra == 0 {
                continue;
            }
            extra -= 1;
        } else if counts[*owner] > share {
            continue;
        }
        counts[*owner] += 1;
        *of_sub.entry((*owner, task.sub_topology)).or_default() += 1;
        target.insert(*task, *owner);
    }
    for task in tasks {
        if target.contains_key(task) {
            continue;
        }
        let load = |member: &usize| {
            (counts[*member], of_sub.get(&(*member, task.sub_topology)).copied().unwrap_or(0), *member)
        };
        // There is a member: the caller has seen to it.
        let owner = (0..members).min_by_key(load).unwrap_or(0);
        counts[owner] += 1;
        *of_sub.entry((owner, task.sub_topology)).or_default() += 1;
        target.insert(*task, owner);
    }
    target
}

#[cfg(test)]
mod tests {
    use milena_consumer::Subscription;

    use super::*;

    fn assignor() -> TaskAssignor {
        TaskAssignor::new([("lines", 0), ("more-lines", 0), ("words", 1)].map(|(t, s)| (Arc::from(t), s)).into())
    }

    fn sizes(lines: i32, more: i32, words: i32) -> TopicSizes {
        [("lines", lines), ("more-lines", more), ("words", words)].map(|(t, s)| (Arc::from(t), s)).into()
    }

    fn member(id: &str, generation: i32, owned: Vec<TopicPartition>) -> Member {
        let subscription = Subscription { owned, generation, ..Subscription::default() };
        Member { id: id.into(), instance_id: None, subscription }
    }

    fn by_member(assignments: &Assignments) -> BTreeMap<String, Vec<TopicPartition>> {
        assignments.iter().map(|(id, assignment)| (id.to_string(), assignment.partitions.clone())).collect()
    }

    fn tasks(partitions: &[TopicPartition]) -> Vec<String> {
        let mut tasks: Vec<TaskId> = partitions.iter().filter_map(|p| assignor().task(p)).collect();
        tasks.sort();
        tasks.dedup();
        tasks.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn topics_of_a_sub_topology_are_assigned_together() {
        let all = assignor().assign(&sizes(3, 2, 3), &[member("a", -1, vec![]), member("b", -1, vec![])]).unwrap();
        let all = by_member(&all);
        assert_eq!(
            (tasks(&all["a"]), tasks(&all["b"])),
            (vec!["0_0".into(), "0_2".into(), "1_1".into()], vec!["0_1".to_owned(), "1_0".into(), "1_2".into()])
        );
        assert!(
            all["b"].contains(&TopicPartition::new("lines", 1))
                && all["b"].contains(&TopicPartition::new("more-lines", 1))
        );
        assert_eq!(all.values().map(Vec::len).sum::<usize>(), 8);
    }

    #[test]
    fn a_task_that_moves_is_withheld_until_it_is_given_up() {
        let one = by_member(&assignor().assign(&sizes(2, 2, 2), &[member("a", -1, vec![])]).unwrap());
        let members = [member("a", 1, one["a"].clone()), member("b", -1, vec![])];
        let two = by_member(&assignor().assign(&sizes(2, 2, 2), &members).unwrap());
        assert_eq!(tasks(&two["a"]), ["0_0", "0_1"], "stays");
        assert!(two["b"].is_empty(), "still read by a");
        let members = [member("a", 2, two["a"].clone()), member("b", 2, vec![])];
        let three = by_member(&assignor().assign(&sizes(2, 2, 2), &members).unwrap());
        assert_eq!(
            (tasks(&three["a"]), tasks(&three["b"])),
            (vec!["0_0".into(), "0_1".into()], vec!["1_0".to_owned(), "1_1".into()])
        );
    }

    #[test]
    fn a_stale_claim_keeps_nothing_but_blocks() {
        let claimed = vec![TopicPartition::new("words", 0)];
        let members = [member("a", 1, claimed.clone()), member("b", 5, claimed)];
        let all = by_member(&assignor().assign(&sizes(1, 1, 1), &members).unwrap());
        assert!(all.values().all(|partitions| !partitions.contains(&TopicPartition::new("words", 0))));
    }

    #[test]
    fn a_missing_topic_is_named() {
        let mut sizes = sizes(1, 1, 1);
        sizes.remove("words");
        let error = assignor().assign(&sizes, &[member("a", -1, vec![])]).unwrap_err().to_string();
        assert!(error.contains("source topic words is gone"), "{error}");
    }

    /// Members come and go at random: after each change the group settles in at most two rounds, balanced, with every task
    /// assigned once, never to two members at a time, and without moving more than it must.
    #[test]
    fn random_changes_settle_balanced_and_sticky() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let sizes = sizes(rng.i32(1..7), rng.i32(1..7), rng.i32(1..7));
            let total = sizes["lines"].max(sizes["more-lines"]) as usize + sizes["words"] as usize;
            let mut owned: BTreeMap<String, Vec<TopicPartition>> = BTreeMap::new();
            let mut generation = 0;
            for step in 0..10 {
                if owned.len() < 2 || rng.bool() {
                    owned.insert(format!("m{step}"), Vec::new());
                } else {
                    let gone = owned.keys().nth(rng.usize(0..owned.len())).cloned().unwrap();
                    owned.remove(&gone);
                }
                for _ in 0..3 {
                    let members: Vec<Member> =
                        owned.iter().map(|(id, partitions)| member(id, generation, partitions.clone())).collect();
                    let next = by_member(&assignor().assign(&sizes, &members).unwrap());
                    for (id, partitions) in &next {
                        for (other, held) in owned.iter().filter(|(other, _)| *other != id) {
                            assert!(
                                partitions.iter().all(|p| !held.contains(p)),
                                "seed {seed}: {id} gets what {other} reads"
                            );
                        }
                    }
                    owned = next;
                    generation += 1;
                }
                let counts: Vec<usize> = owned.values().map(|partitions| tasks(partitions).len()).collect();
                assert_eq!(counts.iter().sum::<usize>(), total, "seed {seed}: every task once");
                assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "seed {seed}: {counts:?}");
                let members: Vec<Member> = owned.iter().map(|(id, p)| member(id, generation, p.clone())).collect();
                assert_eq!(
                    by_member(&assignor().assign(&sizes, &members).unwrap()),
                    owned,
                    "seed {seed}: nothing moves again"
                );
            }
        }
    }
}

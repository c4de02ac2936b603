//! The general case of the sticky assignor: members want different topics, so there is no quota, only a search.
//!
//! Free partitions go to whoever has least; then partitions move one at a time from a member to another that has at least two
//! fewer, until nobody could take one. Every move makes the sum of squared sizes smaller, so the search ends.

use std::collections::{BTreeMap, BTreeSet};

use super::sticky::{Claims, Problem};

pub(super) fn assign(problem: &Problem, claims: &Claims) -> Vec<Vec<usize>> {
    let mut balance = Balance::new(problem, claims);
    let initial = claims.owned.iter().all(Vec::is_empty);
    let free = balance.give_out_free_partitions();
    balance.fix_what_cannot_move();
    let before = balance.sizes.clone();
    let owner_before = balance.owner.clone();
    if !balance.revocation_required {
        balance.reassign(&free);
    }
    let movable = balance.in_order();
    let moved = balance.reassign(&movable);
    if !initial && moved && score(&balance.sizes) >= score(&before) {
        balance.owner = owner_before;
    }
    let mut assigned = vec![Vec::new(); problem.members()];
    for (partition, owner) in balance.owner.iter().enumerate() {
        if let Some(owner) = owner {
            assigned[*owner].push(partition);
        }
    }
    assigned
}

/// The sum of all pairwise differences in size: 0 is perfect balance.
fn score(sizes: &[usize]) -> usize {
    sizes.iter().enumerate().map(|(i, a)| sizes[i + 1..].iter().map(|b| a.abs_diff(*b)).sum::<usize>()).sum()
}

struct Balance<'a> {
    problem: &'a Problem,
    former: &'a [Option<usize>],
    owner: Vec<Option<usize>>,
    sizes: Vec<usize>,
    /// Members by size, then by id: those that take part in the search.
    by_size: BTreeSet<(usize, usize)>,
    /// Somebody must give up a partition anyway, because it does not want its topic any more.
    revocation_required: bool,
    /// Where each moved partition came from and went to, so that two moves of a topic that cancel out are seen.
    movements: BTreeMap<usize, (usize, usize)>,
}

impl<'a> Balance<'a> {
    fn new(problem: &'a Problem, claims: &'a Claims) -> Self {
        let mut balance = Self {
            problem,
            former: &claims.former,
            owner: vec![None; problem.partitions.len()],
            sizes: vec![0; problem.members()],
            by_size: BTreeSet::new(),
            revocation_required: false,
            movements: BTreeMap::new(),
        };
        for (member, owned) in claims.owned.iter().enumerate() {
            for &partition in owned {
                if problem.wants[member].contains(&problem.topic_of(partition)) {
                    balance.owner[partition] = Some(member);
                    balance.sizes[member] += 1;
                } else {
                    balance.revocation_required = true;
                }
            }
        }
        balance.by_size = balance.sizes.iter().enumerate().map(|(member, &size)| (size, member)).collect();
        balance
    }

    /// All partitions, those that fewest members want first.
    fn in_order(&self) -> Vec<usize> {
        let mut partitions: Vec<usize> = (0..self.owner.len()).collect();
        partitions.sort_by_key(|&partition| (self.candidates(partition).len(), partition));
        partitions
    }

    fn candidates(&self, partition: usize) -> &'a [usize] {
        &self.problem.wanted_by[self.problem.topic_of(partition)]
    }

    fn smallest(&self, partition: usize) -> Option<usize> {
        let candidates = self.candidates(partition);
        self.by_size.iter().map(|&(_, member)| member).find(|member| candidates.contains(member))
    }

    fn give_out_free_partitions(&mut self) -> Vec<usize> {
        let mut free = self.in_order();
        free.retain(|&partition| self.owner[partition].is_none());
        for &partition in &free {
            if let Some(member) = self.smallest(partition) {
                self.put(partition, member);
            }
        }
        free
    }

    /// A member takes no part if it has everything that it could have and nobody else could have any of it.
    fn fix_what_cannot_move(&mut self) {
        let problem = self.problem;
        for member in 0..problem.members() {
            let possible: usize = problem.wants[member].iter().map(|&topic| problem.size(topic)).sum();
            let shared = problem.wants[member].iter().any(|&topic| problem.wanted_by[topic].len() > 1);
            if self.sizes[member] == possible && !shared {
                self.by_size.remove(&(self.sizes[member], member));
            }
        }
    }

    fn put(&mut self, partition: usize, member: usize) {
        if let Some(old) = self.owner[partition].replace(member) {
            self.resize(old, self.sizes[old] - 1);
        }
        self.resize(member, self.sizes[member] + 1);
    }

    fn resize(&mut self, member: usize, size: usize) {
        if self.by_size.remove(&(self.sizes[member], member)) {
            self.by_size.insert((size, member));
        }
        self.sizes[member] = size;
    }

    fn is_balanced(&self) -> bool {
        let (Some(&(least, _)), Some(&(most, _))) = (self.by_size.first(), self.by_size.last()) else { return true };
        least + 1 >= most
            || !self.by_size.iter().any(|&(size, member)| {
                self.problem.wants[member].iter().flat_map(|&topic| self.problem.of_topic(topic)).any(|partition| {
                    self.owner[partition].is_some_and(|owner| owner != member && self.sizes[owner] > size + 1)
                })
            })
    }

    fn reassign(&mut self, partitions: &[usize]) -> bool {
        let mut moved = false;
        loop {
            let mut again = false;
            for &partition in partitions {
                if self.candidates(partition).len() < 2 {
                    continue;
                }
                if self.is_balanced() {
                    return moved;
                }
                again |= self.move_one(partition);
            }
            if !again {
                return moved;
            }
            moved = true;
        }
    }

    fn move_one(&mut self, partition: usize) -> bool {
        let Some(owner) = self.owner[partition] else { return false };
        let has_two_fewer = |member: usize| self.sizes[owner] > self.sizes[member] + 1;
        let former = self.former[partition].filter(|former| self.candidates(partition).contains(former));
        let target = former
            .filter(|&former| has_two_fewer(former))
            .or_else(|| self.smallest(partition).filter(|&smallest| has_two_fewer(smallest)));
        let Some(target) = target else { return false };
        // If a partition of this topic went the other way before, it goes back instead.
        let topic = self.problem.topic_of(partition);
        let back = self.movements.iter().find(|&(&moved, &way)| {
            way == (target, owner) && self.problem.topic_of(moved) == topic && self.owner[moved] == Some(owner)
        });
        let partition = back.map_or(partition, |(&moved, _)| moved);
        match self.movements.remove(&partition) {
            Some((from, _)) if from == target => {}
            Some((from, _)) => drop(self.movements.insert(partition, (from, target))),
            None => drop(self.movements.insert(partition, (owner, target))),
        }
        self.put(partition, target);
        true
    }
}

//! A membership through its rebalances, its answers by hand and its clock moved by the test.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn tps(partitions: &[i32]) -> Vec<TopicPartition> {
    partitions.iter().map(|&partition| TopicPartition::new("t", partition)).collect()
}

/// A membership, a clock that only the test moves, and short ways to answer.
struct Scene {
    member: Membership,
    now: Instant,
    rng: fastrand::Rng,
}

impl Scene {
    #[expect(clippy::disallowed_methods, reason = "where a test's time begins; it moves only when the test says so")]
    fn new(protocol: RebalanceProtocol) -> Self {
        let now = Instant::now();
        let settings =
            Settings { session_timeout: 45 * SECOND, heartbeat_interval: 3 * SECOND, protocol, is_static: false };
        Self { member: Membership::new(settings, now), now, rng: fastrand::Rng::with_seed(1) }
    }

    /// A member that owns `partitions` in generation 1.
    fn stable(protocol: RebalanceProtocol, partitions: &[i32]) -> Self {
        let mut scene = Self::new(protocol);
        scene.join(1, partitions);
        scene
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn next(&mut self) -> Option<Action> {
        self.member.poll(self.now)
    }

    fn all(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.member.poll(self.now)).collect()
    }

    /// Expects a join, lets it succeed as a follower, and answers the sync.
    fn join(&mut self, generation: i32, partitions: &[i32]) -> Vec<Action> {
        let Some(Action::Join { attempt, .. }) = self.next() else { panic!("a join is due") };
        self.joined(attempt, generation);
        self.sync(partitions)
    }

    fn joined(&mut self, attempt: u64, generation: i32) {
        let joined = Joined {
            member_id: "me".into(),
            generation,
            is_leader: false,
            skip_assignment: false,
            assignor: "cooperative-sticky".into(),
            members: Vec::new(),
        };
        self.member.on_joined(attempt, self.now, &mut self.rng, Ok(joined));
    }

    fn sync(&mut self, partitions: &[i32]) -> Vec<Action> {
        let Some(Action::Sync { attempt, .. }) = self.next() else { panic!("a sync is due") };
        let assignment = Assignment { partitions: tps(partitions), user_data: None };
        self.member.on_synced(attempt, self.now, &mut self.rng, Ok(assignment));
        self.all()
    }

    fn heartbeat(&mut self, answer: Result<(), Failure>) {
        self.pass(3 * SECOND);
        let Some(Action::Heartbeat { attempt, .. }) = self.next() else { panic!("a heartbeat is due") };
        self.member.on_heartbeat(attempt, self.now, &mut self.rng, answer);
    }
}

use RebalanceProtocol::{Cooperative, Eager};

#[test]
fn a_new_member_joins_with_the_id_it_is_given_and_adopts_its_assignment() {
    let mut scene = Scene::new(Cooperative);
    let Some(Action::Join { attempt, member_id, generation, .. }) = scene.next() else { panic!() };
    assert_eq!((&*member_id, generation), ("", -1));
    let required = Failure::Code(ErrorCode::MEMBER_ID_REQUIRED, Some("me-1".into()));
    scene.member.on_joined(attempt, scene.now, &mut scene.rng, Err(required));
    let Some(Action::Join { attempt, member_id, .. }) = scene.next() else { panic!() };
    assert_eq!(&*member_id, "me-1");
    scene.joined(attempt, 1);
    assert!(!scene.member.may_commit(), "between join and sync the coordinator refuses commits");
    let actions = scene.sync(&[0, 1]);
    assert!(
        matches!(&actions[..], [Action::Adopt { added, generation: 1, .. }] if *added == tps(&[0, 1])),
        "{actions:?}"
    );
    assert!(scene.member.is_stable() && scene.member.may_commit());
}

#[test]
fn the_leader_assigns_before_it_syncs() {
    let mut scene = Scene::new(Cooperative);
    let Some(Action::Join { attempt, .. }) = scene.next() else { panic!() };
    let me = JoinedMember { id: "me".into(), instance_id: None, metadata: Bytes::new() };
    let joined = Joined {
        member_id: "me".into(),
        generation: 4,
        is_leader: true,
        skip_assignment: false,
        assignor: "x".into(),
        members: vec![me],
    };
    scene.member.on_joined(attempt, scene.now, &mut scene.rng, Ok(joined));
    let Some(Action::Assign { attempt, members, .. }) = scene.next() else { panic!() };
    assert_eq!((members.len(), scene.next()), (1, None));
    scene.member.on_assigned(attempt, scene.now, &mut scene.rng, Some(vec![("me".into(), Bytes::from_static(b"a"))]));
    assert!(matches!(scene.next(), Some(Action::Sync { generation: 4, assignments, .. }) if assignments.len() == 1));
}

#[test]
fn heartbeats_come_at_the_interval_and_one_at_a_time() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    assert_eq!(scene.next(), None);
    assert_eq!(scene.member.wake_at(), Some(scene.now + 3 * SECOND));
    scene.pass(3 * SECOND);
    assert!(matches!(scene.next(), Some(Action::Heartbeat { generation: 1, .. })));
    scene.pass(30 * SECOND);
    assert_eq!(scene.next(), None, "the last one is still under way");
}

#[test]
fn a_held_join_delays_no_heartbeat_and_heartbeats_decide_nothing_meanwhile() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    let Some(Action::Join { attempt, owned, .. }) = scene.next() else { panic!("rejoins at once") };
    assert_eq!(owned, tps(&[0]), "a cooperative member keeps what it has while it joins");
    for code in [ErrorCode::REBALANCE_IN_PROGRESS, ErrorCode::ILLEGAL_GENERATION, ErrorCode::UNKNOWN_MEMBER_ID] {
        scene.heartbeat(Err(code.into()));
        assert_eq!(scene.next(), None);
    }
    scene.pass(44 * SECOND);
    scene.joined(attempt, 2);
    assert!(scene.sync(&[0]).iter().all(|action| matches!(action, Action::Adopt { added, .. } if added.is_empty())));
}

/// The coordinator is silent, or another broker is it.
fn losses() -> [Failure; 3] {
    [Failure::NoAnswer, ErrorCode::NOT_COORDINATOR.into(), ErrorCode::COORDINATOR_NOT_AVAILABLE.into()]
}

#[test]
fn a_join_is_not_left_to_a_coordinator_that_is_lost() {
    for loss in losses() {
        let mut scene = Scene::stable(Cooperative, &[0]);
        scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
        let Some(Action::Join { attempt: first, .. }) = scene.next() else { panic!() };
        scene.heartbeat(Ok(()));
        assert_eq!(scene.next(), None, "it is there, and holds the join");
        scene.heartbeat(Err(loss.clone()));
        scene.pass(SECOND);
        let joins: Vec<_> = scene.all().into_iter().filter(|action| *action != Action::ForgetCoordinator).collect();
        let [Action::Join { attempt, generation: 1, owned, .. }, Action::Heartbeat { .. }] = &joins[..] else {
            panic!("{loss:?}: {joins:?}")
        };
        assert_eq!(*owned, tps(&[0]), "its partitions are not touched");
        scene.joined(first, 9);
        assert_eq!(scene.next(), None, "the first one's answer comes too late");
        scene.joined(*attempt, 2);
        assert!(matches!(scene.next(), Some(Action::Sync { generation: 2, .. })));
    }
}

#[test]
fn who_joins_for_the_first_time_asks_whether_the_coordinator_is_there() {
    for loss in losses() {
        let mut scene = Scene::new(Cooperative);
        let Some(Action::Join { attempt: first, .. }) = scene.next() else { panic!() };
        assert_eq!((scene.next(), scene.member.wake_at()), (None, Some(scene.now + 3 * SECOND)));
        for code in [ErrorCode::UNKNOWN_MEMBER_ID, ErrorCode::ILLEGAL_GENERATION, ErrorCode::FENCED_INSTANCE_ID] {
            scene.heartbeat(Err(code.into()));
            assert_eq!(scene.next(), None, "{code}: it is there");
        }
        scene.heartbeat(Err(loss.clone()));
        scene.pass(SECOND);
        let all = scene.all();
        assert!(matches!(all.last(), Some(Action::Join { attempt, .. }) if *attempt != first), "{loss:?}: {all:?}");
        scene.pass(600 * SECOND);
        assert!(matches!(scene.all()[..], [Action::Heartbeat { generation: -1, .. }]), "no session ends meanwhile");
    }
}

#[test]
fn a_sync_is_not_left_to_a_coordinator_that_is_lost() {
    for loss in losses() {
        let mut scene = Scene::new(Cooperative);
        let Some(Action::Join { attempt, .. }) = scene.next() else { panic!() };
        scene.joined(attempt, 4);
        let Some(Action::Sync { .. }) = scene.next() else { panic!() };
        scene.heartbeat(Err(loss.clone()));
        scene.pass(SECOND);
        let joins = scene.all().into_iter().filter(|action| matches!(action, Action::Join { .. })).count();
        assert_eq!(joins, 1, "{loss:?}");
    }
}

#[test]
fn a_session_that_ends_while_a_join_is_held_ends_the_join() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    let Some(Action::Join { attempt: first, .. }) = scene.next() else { panic!() };
    // Whose answer never comes.
    scene.pass(3 * SECOND);
    assert!(matches!(scene.next(), Some(Action::Heartbeat { .. })));
    scene.pass(45 * SECOND);
    let actions = scene.all();
    let [Action::Lose { .. }, Action::ForgetCoordinator, Action::Join { attempt, generation: -1, .. }] = &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_ne!(*attempt, first);
}

#[test]
fn a_cooperative_member_gives_up_what_moves_and_only_then_joins_again() {
    let mut scene = Scene::stable(Cooperative, &[0, 1, 2, 3]);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    let actions = scene.join(2, &[0, 1, 7]);
    let [Action::Revoke { attempt, partitions }, Action::Adopt { added, .. }] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!((partitions, added), (&tps(&[2, 3]), &tps(&[7])));
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    assert_eq!(scene.next(), None, "it waits until everything is released");
    assert!(scene.member.may_commit(), "what is given up is committed first");
    scene.member.on_revoked(*attempt, scene.now, &tps(&[2, 3]));
    assert!(matches!(scene.next(), Some(Action::Join { owned, generation: 2, .. }) if owned == tps(&[0, 1, 7])));
}

#[test]
fn a_generation_that_is_held_does_not_end_until_it_is_let_go() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.member.set_held(true);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    assert_eq!(scene.next(), None);
    assert_eq!(scene.member.wake_at(), Some(scene.now + 3 * SECOND), "heartbeats go on");
    scene.member.set_held(false);
    assert!(matches!(scene.next(), Some(Action::Join { generation: 1, .. })));
    // Who is no member any more has no generation to hold.
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.member.set_held(true);
    scene.heartbeat(Err(ErrorCode::UNKNOWN_MEMBER_ID.into()));
    scene.pass(SECOND);
    assert!(matches!(scene.all()[..], [Action::Lose { .. }, Action::Join { .. }]));
}

#[test]
fn an_eager_member_gives_up_everything_before_it_joins() {
    let mut scene = Scene::stable(Eager, &[0, 1]);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    let Some(Action::Revoke { attempt, partitions }) = scene.next() else { panic!() };
    assert_eq!((scene.next(), partitions.len()), (None, 2));
    scene.member.on_revoked(attempt, scene.now, &partitions);
    assert!(matches!(scene.next(), Some(Action::Join { owned, .. }) if owned.is_empty()));
}

#[test]
fn an_unknown_member_loses_everything_and_starts_anew() {
    let mut scene = Scene::stable(Cooperative, &[0, 1]);
    scene.heartbeat(Err(ErrorCode::UNKNOWN_MEMBER_ID.into()));
    assert_eq!(scene.next(), Some(Action::Lose { partitions: tps(&[0, 1]) }));
    scene.pass(SECOND);
    assert!(
        matches!(scene.next(), Some(Action::Join { member_id, owned, .. }) if member_id.is_empty() && owned.is_empty())
    );
}

#[test]
fn an_illegal_generation_keeps_the_member_id() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.heartbeat(Err(ErrorCode::ILLEGAL_GENERATION.into()));
    assert!(matches!(scene.next(), Some(Action::Lose { .. })));
    scene.pass(SECOND);
    assert!(matches!(scene.next(), Some(Action::Join { member_id, generation: -1, .. }) if &*member_id == "me"));
}

#[test]
fn a_session_without_answers_ends_here_too() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.heartbeat(Err(Failure::NoAnswer));
    let mut lost = Vec::new();
    while lost.len() < 3 {
        scene.pass(SECOND);
        match scene.next() {
            Some(Action::Heartbeat { attempt, .. }) => {
                scene.member.on_heartbeat(attempt, scene.now, &mut scene.rng, Err(Failure::NoAnswer));
            }
            Some(action) => lost.push(action),
            None => {}
        }
    }
    assert!(matches!(&lost[..], [Action::Lose { .. }, Action::ForgetCoordinator, Action::Join { .. }]), "{lost:?}");
}

#[test]
fn a_fenced_instance_and_a_refused_group_are_the_end() {
    for code in [ErrorCode::FENCED_INSTANCE_ID, ErrorCode::GROUP_AUTHORIZATION_FAILED] {
        let mut scene = Scene::stable(Cooperative, &[0]);
        scene.heartbeat(Err(code.into()));
        assert_eq!(scene.all(), [Action::Lose { partitions: tps(&[0]) }, Action::Fail(code)]);
        scene.pass(100 * SECOND);
        assert_eq!((scene.next(), scene.member.wake_at()), (None, None));
    }
    let mut scene = Scene::new(Cooperative);
    let Some(Action::Join { attempt, .. }) = scene.next() else { panic!() };
    let code = ErrorCode::INCONSISTENT_GROUP_PROTOCOL;
    scene.member.on_joined(attempt, scene.now, &mut scene.rng, Err(code.into()));
    assert_eq!(scene.all(), [Action::Fail(code)]);
}

#[test]
fn a_coordinator_that_moved_is_looked_up_and_a_loading_one_asked_again() {
    let mut scene = Scene::new(Cooperative);
    for (code, forgets) in [(ErrorCode::NOT_COORDINATOR, true), (ErrorCode::COORDINATOR_LOAD_IN_PROGRESS, false)] {
        let Some(Action::Join { attempt, .. }) = scene.next() else { panic!("{code}") };
        scene.member.on_joined(attempt, scene.now, &mut scene.rng, Err(code.into()));
        assert_eq!(scene.next(), forgets.then_some(Action::ForgetCoordinator));
        assert_eq!(scene.next(), None, "not before the back-off");
        scene.pass(SECOND);
    }
    scene.join(1, &[0]);
    scene.heartbeat(Err(ErrorCode::NOT_COORDINATOR.into()));
    assert_eq!(scene.next(), Some(Action::ForgetCoordinator));
    scene.pass(SECOND);
    assert!(matches!(scene.next(), Some(Action::Heartbeat { .. })), "the membership is kept");
}

#[test]
fn a_sync_overtaken_by_another_rebalance_keeps_what_is_owned() {
    let mut scene = Scene::stable(Cooperative, &[0, 1]);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    let Some(Action::Join { attempt, .. }) = scene.next() else { panic!() };
    scene.joined(attempt, 2);
    let Some(Action::Sync { attempt, .. }) = scene.next() else { panic!() };
    scene.member.on_synced(attempt, scene.now, &mut scene.rng, Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    assert!(matches!(scene.next(), Some(Action::Join { owned, .. }) if owned == tps(&[0, 1])));
}

#[test]
fn late_answers_are_ignored() {
    let mut scene = Scene::new(Cooperative);
    let Some(Action::Join { attempt: first, .. }) = scene.next() else { panic!() };
    scene.member.on_joined(first, scene.now, &mut scene.rng, Err(Failure::NoAnswer));
    scene.pass(SECOND);
    let Some(Action::Join { attempt: second, .. }) = scene.next() else { panic!() };
    scene.joined(first, 9);
    assert_eq!(scene.next(), None, "the first join's answer is of an earlier life");
    scene.joined(second, 10);
    assert!(matches!(scene.next(), Some(Action::Sync { generation: 10, .. })));
    scene.member.on_heartbeat(77, scene.now, &mut scene.rng, Err(ErrorCode::UNKNOWN_MEMBER_ID.into()));
    scene.member.on_commit_refused(3, scene.now, &mut scene.rng, ErrorCode::ILLEGAL_GENERATION);
    assert_eq!(scene.member.identity().1, 10);
}

#[test]
fn a_user_that_does_not_poll_leaves_and_comes_back_when_it_does() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.member.on_poll_timeout();
    let expected = [Action::Leave { member_id: "me".into() }, Action::Lose { partitions: tps(&[0]) }];
    assert_eq!(scene.all(), expected);
    scene.pass(100 * SECOND);
    assert_eq!(scene.next(), None);
    scene.member.on_activity(scene.now);
    assert!(matches!(scene.next(), Some(Action::Join { member_id, .. }) if member_id.is_empty()));
}

#[test]
fn closing_leaves_the_group_unless_the_member_is_static() {
    let mut scene = Scene::stable(Cooperative, &[]);
    scene.member.leave();
    assert_eq!(scene.all(), [Action::Leave { member_id: "me".into() }]);
    let mut scene = Scene::stable(Cooperative, &[]);
    scene.member.settings.is_static = true;
    scene.member.leave();
    assert_eq!((scene.all(), scene.member.wake_at()), (vec![], None));
}

#[test]
fn a_refused_commit_of_this_generation_ends_the_membership() {
    let mut scene = Scene::stable(Cooperative, &[0]);
    scene.member.on_commit_refused(1, scene.now, &mut scene.rng, ErrorCode::UNKNOWN_MEMBER_ID);
    assert_eq!(scene.next(), Some(Action::Lose { partitions: tps(&[0]) }));
}

#[test]
fn losing_the_membership_ends_a_revocation_that_is_under_way() {
    let mut scene = Scene::stable(Cooperative, &[0, 1]);
    scene.heartbeat(Err(ErrorCode::REBALANCE_IN_PROGRESS.into()));
    let actions = scene.join(2, &[0]);
    let Action::Revoke { attempt, partitions } = &actions[0] else { panic!() };
    scene.heartbeat(Err(ErrorCode::UNKNOWN_MEMBER_ID.into()));
    assert_eq!(scene.next(), Some(Action::Lose { partitions: tps(&[0, 1]) }));
    scene.member.on_revoked(*attempt, scene.now, partitions);
    assert_eq!(scene.member.owned().count(), 0);
}

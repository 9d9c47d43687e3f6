use super::*;

const MAX_LAG: Duration = Duration::from_secs(30);
const FORKS: &[Fork] = &[Fork { timeline: 1, at: Lsn::new(900) }, Fork { timeline: 2, at: Lsn::new(2000) }];

/// Replicas of system 7 on timeline 3, and a clock.
struct Scene {
    replicas: Replicas,
    now: Instant,
    /// The present run of every replica's server.
    run: i64,
}

impl Scene {
    fn of(count: usize) -> Scene {
        let now = Instant::now();
        let mut replicas = Replicas::new(count, MAX_LAG, now);
        replicas.opened(7, 3, FORKS);
        replicas.source_takes_writes(true);
        Scene { replicas, now, run: 1 }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn want(&mut self, at: u64) {
        self.replicas.want(Lsn::new(at), self.now);
    }

    /// A replica gives a valid answer.
    fn says(&mut self, index: usize, replayed: u64) {
        self.says_of(index, 7, 3, Some(replayed));
    }

    fn says_of(&mut self, index: usize, system_id: u64, timeline: u32, replayed: Option<u64>) {
        let seen = ReplicaSeen { system_id, timeline, replayed: replayed.map(Lsn::new), run: self.run };
        self.replicas.answered(index, seen, self.now);
    }

    fn turns(&mut self) -> Vec<Turn> {
        std::iter::from_fn(|| self.replicas.turn(self.now)).collect()
    }

    fn replayed(&self) -> u64 {
        self.replicas.replayed().as_u64()
    }
}

fn left(replica: usize, why: Absent) -> Vec<Turn> {
    vec![Turn::Left { replica, why }]
}

fn returned(replica: usize, since: u64) -> Vec<Turn> {
    vec![Turn::Returned { replica, since: Lsn::new(since) }]
}

const ALL: u64 = u64::MAX;

#[test]
fn the_slowest_decides_and_none_keeps_nobody_waiting() {
    let mut scene = Scene::of(2);
    assert_eq!(scene.replayed(), 0, "nothing is known");
    scene.says(0, 2500);
    assert_eq!(scene.replayed(), 0);
    scene.says(1, 2400);
    assert_eq!(scene.replayed(), 2400);
    let mut none = Scene::of(0);
    none.want(2500);
    assert!(none.replicas.is_empty() && none.replicas.wanted() == Lsn::ZERO);
    assert_eq!((none.replayed(), none.turns()), (ALL, vec![]));
}

#[test]
fn what_is_wanted_is_the_furthest_until_all_have_it() {
    let mut scene = Scene::of(2);
    let wanted = |scene: &Scene| scene.replicas.wanted().as_u64();
    scene.want(2500);
    scene.pass(5);
    scene.want(2600);
    scene.pass(5);
    scene.want(2550);
    assert_eq!(wanted(&scene), 2600, "it never goes back");
    scene.says(0, 2700);
    scene.says(1, 2600);
    assert_eq!(wanted(&scene), 2600, "the record at 2600 is replayed when more than that is");
    scene.says(1, 2601);
    assert_eq!((wanted(&scene), scene.replicas.marks.len()), (0, 0));
}

#[test]
fn one_that_is_behind_for_too_long_leaves_and_returns_when_it_is_well_below() {
    let mut scene = Scene::of(2);
    scene.says(0, 2500);
    scene.says(1, 2500);
    scene.want(2500);
    for _ in 0..3 {
        scene.pass(10);
        scene.says(0, 2501);
        scene.says(1, 2500);
        assert_eq!((scene.turns(), scene.replayed()), (vec![], 2500));
    }
    scene.pass(1);
    assert_eq!(scene.turns(), left(1, Absent::Behind(Duration::from_secs(31))));
    assert_eq!(scene.replayed(), 2501);
    let left: Vec<Option<Lsn>> = scene.replicas.each.iter().map(|replica| replica.left).collect();
    assert_eq!(left, [None, Some(Lsn::new(2500))]);
    // It has replayed that, but is always twenty seconds behind.
    for at in (2600..3000).step_by(100) {
        scene.want(at);
        scene.pass(20);
        scene.says(0, at + 1);
        scene.says(1, at - 1);
        assert_eq!(scene.turns(), []);
        scene.says(1, at + 1);
        scene.want(at + 50);
        scene.pass(16);
        scene.says(0, at + 51);
        scene.says(1, at + 1);
        assert_eq!(scene.turns(), [], "not well below");
    }
    scene.want(3000);
    scene.pass(15);
    scene.says(1, 3000);
    assert_eq!(scene.turns(), returned(1, 2500));
    assert_eq!(scene.replayed(), 2951);
}

#[test]
fn one_that_says_nothing_leaves_also_where_nothing_is_wanted() {
    let mut scene = Scene::of(1);
    scene.says(0, 2500);
    scene.pass(30);
    assert_eq!(scene.turns(), []);
    scene.pass(1);
    assert_eq!(scene.turns(), left(0, Absent::Silent(Duration::from_secs(31))));
    assert_eq!(scene.replayed(), ALL);
    scene.pass(100);
    scene.says(0, 2500);
    assert_eq!((scene.turns(), scene.replayed()), (returned(0, 2500), 2500));
    // A replica that has never answered.
    let mut scene = Scene::of(1);
    scene.pass(31);
    assert_eq!(scene.turns(), left(0, Absent::Silent(Duration::from_secs(31))));
    scene.says(0, 2500);
    assert_eq!(scene.turns(), returned(0, 0));
}

#[test]
fn what_is_no_replica_of_the_source_counts_for_nothing_and_leaves_with_its_reason() {
    for (system_id, timeline, replayed, why) in [
        (8, 3, Some(9000), Absent::OtherDatabase { system_id: 8 }),
        (7, 4, Some(9000), Absent::OtherTimeline { timeline: 4 }),
        (7, 0, Some(9000), Absent::OtherTimeline { timeline: 0 }),
        (7, 4, None, Absent::Primary { timeline: 4 }),
        (7, 2, None, Absent::Primary { timeline: 2 }),
    ] {
        let mut scene = Scene::of(1);
        scene.says(0, 2500);
        scene.want(2600);
        for _ in 0..3 {
            scene.pass(10);
            scene.says_of(0, system_id, timeline, replayed);
            assert_eq!((scene.turns(), scene.replayed()), (vec![], 2500), "{why:?}");
        }
        scene.pass(1);
        assert_eq!(scene.turns(), left(0, why));
        assert_eq!(scene.replayed(), ALL);
        scene.says_of(0, system_id, timeline, replayed);
        assert_eq!(scene.turns(), []);
        scene.says(0, 2601);
        assert_eq!(scene.turns(), returned(0, 2500));
    }
}

#[test]
fn one_that_follows_an_earlier_timeline_counts_up_to_where_the_source_left_it() {
    let mut scene = Scene::of(1);
    for (timeline, replayed, counts) in [(1, 800, 800), (1, 950, 900), (2, 950, 950), (2, 5000, 2000), (3, 5000, 5000)]
    {
        scene.says_of(0, 7, timeline, Some(replayed));
        assert_eq!(scene.replayed(), counts, "{replayed} on {timeline}");
    }
}

#[test]
fn the_source_itself_may_be_listed() {
    let mut scene = Scene::of(1);
    scene.want(2500);
    scene.says_of(0, 7, 3, None);
    assert_eq!((scene.replayed(), scene.replicas.wanted()), (ALL, Lsn::ZERO));
    // If the source is a standby, a server that takes writes is not the source.
    scene.replicas.source_takes_writes(false);
    scene.replicas.opened(7, 3, FORKS);
    scene.says_of(0, 7, 3, None);
    assert_eq!(scene.replayed(), 0);
    scene.pass(31);
    assert_eq!(scene.turns(), left(0, Absent::Primary { timeline: 3 }));
    // The former source becomes a replica: it has not gone back.
    scene.replicas.source_takes_writes(true);
    scene.says_of(0, 7, 3, None);
    assert_eq!(scene.turns(), returned(0, 0));
    scene.says(0, 2500);
    assert_eq!((scene.turns(), scene.replayed()), (vec![], 2500));
}

#[test]
fn what_was_said_stays_true_when_the_source_is_opened_anew() {
    let mut scene = Scene::of(1);
    scene.says(0, 2500);
    scene.want(2600);
    scene.replicas.opened(7, 3, FORKS);
    assert_eq!((scene.replayed(), scene.replicas.wanted().as_u64()), (2500, 2600));
    scene.says(0, 2601);
    assert_eq!((scene.turns(), scene.replayed()), (vec![], 2601));
}

#[test]
fn what_another_history_has_instead_is_not_waited_for() {
    let fork = Fork { timeline: 3, at: Lsn::new(2550) };
    let mut scene = Scene::of(1);
    scene.says(0, 2500);
    scene.want(2500);
    scene.pass(31);
    assert_eq!(scene.turns().len(), 1);
    assert_eq!(scene.replicas.left(), Some(Lsn::new(2500)));
    scene.want(2600);
    scene.replicas.opened(7, 4, &[FORKS, &[fork]].concat());
    let marks: Vec<u64> = scene.replicas.marks.iter().map(|(at, _)| at.as_u64()).collect();
    assert_eq!((marks, scene.replicas.wanted()), (vec![2500], Lsn::ZERO));
    // On another timeline than when it left, everything after the fork counts as missed.
    scene.replicas.opened(7, 5, &[Fork { timeline: 4, at: Lsn::new(1000) }]);
    scene.says_of(0, 7, 5, Some(2700));
    assert_eq!(scene.turns(), returned(0, 1000));
    // On another database, everything counts as missed.
    scene.pass(31);
    assert_eq!(scene.turns().len(), 1);
    scene.replicas.opened(8, 5, &[]);
    scene.says_of(0, 8, 5, Some(100));
    assert_eq!(scene.turns(), returned(0, 0));
}

#[test]
fn one_that_has_gone_back_leaves_and_returns_since_where_it_went() {
    let mut scene = Scene::of(1);
    scene.says(0, 2500);
    scene.says(0, 2300);
    scene.says(0, 2400);
    let to = Lsn::new(2300);
    assert_eq!(scene.turns(), [left(0, Absent::Back { to }), returned(0, 2300)].concat());
    assert_eq!(scene.replayed(), 2400);
    // It goes back while it is not waited for.
    scene.want(2400);
    scene.pass(31);
    assert_eq!(scene.turns().len(), 1);
    scene.says(0, 2200);
    scene.says(0, 2401);
    assert_eq!(scene.turns(), returned(0, 2200));
}

#[test]
fn readers_rely_on_one_that_has_replayed_what_had_settled_when_it_was_waited_for() {
    let mut scene = Scene::of(1);
    let relied_on = |scene: &mut Scene, reached: Option<u64>| {
        let reached = reached.map(Lsn::new);
        scene.replicas.are_relied_on(reached).collect::<Vec<bool>>() == [true]
    };
    scene.says(0, 2500);
    assert!(!relied_on(&mut scene, None), "another process may have settled more without it");
    assert!(!relied_on(&mut scene, Some(2600)));
    scene.says(0, 2600);
    assert!(relied_on(&mut scene, Some(2900)), "what settles from then on waits for it");
    scene.want(3000);
    scene.pass(31);
    scene.says(0, 2700);
    assert_eq!(scene.turns().len(), 1);
    assert!(!relied_on(&mut scene, Some(3100)));
    scene.pass(1);
    scene.want(3200);
    scene.says(0, 3100);
    assert_eq!(scene.turns(), returned(0, 2700));
    assert!(!relied_on(&mut scene, Some(3200)), "it lacks a bit, which has settled");
    scene.says(0, 3201);
    assert!(relied_on(&mut scene, Some(3300)));
}

#[test]
fn a_day_of_commits_for_one_that_is_away_takes_little_memory_and_says_for_how_long_it_is_behind() {
    let mut scene = Scene::of(2);
    scene.says(1, 2500);
    for second in 0..86_400 {
        scene.want(3000 + second);
        scene.pass(1);
        scene.says(0, 3001 + second);
        scene.says(1, 2500);
        let turns = scene.turns();
        assert_eq!(turns.is_empty(), second != 30, "{second}: {turns:?}");
    }
    assert!(scene.replicas.marks.len() <= 2 * MARKS as usize);
    assert_eq!(scene.replicas.wanted().as_u64(), 3000 + 86_399);
    // All but the last ten seconds are replayed.
    scene.says(1, 3000 + 86_390);
    assert_eq!(scene.turns(), returned(1, 2500));
}

#[test]
fn a_position_is_never_taken_to_be_younger_than_it_is_and_older_by_little() {
    let mut scene = Scene::of(1);
    scene.says(0, 2500);
    for at in 2500..5500 {
        scene.want(at);
        scene.now += Duration::from_millis(10);
    }
    for (replayed, age) in [(2500_u64, 30_000_u64), (3500, 20_000), (5499, 10)] {
        scene.says(0, replayed);
        let (lag, _) = scene.replicas.lag(&scene.replicas.each[0], scene.now);
        let (age, coarse) = (Duration::from_millis(age), MAX_LAG / MARKS + Duration::from_millis(10));
        assert!(lag >= age && lag <= age + coarse, "{lag:?} instead of {age:?}");
    }
}

#[test]
fn one_that_was_restarted_leaves_and_returns_however_far_it_is_when_it_answers() {
    let mut scene = Scene::of(1);
    scene.says(0, 2500);
    scene.run += 1;
    scene.says(0, 2600);
    assert_eq!(scene.turns(), [left(0, Absent::Restarted), returned(0, 0)].concat());
    scene.says(0, 2700);
    assert_eq!(scene.turns(), [], "once");
}

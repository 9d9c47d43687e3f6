//! The cost for writers: transactions per second of several sessions that write as fast as they can. It compares no
//! follower, the floor, coherd, and the two usual ways that need no log: a trigger that notifies a listener, and a
//! trigger that fills an outbox table for a poller. Rounds alternate, and each is compared with its own round without a
//! follower.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::floor::Cache as Unlinks;
use crate::live::{ROWS, Stage, unfollow};
use crate::meter::median;
use crate::options::{Consumer, Options, Transport, Word, number};
use crate::report::Report;

const SESSIONS: u64 = 4;

/// The poll interval of the outbox.
const POLL: Duration = Duration::from_millis(10);

/// How keys are invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Nobody,
    By(Consumer),
    Outbox,
}

/// The ways to compare, in the order in which they are shown. The first two are what the others are compared with.
fn ways(options: &Options) -> Vec<(Way, &'static str)> {
    let by = |consumer: Consumer| (Way::By(consumer), consumer.word());
    let mut ways = vec![(Way::Nobody, "a slot that nobody drains"), by(Consumer::Floor), by(Consumer::Coherd)];
    if options.consumers.contains(&Consumer::Before) {
        ways.push(by(Consumer::Before));
    }
    let notify = (Way::By(Consumer::Notify), "trigger + NOTIFY");
    ways.extend([notify, (Way::Outbox, "outbox table, polled every 10 ms")]);
    ways
}

/// Measures every way, in alternating rounds.
pub(crate) fn run(options: &Options, report: &mut Report) {
    let time = Duration::from_secs_f64(number("WRITERS_SECONDS", 4.0));
    let ways = ways(options);
    let mut stage = Stage::set();
    stage.database.run(
        "CREATE TABLE polled (LIKE items INCLUDING ALL); INSERT INTO polled SELECT * FROM items;
         CREATE TABLE outbox (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, key text NOT NULL);
         CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN INSERT INTO outbox (key) VALUES ('item:' || NEW.id); RETURN NULL; END $$;
         CREATE TRIGGER keep AFTER UPDATE ON polled FOR EACH ROW EXECUTE FUNCTION keep();",
    );
    stage.database.run("SELECT pg_create_logical_replication_slot('undrained', 'pgoutput')");
    stage.database.run("VACUUM ANALYZE");
    let mut rounds: Vec<Vec<f64>> = Vec::new();
    one(&mut stage, Way::Nobody, time / 2); // the first run finds everything cold
    for round in 0..options.rounds.max(5) {
        let mut tps = vec![0.0; ways.len()];
        // Each round begins with another way, so that no way always has the same place.
        for place in 0..ways.len() {
            let way = (place + round) % ways.len();
            tps[way] = one(&mut stage, ways[way].0, time);
        }
        rounds.push(tps);
    }
    for (place, (_, name)) in ways.iter().enumerate() {
        let tps = median(rounds.iter().map(|round| round[place]));
        let ratio_to = |other: usize| median(rounds.iter().map(|round| round[place] / round[other]));
        let each: Vec<u64> = rounds.iter().map(|round| round[place] as u64).collect();
        report.row(
            "writers",
            &[
                ("followed by", json!(name)),
                ("tps", json!(tps.round())),
                ("÷ nobody", json!(ratio_to(0))),
                ("÷ floor", json!(ratio_to(1))),
                ("rounds, tps", json!(each)),
            ],
        );
    }
}

/// Measures one way. Returns transactions per second.
fn one(stage: &mut Stage, way: Way, time: Duration) -> f64 {
    let mut sql = stage.database.client();
    // Dead rows of the previous round would slow the next one down.
    sql.run("VACUUM");
    sql.run("CHECKPOINT");
    let follower = match way {
        Way::By(consumer) => Some((stage.follow(&mut sql, "followed", consumer, Transport::Tcp), consumer)),
        Way::Nobody | Way::Outbox => None,
    };
    let stage = &*stage;
    let (over, ready) = (AtomicBool::new(false), AtomicBool::new(way != Way::Outbox));
    let tps = std::thread::scope(|scope| {
        let helper = scope.spawn(|| {
            if way == Way::Outbox {
                poll(stage, &ready, &over);
            }
        });
        while !ready.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let table = match way {
            Way::By(consumer) => consumer.table(),
            Way::Outbox => "polled",
            Way::Nobody => "items",
        };
        let began = Instant::now();
        let writers: Vec<_> =
            (0..SESSIONS).map(|writer| scope.spawn(move || write(stage, table, writer, time))).collect();
        let done: u64 = writers.into_iter().map(|writer| writer.join().expect("it writes")).sum();
        let tps = done as f64 / began.elapsed().as_secs_f64();
        over.store(true, Ordering::SeqCst);
        helper.join().expect("it helps");
        tps
    });
    if let Some((follower, consumer)) = follower {
        unfollow(follower, &mut sql, "followed", consumer);
    }
    tps
}

fn write(stage: &Stage, table: &str, writer: u64, time: Duration) -> u64 {
    let (mut session, mut done, began) = (stage.session(), 0, Instant::now());
    while began.elapsed() < time {
        // Far apart, so that no two writers conflict.
        let id = (done * 7919 * SESSIONS + writer) % ROWS + 1;
        session.run(&format!("UPDATE {table} SET n = n + 1 WHERE id = {id}"));
        done += 1;
    }
    done
}

/// The poller: reads and deletes the rows of the outbox.
fn poll(stage: &Stage, ready: &AtomicBool, over: &AtomicBool) {
    let (mut session, mut cache) = (stage.session(), Unlinks::connect(&stage.cache.address(Transport::Tcp)));
    ready.store(true, Ordering::SeqCst);
    while !over.load(Ordering::SeqCst) {
        for key in session.texts("DELETE FROM outbox RETURNING key") {
            cache.unlink(b"", key.as_bytes());
        }
        cache.send();
        cache.confirmed();
        std::thread::sleep(POLL);
    }
}

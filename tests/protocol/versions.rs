//! `coherd_version`, and that it uses the same pointer as the daemon's bump.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coherd::targets::{FaultKind, Target};
use coherd::types::invalidation::Action;

use super::{in_each_form, in_each_form_on, told};
use crate::support::Redis;
use crate::targets::{deliver, delivery, open_url};

fn now_us() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

/// Bumps `key` as the daemon does.
fn bump(target: &dyn Target, key: &str) -> Result<(), FaultKind> {
    let runtime = tokio::runtime::Handle::current();
    let delivery = delivery(1, &[(Action::Bump, key)]);
    runtime.block_on(deliver(target, &delivery)).map(drop).map_err(|fault| fault.kind)
}

#[test]
fn a_pointer_is_made_from_the_clock_and_stays_until_it_is_moved() {
    in_each_form(|reader| {
        let before = now_us();
        let version = reader.version("p");
        assert!((before..=now_us()).contains(&version), "{version}");
        for _ in 0..3 {
            assert_eq!(reader.version("p"), version);
        }
        assert_eq!(reader.raw(b"p:version").unwrap(), version.to_string().into_bytes());
        assert!(reader.version("q") > version);
        assert!(reader.version("") > version, "the empty key has a pointer too");
    });
}

#[test]
fn a_pointer_that_is_asked_for_lives_on() {
    in_each_form(|reader| {
        let mut ttl_after = |found: &str, asked: &[&str]| -> i64 {
            let () = reader.run(&["SET", "p:version", "5"]).unwrap();
            let () = reader.run(&["PEXPIRE", "p:version", found]).unwrap();
            reader.call("version", &["p:version"], asked).unwrap();
            assert_eq!(reader.raw(b"p:version").unwrap(), b"5");
            reader.run(&["PTTL", "p:version"]).unwrap()
        };
        let day = Duration::from_hours(24).as_millis();
        let day = i64::try_from(day).unwrap();
        assert!((day - 60_000..=day).contains(&ttl_after("60000", &[])), "a day by default");
        assert!((540_000..=600_000).contains(&ttl_after("60000", &["600000"])));
        assert!((340_000..=400_000).contains(&ttl_after("400000", &["600000"])), "more than half is left");
        assert!((840_000..=900_000).contains(&ttl_after("900000", &["600000"])), "it is never shortened");
        let () = reader.run(&["SET", "p:version", "5"]).unwrap();
        reader.call("version", &["p:version"], &["600000"]).unwrap();
        assert!(reader.run::<i64>(&["PTTL", "p:version"]).unwrap() > 0, "one that would live for ever");
        reader.unlink(b"p:version");
        reader.call("version", &["p:version"], &["600000"]).unwrap();
        assert!((540_000..=600_000).contains(&reader.run::<i64>(&["PTTL", "p:version"]).unwrap()));
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_pointer_shows_no_number_twice_whoever_makes_moves_or_evicts_it() {
    let server = Redis::start();
    let target = open_url(&server.url());
    tokio::task::block_in_place(|| {
        in_each_form_on(&server, |reader| {
            let mut seen = vec![reader.version("p")];
            for round in 0..200 {
                match round % 4 {
                    0 | 2 => bump(&*target, "p").unwrap(),
                    1 => drop(reader.unlink(b"p:version")),
                    _ => {
                        reader.unlink(b"p:version");
                        bump(&*target, "p").unwrap();
                    }
                }
                seen.push(reader.version("p"));
            }
            assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
            // The same delivery again, and with a pointer far ahead of the clock.
            let ahead = now_us() + 3_600_000_000;
            let () = reader.run(&["SET", "p:version", &ahead.to_string()]).unwrap();
            for step in 1..=3 {
                bump(&*target, "p").unwrap();
                assert_eq!(reader.version("p"), ahead + step);
            }
        });
    });
}

/// Bumps. Returns whether the pointer's previous value was replaced.
fn replaced_by_a_bump(target: &dyn Target, key: &str) -> bool {
    let bump = delivery(1, &[(Action::Bump, key)]);
    let delivered = tokio::runtime::Handle::current().block_on(deliver(target, &bump)).expect("delivers");
    assert_eq!(delivered.hit, 1);
    !delivered.replaced.keys.is_empty()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_reader_is_given_a_pointer_that_a_bump_replaces() {
    let server = Redis::start();
    let target = open_url(&server.url());
    let contents = ["0", "7", "007", "9007199254740989", "9007199254740990", "9007199254740991", "9007199254740992"];
    let contents = contents.iter().chain(&["99999999999999999999", "", " 7", "7 ", "-5", "0x10", "1e3", "1.5", "soon"]);
    let contents: Vec<&str> = contents.copied().collect();
    tokio::task::block_in_place(|| {
        in_each_form_on(&server, |reader| {
            for text in &contents {
                let () = reader.run(&["SET", "p:version", text]).unwrap();
                let read = reader.call("version", &["p:version"], &[]);
                if let Err(error) = &read {
                    let expected = format!("holds \"{text}\", expected an integer below 2^53 - 1");
                    assert!(told(error).starts_with("WRONGTYPE coherd_version: "), "{error}");
                    assert!(told(error).contains(&expected), "{error}");
                    assert_eq!(reader.raw(b"p:version").unwrap(), text.as_bytes(), "left alone");
                }
                assert_eq!(replaced_by_a_bump(&*target, "p"), read.is_err(), "{text:?}: {read:?}");
                assert!(reader.version("p") > 1 << 50, "{text:?}: one that moves on");
            }
            reader.unlink(b"p:version");
            let () = reader.run(&["RPUSH", "p:version", "1"]).unwrap();
            let error = reader.call("version", &["p:version"], &[]).unwrap_err();
            assert_eq!(error.code(), Some("WRONGTYPE"), "{error}");
            assert!(replaced_by_a_bump(&*target, "p") && reader.version("p") > 1 << 50);
        });
    });
}

#[test]
fn a_wrong_call_says_what_was_got_and_what_is_expected() {
    in_each_form(|reader| {
        let wrong: &[(&[&str], &[&str], &str)] = &[
            (&[], &[], "got 0 keys and 0 arguments, expected key KEY:version and argument TTL_MS, or none"),
            (&["p:version", "q:version"], &[], "got 2 keys and 0 arguments"),
            (&["p:version"], &["1", "2"], "got 1 key and 2 arguments"),
            (&["p"], &[], r#"got "p", expected KEY:version"#),
            (&["p:versions"], &[], r#"got "p:versions", expected KEY:version"#),
            (&["p:version"], &["0"], r#"got "0" as TTL_MS, expected milliseconds"#),
            (&["p:version"], &["1d"], r#"got "1d" as TTL_MS"#),
        ];
        for &(keys, arguments, expected) in wrong {
            let text = told(&reader.call("version", keys, arguments).expect_err(expected));
            assert!(text.starts_with("ERR coherd_version: ") && text.contains(expected), "{text}");
        }
        assert_eq!(reader.run::<u64>(&["DBSIZE"]).unwrap(), 0);
    });
}

//! `coherd_get` and `coherd_fill`, step by step.

use redis::Value;

use super::{Form, Got, NONCE, Reader, in_each_form, in_each_form_on, lease_of, told};
use crate::support::process::free_port;
use crate::support::{Redis, until};

/// Keys of every shape, and whether each shares a cluster slot with its lease.
pub const SHAPES: &[(&[u8], bool)] = &[
    (b"user:1", true),
    (b"user:{1}", true),
    (b"user:{1}:profile:{2}", true),
    (b"{1}", true),
    (b"a}{b}c", true),
    (b"{{1}}", true),
    (b"open{", true),
    (b"{open", true),
    (b"two{{open", true),
    (b" with space\r\n\0 and \xff\xfe bytes", true),
    ("ключ".as_bytes(), true),
    // The whole key is hashed, but no lease name can have the whole key as its hash tag.
    (b"closed}", false),
    (b"a}b{c", false),
    (b"empty{}tag", false),
    (b"{}{1}", false),
    (b"", false),
];

#[test]
fn a_miss_is_a_lease_for_the_first_and_the_same_lease_for_the_others_until_one_fills() {
    in_each_form(|reader| {
        for (key, _) in SHAPES {
            let token = reader.lease(key);
            for nonce in ["another reader's", "and one reader more"] {
                assert_eq!(reader.get_as(key, nonce), Got::Lease { token: token.clone(), first: false });
            }
            assert!(reader.fill(key, &token, b"v"), "{key:?}");
            assert_eq!(reader.get(key), Got::Value(b"v".to_vec()));
            assert_eq!(reader.raw(&lease_of(key)), None, "the lease is used up");
        }
    });
}

#[test]
fn lease_and_value_live_as_long_as_they_were_given() {
    in_each_form(|reader| {
        let (key, lease) = ("user:1", "{user:1}:lease");
        let token = reader.lease(b"user:1");
        let ttl: u64 = reader.run(&["PTTL", lease]).unwrap();
        assert!((50_000..=60_000).contains(&ttl), "{ttl}");
        // A later reader's time to live does not change the lease's.
        reader.call("get", &[key, lease], &["999999999999999", "0123456789abcdefg"]).unwrap();
        assert!(reader.run::<u64>(&["PTTL", lease]).unwrap() <= 60_000);
        assert!(reader.fill(b"user:1", &token, b"v"));
        let ttl: u64 = reader.run(&["PTTL", key]).unwrap();
        assert!((50_000..=60_000).contains(&ttl), "{ttl}");
    });
}

#[test]
fn a_reader_that_repeats_a_call_whose_reply_was_lost_is_still_the_first() {
    in_each_form(|reader| {
        let token = reader.lease(b"k");
        assert_eq!(reader.get(b"k"), Got::Lease { token: token.clone(), first: true });
        assert_eq!(reader.get_as(b"k", "89abcdef01234567"), Got::Lease { token, first: false });
    });
}

#[test]
fn a_slow_reader_whose_lease_was_invalidated_is_refused() {
    in_each_form(|reader| {
        let old = reader.lease(b"k");
        assert_eq!(reader.unlink(&lease_of(b"k")), 1);
        assert!(!reader.fill(b"k", &old, b"old"));
        // A lease that was granted since does not help it either, not even with the same nonce.
        let new = reader.lease(b"k");
        assert_ne!(old, new);
        assert!(!reader.fill(b"k", &old, b"old"));
        assert_eq!(reader.raw(b"k"), None);
        assert!(reader.fill(b"k", &new, b"new"));
        assert!(!reader.fill(b"k", &old, b"old"));
        assert_eq!(reader.raw(b"k").unwrap(), b"new");
    });
}

#[test]
fn an_expired_lease_elects_another_and_lets_the_late_one_fill_nothing() {
    in_each_form(|reader| {
        let reply = reader.call("get", &["k", "{k}:lease"], &["1", NONCE]).unwrap();
        let Value::Array(parts) = reply else { panic!("{reply:?}") };
        let Value::BulkString(late) = parts[1].clone() else { panic!("{parts:?}") };
        until("the lease has expired", || reader.raw(b"{k}:lease").is_none().then_some(()));
        assert!(!reader.fill(b"k", &late, b"late"));
        let token = reader.lease(b"k");
        assert!(!reader.fill(b"k", &late, b"late"));
        assert!(reader.fill(b"k", &token, b"v"));
    });
}

#[test]
fn one_lease_fills_once_whoever_of_its_readers_is_first() {
    in_each_form(|reader| {
        let token = reader.lease(b"k");
        // A later reader stopped waiting and read the database under the same lease.
        assert!(reader.fill(b"k", &token, b"a follower's"));
        assert!(!reader.fill(b"k", &token, b"the first one's"));
        assert_eq!(reader.raw(b"k").unwrap(), b"a follower's");
        // The value was evicted or invalidated. A fill from before that is still refused.
        reader.unlink(b"k");
        assert!(!reader.fill(b"k", &token, b"the first one's"));
    });
}

#[test]
fn a_value_that_somebody_stored_past_the_lease_is_given_and_then_replaced() {
    in_each_form(|reader| {
        let token = reader.lease(b"k");
        let () = reader.run(&["SET", "k", "past"]).unwrap();
        assert_eq!(reader.get(b"k"), Got::Value(b"past".to_vec()));
        assert!(reader.fill(b"k", &token, b"v"), "no change was invalidated since the lease");
        assert_eq!(reader.raw(b"k").unwrap(), b"v");
        assert!((1..=60_000).contains(&reader.run::<i64>(&["PTTL", "k"]).unwrap()));
    });
}

#[test]
fn any_bytes_are_a_value_also_none_and_very_many() {
    let every_byte: Vec<u8> = (0..=255).collect();
    let huge = vec![b'x'; 32 << 20];
    in_each_form(|reader| {
        for value in [b"".as_slice(), b"\0", b"0", b"nil", b"\r\n", &every_byte, &huge] {
            let token = reader.lease(b"k");
            assert!(reader.fill(b"k", &token, value));
            assert!(reader.get(b"k") == Got::Value(value.to_vec()), "{} bytes", value.len());
            reader.unlink(b"k");
        }
        let long = vec![b'k'; 64 << 10];
        let token = reader.lease(&long);
        assert!(reader.fill(&long, &token, b"v"));
    });
}

#[test]
fn a_call_that_is_wrong_says_what_was_got_and_what_is_expected_and_changes_nothing() {
    let get = "got 1 key and 2 arguments, expected keys KEY LEASE and arguments TTL_MS NONCE";
    let fill = "got 2 keys and 2 arguments, expected keys KEY LEASE and arguments TOKEN TTL_MS VALUE";
    let ttl = "as TTL_MS, expected milliseconds, 1 to 999999999999999";
    let long = "9".repeat(16);
    let wrong: &[(&str, &[&str], &[&str], &str)] = &[
        ("get", &["k"], &["1000", NONCE], get),
        ("get", &[], &["1000", NONCE], "got 0 keys and 2 arguments"),
        ("get", &["k", "{k}:lease", "x"], &["1000", NONCE], "got 3 keys and 2 arguments"),
        ("get", &["k", "{k}:lease"], &["1000"], "got 2 keys and 1 argument, expected"),
        ("get", &["k", "{k}:lease"], &["1000", NONCE, "x"], "got 2 keys and 3 arguments"),
        ("get", &["k", "k:lease"], &["1000", NONCE], r#"got "k:lease" as LEASE, expected "{k}:lease""#),
        ("get", &["{k}", "{{k}}:lease"], &["1000", NONCE], r#"expected "{k}:lease""#),
        ("get", &["k\n", "l"], &["1000", NONCE], r#"expected "{k\x0a}:lease""#),
        ("get", &["k", "{k}:lease"], &["0", NONCE], ttl),
        ("get", &["k", "{k}:lease"], &["-1", NONCE], r#"got "-1" as TTL_MS"#),
        ("get", &["k", "{k}:lease"], &["1.5", NONCE], ttl),
        ("get", &["k", "{k}:lease"], &["", NONCE], r#"got "" as TTL_MS"#),
        ("get", &["k", "{k}:lease"], &[" 1", NONCE], ttl),
        ("get", &["k", "{k}:lease"], &["1e3", NONCE], ttl),
        ("get", &["k", "{k}:lease"], &[&long, NONCE], ttl),
        ("get", &["k", "{k}:lease"], &["1000", "17"], "got 2 bytes as NONCE, expected 16 to 128 bytes of random text"),
        ("get", &["k", "{k}:lease"], &["1000", &"n".repeat(129)], "got 129 bytes as NONCE"),
        ("fill", &["k", "{k}:lease"], &["1-n", "1000"], fill),
        ("fill", &["k"], &["1-n", "1000", "v"], "got 1 key and 3 arguments"),
        ("fill", &["k", "{k}:lease"], &["1-n", "1000", "v", "x"], "got 2 keys and 4 arguments"),
        ("fill", &["k", "{x}:lease"], &["1-n", "1000", "v"], r#"got "{x}:lease" as LEASE, expected "{k}:lease""#),
        ("fill", &["k", "{k}:lease"], &["1-n", "soon", "v"], r#"got "soon" as TTL_MS"#),
        ("fill", &["k", "{k}:lease"], &["", "1000", "v"], r#"got "" as TOKEN, expected one that coherd_get gave"#),
        ("fill", &["k", "{k}:lease"], &["v", "1000", "1-n"], r#"got "v" as TOKEN"#),
    ];
    in_each_form(|reader| {
        for &(name, keys, arguments, expected) in wrong {
            let error = reader.call(name, keys, arguments).expect_err(expected);
            let text = told(&error);
            assert!(text.starts_with(&format!("ERR coherd_{name}: ")) && text.contains(expected), "{text}");
            assert!(text.len() < 400 && text.is_ascii(), "{text}");
        }
        assert_eq!(reader.run::<u64>(&["DBSIZE"]).unwrap(), 0);
    });
}

#[test]
fn a_key_or_a_lease_of_another_type_is_named_and_left_alone() {
    in_each_form(|reader| {
        let (keys, get) = (["k", "{k}:lease"], ["1000", NONCE]);
        let token = String::from_utf8(reader.lease(b"k")).unwrap();
        let () = reader.run(&["HSET", "k", "f", "v"]).unwrap();
        let fill = [token.as_str(), "1000", "v"];
        let error = reader.call("get", &keys, &get).unwrap_err();
        assert_eq!(told(&error), "WRONGTYPE coherd_get: KEY holds a hash, expected a string");
        let error = reader.call("fill", &keys, &fill).unwrap_err();
        assert_eq!(told(&error), "WRONGTYPE coherd_fill: KEY holds a hash, expected a string");
        assert!(reader.raw(b"{k}:lease").is_some() && reader.run::<bool>(&["HEXISTS", "k", "f"]).unwrap());
        let () = reader.run(&["DEL", "k", "{k}:lease"]).unwrap();
        let () = reader.run(&["RPUSH", "{k}:lease", "x"]).unwrap();
        let error = reader.call("get", &keys, &get).unwrap_err();
        assert_eq!(told(&error), "WRONGTYPE coherd_get: LEASE holds a list, expected a string");
        let error = reader.call("fill", &keys, &fill).unwrap_err();
        assert_eq!(told(&error), "WRONGTYPE coherd_fill: LEASE holds a list, expected a string");
        let () = reader.run(&["SET", "{k}:lease", "a dhcp lease"]).unwrap();
        let error = reader.call("get", &keys, &get).unwrap_err();
        assert!(told(&error).contains(r#"LEASE holds "a dhcp lease", expected a token"#), "{error}");
        assert_eq!(reader.raw(b"k"), None);
    });
}

#[test]
fn a_full_server_grants_nothing_and_stores_nothing() {
    let server = Redis::start_with(&["--maxmemory-policy", "noeviction"]);
    in_each_form_on(&server, |reader| {
        let token = reader.lease(b"k");
        let () = reader.run(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
        let fill = [token.as_slice(), b"1000", b"v"];
        let error = reader.call("fill", &[b"k".as_slice(), b"{k}:lease"], &fill).unwrap_err();
        assert!(error.to_string().contains("OOM"), "{error}");
        let error = reader.call("get", &["l", "{l}:lease"], &["1000", NONCE]).unwrap_err();
        assert!(error.to_string().contains("OOM"), "{error}");
        let () = reader.run(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
        assert!(reader.fill(b"k", &token, b"v"), "the lease still stands");
    });
}

#[test]
fn what_the_protocol_says_a_user_needs_is_enough() {
    let server = Redis::start();
    let mut admin = server.client();
    in_each_form_on(&server, |reader| {
        let how = if reader.form == Form::Function { "+fcall" } else { "+eval" };
        let rule = ["SETUSER", "reader", "reset", "on", ">pw", "~*", how];
        let commands = ["+get", "+set", "+del", "+type", "+time", "+pttl", "+pexpire"];
        let () = redis::cmd("ACL").arg(&rule).arg(&commands).query(&mut admin).unwrap();
        let () = redis::cmd("AUTH").arg(&["reader", "pw"]).query(&mut reader.connection).unwrap();
        let token = reader.lease(b"k");
        assert!(reader.fill(b"k", &token, b"v"));
        assert_eq!(reader.get(b"k"), Got::Value(b"v".to_vec()));
        reader.version("p");
        let () = redis::cmd("PEXPIRE").arg(&["p:version", "50000"]).query(&mut admin).unwrap();
        reader.version("p");
        let denied: Vec<Value> = redis::cmd("ACL").arg("LOG").query(&mut admin).unwrap();
        assert!(denied.is_empty(), "{denied:?}");
    });
}

/// A cluster of one node that owns every slot. Like any cluster, it refuses a call whose keys lie in two slots.
fn cluster() -> Redis {
    let port = free_port().to_string();
    let server = Redis::start_with(&["--cluster-enabled", "yes", "--cluster-port", &port]);
    let mut client = server.client();
    let () = redis::cmd("CLUSTER").arg(&["ADDSLOTSRANGE", "0", "16383"]).query(&mut client).unwrap();
    until("the cluster is up", || {
        let info: String = redis::cmd("CLUSTER").arg("INFO").query(&mut client).unwrap();
        info.contains("cluster_state:ok").then_some(())
    });
    server
}

#[test]
fn key_and_lease_share_a_slot_of_a_cluster_unless_the_protocol_says_otherwise() {
    if std::env::var_os("COHERD_TEST_REDIS").is_some() {
        // CLUSTER ADDSLOTSRANGE and cluster-port need Redis 7.
        return;
    }
    in_each_form_on(&cluster(), |reader: &mut Reader| {
        for &(key, shared) in SHAPES {
            let mut slot = |name: &[u8]| -> u64 {
                redis::cmd("CLUSTER").arg("KEYSLOT").arg(name).query(&mut reader.connection).unwrap()
            };
            let lease = lease_of(key);
            assert_eq!(slot(key) == slot(&lease), shared, "{:?}", String::from_utf8_lossy(key));
            if shared {
                let token = reader.lease(key);
                assert!(reader.fill(key, &token, b"v"));
            } else {
                let error = reader.call("get", &[key, &lease], &[b"1000", NONCE.as_bytes()]).unwrap_err();
                assert_eq!(error.code(), Some("CROSSSLOT"), "{error}");
            }
            reader.version(&format!("p{}", key.len()));
        }
    });
}

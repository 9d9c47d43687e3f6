//! Streaming from a slot.

use std::time::Duration;

use coherd::postgres::{ErrorKind, Frame, Intake, Source, SourceError, Stream};
use coherd::types::lsn::Lsn;

use super::{Followed, Got, ack, own_server, settled_text, source};
use crate::support::process::Signal;
use crate::support::{Database, until};

/// The kinds of the pgoutput messages, as letters.
fn kinds(got: &[Got]) -> String {
    got.iter()
        .filter_map(|got| match got {
            Got::Data(data) => Some(char::from(data[0])),
            Got::Position(_) => None,
        })
        .collect()
}

fn last_position(got: &[Got]) -> Option<Lsn> {
    got.iter().rev().find_map(|got| match got {
        Got::Position(at) => Some(*at),
        Got::Data(_) => None,
    })
}

fn a_row_arrives(followed: &mut Followed) {
    followed.database.run("INSERT INTO t VALUES (1, 'one')");
    let got = followed.read_until("a commit", |got| kinds(got).ends_with('C'));
    assert_eq!(kinds(&got), "BRIC");
    let end: Lsn = followed.database.client().one("SELECT pg_current_wal_flush_lsn()").parse().unwrap();
    followed.read_until("the end of the log", |got| last_position(got).is_some_and(|at| at >= end));
}

#[test]
fn a_row_arrives_as_begin_relation_insert_commit_and_then_the_position_follows() {
    a_row_arrives(&mut Followed::start());
}

#[test]
fn a_row_arrives_over_the_unix_socket() {
    let over_socket = |database: &Database| {
        let server = &database.server;
        format!("host={} port={} user=postgres dbname={}", server.socket_dir(), server.port(), database.name)
    };
    a_row_arrives(&mut Followed::on(Database::create(), over_socket));
}

#[test]
fn an_acknowledgement_moves_the_slot_and_an_older_one_does_not_move_it_back() {
    let mut followed = Followed::start();
    followed.database.run("INSERT INTO t VALUES (1)");
    let got = followed.read_until("a position", |got| kinds(got).ends_with('C') && last_position(got).is_some());
    let at = last_position(&got).unwrap();
    followed.stream.acknowledge(ack(at));
    followed.stream.acknowledge(ack(Lsn::new(1)));
    until("the slot is confirmed up to the acknowledgement", || {
        followed.poll_for(Duration::from_millis(10), Intake::Closed);
        (followed.slot("confirmed_flush_lsn").parse::<Lsn>().unwrap() == at).then_some(())
    });
}

#[test]
fn a_stream_that_reads_nothing_outlives_wal_sender_timeout_under_writes() {
    let server = own_server("wal_sender_timeout = 1s");
    let mut followed = Followed::on(Database::create_on(server), Database::dsn);
    let pid = followed.slot("active_pid");
    for round in 0..6 {
        // More than the sockets hold, so that the walsender cannot send all of it.
        let insert = format!(
            "INSERT INTO t SELECT {round} * 10000 + i, repeat(md5(i::text), 30) FROM generate_series(1, 5000) i"
        );
        followed.database.run(&insert);
        followed.poll_for(Duration::from_millis(500), Intake::Closed);
    }
    assert_eq!(followed.slot("active_pid"), pid);
    let got = followed.read_until("six commits", |got| kinds(got).matches('C').count() == 6);
    assert_eq!(kinds(&got).matches('I').count(), 30_000);
}

#[test]
fn a_stream_that_says_nothing_is_cut_off_and_lost() {
    let server = own_server("wal_sender_timeout = 1s");
    let mut followed = Followed::on(Database::create_on(server), Database::dsn);
    until("the server has cut the silent stream off", || (followed.slot("active") == "f").then_some(()));
    let error = followed.read_to_error();
    assert!(error.kind() == ErrorKind::Lost, "{error:?}");
}

#[test]
fn a_row_of_many_megabytes_arrives_without_its_large_value_and_the_ones_after_it_whole() {
    let mut followed = Followed::start();
    followed.database.run("INSERT INTO t VALUES (1, repeat('x', 20000000)); INSERT INTO t VALUES (2, 'small')");
    let got = followed.read_until("two rows", |got| kinds(got).matches('I').count() == 2 && kinds(got).ends_with('C'));
    let sizes: Vec<usize> = got
        .iter()
        .filter_map(|got| match got {
            Got::Data(data) if data[0] == b'I' => Some(data.len()),
            _ => None,
        })
        .collect();
    // The missing value is marked as such, and the rest of the row is there.
    let first = got.iter().find_map(|got| match got {
        Got::Data(data) if data[0] == b'I' => Some(&data[5..]),
        _ => None,
    });
    assert_eq!(first.unwrap(), b"N\0\x02t\0\0\0\x011x");
    assert!(sizes[1] < 100, "{sizes:?}");
}

#[test]
fn a_ready_that_is_dropped_again_and_again_loses_nothing() {
    let mut followed = Followed::start();
    followed.database.run("INSERT INTO t SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i");
    let mut count = 0;
    let runtime = &followed.runtime;
    until("every row has come", || {
        let ready = followed.stream.ready(Intake::Open);
        let in_time = runtime.block_on(async { tokio::time::timeout(Duration::from_micros(1), ready).await });
        assert!(!matches!(in_time, Ok(Err(_))), "{in_time:?}");
        while let Some(frame) = followed.stream.next().unwrap() {
            count += usize::from(matches!(frame, Frame::Data([b'I', ..])));
        }
        (count >= 20_000).then_some(())
    });
    assert_eq!(count, 20_000);
}

#[test]
fn a_second_consumer_is_told_that_the_slot_is_busy_and_gets_it_when_the_first_has_finished() {
    let followed = Followed::start();
    let mut second = source(&followed.database.dsn(), &followed.database.name);
    let error = followed.runtime.block_on(async { second.stream().await.err().unwrap() });
    assert!(error.kind() == ErrorKind::Busy && error.to_string().contains("is active for PID"), "{error:?}");
    let Followed { runtime, database, stream, .. } = followed;
    runtime.block_on(async { stream.finish().await }).unwrap();
    let (stream, _) = runtime.block_on(async { second.stream().await }).unwrap();
    drop((stream, database));
}

#[test]
fn finishing_frees_the_slot_with_the_last_acknowledgement_delivered() {
    let mut followed = Followed::start();
    followed.database.run("INSERT INTO t VALUES (1)");
    let got = followed.read_until("a position", |got| kinds(got).ends_with('C') && last_position(got).is_some());
    let at = last_position(&got).unwrap();
    followed.stream.acknowledge(ack(at));
    let Followed { runtime, database, stream, .. } = followed;
    runtime.block_on(async { stream.finish().await }).unwrap();
    let of_slot = format!("FROM pg_replication_slots WHERE slot_name = '{}'", database.name);
    let mut sql = database.client();
    assert_eq!(sql.one(&format!("SELECT active {of_slot}")), "f");
    // Compared as positions: Postgres 19 prints 0/01B92700 where others print 0/1B92700.
    assert_eq!(sql.one(&format!("SELECT confirmed_flush_lsn {of_slot}")).parse(), Ok(at));
}

#[test]
fn a_terminated_walsender_is_a_lost_stream_and_the_next_one_repeats_what_was_not_acknowledged() {
    let mut followed = Followed::start();
    followed.database.run("INSERT INTO t VALUES (1)");
    followed.read_until("a commit", |got| kinds(got).ends_with('C'));
    followed.database.run(&format!("SELECT pg_terminate_backend({})", followed.slot("active_pid")));
    let error = followed.read_to_error();
    assert!(error.kind() == ErrorKind::Lost && error.to_string().contains("57P01"), "{error:?}");
    let source = &mut followed.source;
    (followed.stream, _) = until("the slot is free", || followed.runtime.block_on(source.stream()).ok());
    let got = followed.read_until("a commit", |got| kinds(got).ends_with('C'));
    assert_eq!(kinds(&got), "BRIC");
}

#[test]
fn a_publication_dropped_under_the_stream_is_a_gap() {
    let mut followed = Followed::start();
    followed.database.run("DROP PUBLICATION p; INSERT INTO t VALUES (1)");
    let error = settled_text(&followed.read_to_error(), &[(&followed.database.name, "NAME")]);
    if followed.database.server.version() >= 180_000 {
        // The server itself would continue and leave the changes out.
        insta::assert_snapshot!(error, @r#"Gap: Postgres skips changes on the slot NAME: skipped loading publication "p". What was written meanwhile cannot be read any more."#);
    } else {
        insta::assert_snapshot!(error, @r#"Gap: the stream from the slot NAME ended: publication "p" does not exist [SQLSTATE 42704]. If the publication is missing: CREATE PUBLICATION p …; (coherd setup does it). What was written meanwhile cannot be read any more."#);
    }
    let Followed { runtime, database, mut source, stream } = followed;
    drop(stream);
    let error = runtime.block_on(source.create_slot()).unwrap_err();
    assert!(error.kind() == ErrorKind::Refused && error.to_string().contains("CREATE PUBLICATION p"), "{error:?}");
    database.run("CREATE PUBLICATION p FOR ALL TABLES");
    until("the old slot is free", || runtime.block_on(source.create_slot()).ok());
    let (stream, _) = runtime.block_on(source.stream()).unwrap();
    database.run("INSERT INTO t VALUES (2)");
    let mut followed = Followed { runtime, database, source, stream };
    followed.read_until("a commit", |got| kinds(got).ends_with('C'));
}

#[test]
fn logical_messages_arrive_when_asked_for() {
    let mut followed = Followed::start();
    followed.database.run("SELECT pg_logical_emit_message(true, 'coherd', 'hello')");
    let got = followed.read_until("a commit", |got| kinds(got).ends_with('C'));
    assert_eq!(kinds(&got), "BMC");
}

#[test]
fn a_server_that_shuts_down_is_not_held_up_by_what_is_not_acknowledged() {
    let server = own_server("");
    let mut followed = Followed::on(Database::create_on(server.clone()), Database::dsn);
    followed.database.run("INSERT INTO t VALUES (1)");
    followed.read_until("a commit", |got| kinds(got).ends_with('C'));
    let stopping = std::thread::spawn(move || server.stop(Signal::Term));
    let error = followed.read_to_error();
    assert!(error.kind() == ErrorKind::Lost && error.to_string().contains("shutting down"), "{error:?}");
    drop(followed.stream);
    stopping.join().unwrap();
}

#[test]
fn a_server_that_shuts_down_ends_a_stream_that_acknowledges_everything() {
    let server = own_server("");
    let mut followed = Followed::on(Database::create_on(server.clone()), Database::dsn);
    // A walsender that has answered START_REPLICATION but not begun to send is terminated like any backend
    // (`HandleWalSndInitStopping`).
    followed.database.run("INSERT INTO t VALUES (1)");
    followed.read_until("a commit", |got| kinds(got).ends_with('C'));
    let Followed { runtime, mut stream, database: _database, .. } = followed;
    let stopping = std::thread::spawn(move || server.stop(Signal::Term));
    let ending = async {
        loop {
            stream.ready(Intake::Open).await?;
            let mut last = None;
            while let Some(frame) = stream.next()? {
                if let Frame::Position(at) = frame {
                    last = Some(at);
                }
            }
            if let Some(at) = last {
                stream.acknowledge(ack(at));
            }
        }
    };
    let error: Result<(), SourceError> = runtime.block_on(ending);
    assert!(
        matches!(&error, Err(error) if error.kind() == ErrorKind::Lost && error.to_string().contains("the server ended the stream")),
        "{error:?}"
    );
    stopping.join().unwrap();
}

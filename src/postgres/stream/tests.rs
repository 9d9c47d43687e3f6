use proptest::prelude::*;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::*;
use crate::core::Core;
use crate::postgres::ErrorKind;

/// A stream whose server is the other end of the socket.
fn stream() -> (PostgresStream, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let settings = StreamSettings {
        slot: "s".to_owned(),
        publication: "p".to_owned(),
        confirmed: Lsn::new(100),
        wal_sender_timeout: Duration::ZERO,
        standby: false,
        holding: Holding::Streamed,
    };
    (PostgresStream::new(Session::new(Socket::Unix(ours)), settings), theirs)
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

fn data(payload: &[u8]) -> Vec<u8> {
    message(b'd', &[b"w".as_slice(), &[0; 24], payload].concat())
}

fn keepalive(position: u64, reply: u8) -> Vec<u8> {
    message(b'd', &[b"k".as_slice(), &position.to_be_bytes(), &[0; 8], &[reply]].concat())
}

fn notice(code: &str) -> Vec<u8> {
    message(b'N', format!("SWARNING\0C{code}\0Mskipped loading publication \"p\"\0\0").as_bytes())
}

#[tokio::main(flavor = "current_thread")]
async fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("within 20 s")
}

/// Reads up to the error that ends the stream.
async fn read_all(stream: &mut PostgresStream) -> (Vec<String>, SourceError) {
    let mut all = Vec::new();
    loop {
        if let Err(error) = stream.ready(Intake::Open).await {
            return (all, error);
        }
        loop {
            match stream.next() {
                Ok(Some(frame)) => all.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(error) => return (all, error),
            }
        }
    }
}

/// Reads the next status update that the server gets, and returns its positions.
async fn status(server: &mut UnixStream) -> [u64; 3] {
    let mut bytes = [0; 39];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes[..6], b"d\0\0\0\x26r");
    [6, 14, 22].map(|at| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap()))
}

/// What the stream reads from a server that sends `bytes` and closes the connection.
fn said(bytes: &[u8]) -> (Vec<String>, SourceError) {
    run(async {
        let (mut stream, mut server) = stream();
        server.write_all(bytes).await.unwrap();
        drop(server);
        read_all(&mut stream).await
    })
}

#[test]
fn a_skipped_publication_is_a_gap_and_another_notice_is_not() {
    let (frames, error) = said(&[notice("01000"), data(b"x"), notice("55000"), data(b"y")].concat());
    assert_eq!(frames, ["Data([120])"]);
    assert!(error.kind() == ErrorKind::Gap, "{error:?}");
}

#[test]
fn what_the_protocol_does_not_allow_is_told_and_not_believed() {
    for bytes in [
        b"d\0\0\0\x03x".to_vec(),
        b"d\x40\0\0\x01x".to_vec(),
        b"d\xff\xff\xff\xffx".to_vec(),
        message(b'd', b""),
        message(b'd', b"w123"),
        message(b'd', b"k123"),
        message(b'd', b"?"),
        message(b'T', b""),
        b"HTTP/1.1 400 Bad Request".to_vec(),
    ] {
        let (frames, error) = said(&bytes);
        assert!(frames.is_empty() && error.kind() == ErrorKind::Protocol, "{bytes:?}: {error:?}");
    }
}

/// A Commit message of `committed`, in a frame that was sent at `sent`; microseconds since 2000.
fn commit(committed: i64, sent: i64) -> Vec<u8> {
    let payload = [b"C\0".as_slice(), &[0; 16], &committed.to_be_bytes()].concat();
    message(b'd', &[b"w".as_slice(), &[0; 16], &sent.to_be_bytes(), &payload].concat())
}

#[test]
fn a_commit_that_is_sent_late_makes_the_next_read_wait() {
    run(async {
        let (mut stream, mut server) = stream();
        let mut next_read_waits = async |bytes: &[u8]| {
            server.write_all(bytes).await.unwrap();
            stream.ready(Intake::Open).await.unwrap();
            while stream.next().unwrap().is_some() {}
            server.write_all(&keepalive(200, 0)).await.unwrap();
            stream.ready(Intake::Open).await.unwrap();
            while stream.next().unwrap().is_some() {}
            stream.backlog.is_due
        };
        assert!(!next_read_waits(&commit(1_000, 1_300)).await, "as late as usual");
        assert!(next_read_waits(&commit(2_000, 4_400)).await, "2.1 ms later than that");
        assert!(!next_read_waits(&commit(5_000, 5_300)).await);
    });
}

#[test]
fn the_end_of_the_connection_is_told_after_everything_before_it() {
    for (end, kind) in [
        (Vec::new(), "closed the connection"),
        (b"d\0\0".to_vec(), "closed the connection"),
        (message(b'c', b""), "ended the stream"),
        (message(b'E', b"SFATAL\0C57P01\0Mterminating\0\0"), "57P01"),
    ] {
        let (frames, error) = said(&[data(b"x"), keepalive(7, 0), end].concat());
        assert_eq!(frames, ["Data([120])", "Position(0/7)"]);
        assert!(error.kind() == ErrorKind::Lost && error.to_string().contains(kind), "{error:?}");
    }
}

#[test]
fn a_request_is_answered_at_once_and_a_silent_server_hears_from_us_in_time() {
    run(async {
        let (mut stream, mut server) = stream();
        let serving = async {
            assert_eq!(status(&mut server).await, [100; 3], "at the start");
            let began = Instant::now();
            assert_eq!(status(&mut server).await, [100; 3], "the heartbeat, though nothing may be read");
            assert!(began.elapsed() >= STATUS_EVERY / 2);
            let began = Instant::now();
            server.write_all(&keepalive(200, 1)).await.unwrap();
            (began, server)
        };
        let (began, mut server) = tokio::select! {
            biased;
            served = serving => served,
            ended = stream.ready(Intake::Closed) => panic!("{ended:?}"),
        };
        stream.ready(Intake::Open).await.unwrap();
        assert_eq!(stream.next().unwrap(), Some(Frame::Position(Lsn::new(200))));
        let answer = async {
            tokio::select! { s = status(&mut server) => s, e = stream.ready(Intake::Open) => panic!("{e:?}") }
        };
        assert_eq!(answer.await, [100; 3], "what the server has sent is not what is acknowledged");
        assert!(began.elapsed() < STATUS_EVERY / 2, "{:?}", began.elapsed());
    });
}

#[test]
fn an_acknowledgement_leaves_with_the_next_poll_and_never_goes_back() {
    run(async {
        let (mut stream, mut server) = stream();
        let mut core = Core::without_targets(Lsn::ZERO);
        for (at, told) in [(50, 100), (300, 300), (400, 400)] {
            core.idle(Lsn::new(at));
            stream.acknowledge(core.acknowledge().unwrap());
            let poll = async {
                tokio::select! { s = status(&mut server) => s, e = stream.ready(Intake::Closed) => panic!("{e:?}") }
            };
            assert_eq!(poll.await, [told; 3]);
        }
    });
}

#[test]
fn a_server_that_does_not_read_makes_nothing_grow() {
    run(async {
        let (mut stream, _server) = stream();
        let mut core = Core::without_targets(Lsn::ZERO);
        for at in 101..100_000 {
            core.idle(Lsn::new(at));
            stream.acknowledge(core.acknowledge().unwrap());
            let ready = stream.ready(Intake::Closed);
            tokio::select! { biased; e = ready => panic!("{e:?}"), () = std::future::ready(()) => {} }
            assert!(stream.outbox.len() <= 39);
        }
        assert!(!stream.outbox.is_empty(), "the socket is full");
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn however_the_bytes_are_cut_the_frames_are_the_same(
        sizes in prop::collection::vec(0_usize..3_000, 1..40),
        big in prop::option::of(200_000_usize..700_000),
        cut in 1_usize..5_000,
    ) {
        let sizes: Vec<usize> = sizes.into_iter().chain(big).chain([1]).collect();
        let payload = |i: usize, size: usize| vec![u8::try_from(i % 251).unwrap(); size];
        let bytes: Vec<u8> = sizes.iter().enumerate().flat_map(|(i, size)| data(&payload(i, *size))).collect();
        run(async {
            let (mut stream, server) = stream();
            let (mut server_reads, mut server) = server.into_split();
            let drain = tokio::spawn(async move { tokio::io::copy(&mut server_reads, &mut tokio::io::sink()).await });
            tokio::spawn(async move {
                for piece in bytes.chunks(cut) {
                    server.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                server.shutdown().await.unwrap();
            });
            let mut count = 0;
            while stream.ready(Intake::Open).await.is_ok() {
                while let Some(frame) = stream.next().unwrap() {
                    assert_eq!(frame, Frame::Data(&payload(count, sizes[count])));
                    count += 1;
                }
            }
            assert_eq!(count, sizes.len());
            drop(stream);
            let _ = drain.await;
        });
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_asked_once_and_suspended_later_but_not_while_nothing_is_read() {
    let mut silence = Silence::new();
    assert!(!silence.ask());
    tokio::time::advance(SILENCE_ASK).await;
    assert!(silence.ask() && !silence.ask());
    assert!(silence.tick(Intake::Open).is_ok());
    tokio::time::advance(SILENCE_MAX).await;
    assert!(silence.tick(Intake::Open).unwrap_err().to_string().contains("30 s"));
    assert!(silence.tick(Intake::Closed).is_ok());
    assert!(silence.tick(Intake::Open).is_ok(), "the silence begins anew");
}

//! Loading the library into a server. Deliveries never wait for it.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};

use coherd::targets::Target;
use coherd::targets::config::Library;
use coherd::targets::redis::lua::library;
use coherd::types::invalidation::Action;

use crate::support::{Redis, until};
use crate::targets::{Asked, config, delivery, open, open_url};

/// Whether the server supports functions.
fn has_functions() -> bool {
    std::env::var_os("COHERD_TEST_REDIS").is_none()
}

/// The code of the library named coherd.
fn code(asked: &mut Asked) -> Option<String> {
    type Fields = std::collections::HashMap<String, redis::Value>;
    let libraries: Vec<Fields> = asked.run(&["FUNCTION", "LIST", "LIBRARYNAME", "coherd", "WITHCODE"]);
    let code = libraries.into_iter().next()?.remove("library_code").expect("its code");
    Some(redis::from_redis_value(code).expect("text"))
}

/// The library as another version of coherd has it.
fn of_version(version: u32) -> String {
    let ours = library();
    let theirs = ours.replacen(", version 1:", &format!(", version {version}:"), 1);
    assert_ne!(ours, theirs);
    theirs
}

async fn delivers(target: &dyn Target) {
    target.deliver(&delivery(1, &[(Action::Delete, "k"), (Action::Bump, "p")])).await.expect("delivers");
}

#[tokio::test]
async fn a_server_is_given_the_library_when_it_is_met_and_once() {
    if !has_functions() {
        return;
    }
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    for _ in 0..3 {
        target.load_record().await.expect("loads");
        assert_eq!(code(&mut asked), Some(library()));
    }
    open_url(&server.url()).load_record().await.expect("loads");
    assert_eq!(asked.calls("function|load"), 1);
    delivers(&*target).await;
}

#[tokio::test]
async fn who_only_looks_brings_nothing() {
    let server = Redis::start();
    let mut config = config(&server.url());
    config.library = Library::Leave;
    let target = open(&config);
    target.load_record().await.expect("loads");
    delivers(&*target).await;
    assert_eq!(Asked::of(&server).calls("function|list"), 0);
}

#[tokio::test]
async fn an_older_library_is_replaced_and_a_newer_one_or_a_foreign_one_stays() {
    if !has_functions() {
        return;
    }
    let foreign = "#!lua name=coherd\nredis.register_function('other', function() return 1 end)".to_owned();
    for (there, expected) in
        [(of_version(0), library()), (of_version(2), of_version(2)), (foreign.clone(), foreign), (library(), library())]
    {
        let server = Redis::start();
        let mut asked = Asked::of(&server);
        let _: String = asked.run(&["FUNCTION", "LOAD", &there]);
        let target = open_url(&server.url());
        target.load_record().await.expect("loads");
        assert_eq!(code(&mut asked), Some(expected));
        delivers(&*target).await;
    }
}

#[tokio::test]
async fn functions_that_were_flushed_come_back_with_the_next_connection() {
    if !has_functions() {
        return;
    }
    let server = Redis::start();
    let mut asked = Asked::of(&server);
    let target = open_url(&server.url());
    target.load_record().await.expect("loads");
    let _: () = asked.run(&["FUNCTION", "FLUSH"]);
    assert_eq!(code(&mut asked), None);
    let _: u64 = asked.run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    target.deliver(&delivery(1, &[])).await.expect_err("the connection is gone");
    target.load_record().await.expect("loads, as the worker does after a lost connection");
    assert_eq!(code(&mut asked), Some(library()));
}

#[tokio::test]
async fn what_forbids_the_library_stops_no_delivery() {
    if !has_functions() {
        return;
    }
    let taken = "#!lua name=other\nredis.register_function('coherd_get', function() return 1 end)";
    for forbidden in ["function|list", "function|load", "function", "nothing"] {
        let server = Redis::start();
        let mut asked = Asked::of(&server);
        let rule = ["ACL", "SETUSER", "coherd", "on", ">mellon", "~*", "&*", "+@all"];
        let _: () = asked.run(&rule);
        if forbidden == "nothing" {
            let _: String = asked.run(&["FUNCTION", "LOAD", taken]);
        } else {
            let _: () = asked.run(&["ACL", "SETUSER", "coherd", &format!("-{forbidden}")]);
        }
        let target = open_url(&server.url().replace("redis://", "redis://coherd:mellon@"));
        target.load_record().await.expect("loads");
        assert_eq!(code(&mut asked), None, "{forbidden}");
        delivers(&*target).await;
    }
}

#[tokio::test]
async fn a_server_without_functions_is_served_all_the_same() {
    let server = Redis::start_with(if has_functions() { &["--rename-command", "FUNCTION", ""] } else { &[] });
    let target = open_url(&server.url());
    for _ in 0..2 {
        target.load_record().await.expect("loads");
        delivers(&*target).await;
    }
}

/// Forwards to `port` until a client sends FUNCTION, then closes the connection, as some proxies do.
fn easily_offended(port: u16) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            std::thread::spawn(move || {
                let mut chunk = [0; 4096];
                while let Ok(length @ 1..) = client.read(&mut chunk) {
                    if chunk[..length].windows(8).any(|text| text == b"FUNCTION") {
                        break;
                    }
                    if server.write_all(&chunk[..length]).is_err() {
                        break;
                    }
                }
                let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            });
        }
    });
    own
}

#[tokio::test]
async fn a_connection_that_ends_at_the_question_is_soon_spared_it() {
    let server = Redis::start();
    let target = open_url(&format!("redis://127.0.0.1:{}/0", easily_offended(server.port())));
    for lost in 0..3 {
        assert_eq!(target.load_record().await.is_err(), lost < 2, "attempt {lost}");
    }
    delivers(&*target).await;
    target.load_record().await.expect_err("asked again, in case it was a coincidence");
    target.load_record().await.expect("and spared again");
    delivers(&*target).await;
    until("the server is there", || Asked::of(&server).field("applied"));
}

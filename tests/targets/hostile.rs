//! A server sends more than any reply can be. coherd refuses it before it is held in memory, and names what came.

use coherd::targets::FaultKind;

use super::open_url;
use crate::support::hostile::{Hostile, PAYLOADS};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_too_large_ends_the_connection_and_is_named() {
    let server = Hostile::start();
    let target = open_url(&server.url());
    let expected = [
        "a reply of 2147483648 bytes",
        " elements (coherd accepts 65536",
        "arrays in arrays",
        " elements (coherd accepts 65536",
        "a line of more than 65536 bytes",
        "a line of more than 65536 bytes",
        "a reply of 8388609 bytes",
        "bytes that are not a RESP2 reply",
    ];
    for (payload, expected) in PAYLOADS.iter().zip(expected) {
        server.sends(*payload);
        let fault = target.load_record().await.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Connection, "{}: {fault}", payload.name);
        assert!(fault.message.starts_with("Redis at 127.0.0.1:"), "{fault}");
        assert!(fault.message.contains(expected), "{}: {fault}", payload.name);
        assert!(fault.message.chars().count() <= 300, "{fault}");
        assert!(!fault.message.contains("xxx"), "{fault}");
    }
}

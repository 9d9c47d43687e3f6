//! A naive consumer, as a team would write it in an afternoon: a replication crate, an asynchronous Redis client, `UNLINK` for
//! each changed row. It has no gate, no record, no retries, and forgets everything when it ends.
//!
//! The bench executes itself: `bench crate POSTGRES DATABASE SLOT PUBLICATION REDIS`, as it does for the floor.

use std::collections::HashMap;

use pgwire_replication::client::ReplicationEvent;
use pgwire_replication::{ReplicationClient, ReplicationConfig, TlsConfig};

use crate::floor::{number, relation, value};

/// Follows the slot for ever.
pub(crate) fn run(args: &[String]) -> ! {
    let [postgres, database, slot, publication, redis] = args else { panic!("crate: five arguments") };
    // A host, or the directory of a socket.
    let address = postgres.rsplit_once(':').or_else(|| postgres.rsplit_once("/.s.PGSQL."));
    let (host, port) = address.expect("an address");
    let port = port.parse().expect("a port");
    let config = ReplicationConfig::new(host, "postgres", "", database, slot, publication.as_str())
        .with_port(port)
        .with_tls(TlsConfig::disabled());
    let redis = if redis.starts_with('/') { format!("redis+unix://{redis}") } else { format!("redis://{redis}") };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(follow(config, &redis))
}

async fn follow(config: ReplicationConfig, redis: &str) -> ! {
    let client = redis::Client::open(redis).expect("an address");
    let mut cache = client.get_multiplexed_async_connection().await.expect("Redis");
    let mut stream = ReplicationClient::connect(config).await.expect("Postgres");
    let mut relations = HashMap::new();
    loop {
        match stream.recv().await.expect("the stream goes on").expect("the stream goes on") {
            ReplicationEvent::XLogData { data, .. } => {
                for key in keys(&data, &mut relations) {
                    let () = redis::cmd("UNLINK").arg(key).query_async(&mut cache).await.expect("UNLINK");
                }
            }
            ReplicationEvent::Commit { end_lsn, .. } => stream.update_applied_lsn(end_lsn),
            _ => {}
        }
    }
}

/// The keys of a message of pgoutput (Postgres manual, "Logical Replication Message Formats").
fn keys(message: &[u8], relations: &mut HashMap<u32, (Vec<u8>, usize)>) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    match message[0] {
        b'R' => {
            let (id, relation) = relation(&message[1..]);
            relations.insert(id, relation);
        }
        b'I' | b'U' | b'D' => {
            let (prefix, column) = &relations[&number(&message[1..])];
            let mut rest = &message[5..];
            while let Some((_kind, row)) = rest.split_first() {
                let (text, after) = value(row, *column);
                keys.push([prefix.as_slice(), text].concat());
                rest = after;
            }
        }
        _ => {}
    }
    keys
}

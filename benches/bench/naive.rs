//! A naive consumer, as a team would write it in an afternoon: a replication crate, an asynchronous Redis client, `UNLINK` for
//! each changed row. It has no gate, no record, no retries, and forgets everything when it ends.
//!
//! The bench executes itself: `bench crate POSTGRES DATABASE SLOT PUBLICATION REDIS`, as it does for the floor.

use pgwire_replication::client::ReplicationEvent;
use pgwire_replication::{ReplicationClient, ReplicationConfig, TlsConfig};

use crate::floor::{Relations, rows};

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
    let mut relations = Relations::new();
    loop {
        match stream.recv().await.expect("the stream goes on").expect("the stream goes on") {
            ReplicationEvent::XLogData { data, .. } => {
                let mut keys = Vec::new();
                rows(&data, &mut relations, |prefix, id| keys.push([prefix, id].concat()));
                for key in keys {
                    let () = redis::cmd("UNLINK").arg(key).query_async(&mut cache).await.expect("UNLINK");
                }
            }
            ReplicationEvent::Commit { end_lsn, .. } => stream.update_applied_lsn(end_lsn),
            _ => {}
        }
    }
}

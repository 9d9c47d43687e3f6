//! A reader's connections to the cache, the primary, the replica and the daemon.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisResult};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{Client, Error, NoTls, Statement};

use super::rows::Value;
use super::{Promise, World};

/// How long the daemon may take to report the replica's state. It may be stopped.
const STATUS_MOST: Duration = Duration::from_millis(300);
/// How long a replica may take to answer.
const REPLICA_MOST: Duration = Duration::from_secs(2);

/// The server that a row is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    Primary,
    Replica,
}

/// The connections of one reader.
pub struct Link {
    pub world: Arc<World>,
    pub rng: Rng,
    pub cache: MultiplexedConnection,
    primary: Reading,
    replica: Option<Reading>,
}

struct Reading {
    client: Client,
    select: Statement,
}

impl Reading {
    async fn connect(dsn: &str) -> Result<Reading, Error> {
        let client = session(dsn).await?;
        let select = client.prepare("SELECT v FROM hot WHERE id = $1").await?;
        Ok(Reading { client, select })
    }

    async fn read(&self, row: usize) -> Result<Value, Error> {
        let id = i32::try_from(row).expect("few rows");
        let its = self.client.query_opt(&self.select, &[&id]).await?;
        Ok(its.map(|its| its.get(0)))
    }
}

/// A session with Postgres.
pub async fn session(dsn: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(dsn, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

impl Link {
    pub async fn connect(world: &Arc<World>, rng: Rng) -> Link {
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(20)));
        let client = redis::Client::open(world.cache.as_str()).expect("url");
        let cache = client.get_multiplexed_async_connection_with_config(&config).await.expect("the cache is there");
        let primary = Reading::connect(&world.primary).await.expect("the primary is there");
        Link { world: Arc::clone(world), rng, cache, primary, replica: None }
    }

    /// The settled position in the cache's record.
    pub async fn settled(&mut self) -> RedisResult<u64> {
        let text: Option<String> =
            redis::cmd("HGET").arg(&self.world.record).arg("settled").query_async(&mut self.cache).await?;
        Ok(text.map_or(0, |text| text.parse().expect("a decimal position")))
    }

    /// Chooses where to read. Readers must call this after they have their lease or version: see
    /// [`Promise::WhileHeld`].
    pub async fn choose(&mut self) -> Server {
        if self.rng.bool() {
            return Server::Primary;
        }
        // The session comes first. One that is opened after the answer may be with a server that has crashed since.
        if self.replica.as_ref().is_none_or(|replica| replica.client.is_closed()) {
            let connecting = tokio::time::timeout(REPLICA_MOST, Reading::connect(&self.world.replica)).await;
            self.replica = connecting.ok().and_then(Result::ok);
        }
        let is_held = self.world.promise == Promise::Always || self.replica_is_held().await;
        if self.replica.is_none() || !is_held {
            self.world.history.count("reads: of the primary, as the replica is away or not waited for", 1);
            return Server::Primary;
        }
        Server::Replica
    }

    /// Reads a row. `None` if the server went away.
    pub async fn read(&mut self, row: usize, server: Server) -> Option<Value> {
        let read = match (server, &self.replica) {
            (Server::Replica, Some(replica)) => tokio::time::timeout(REPLICA_MOST, replica.read(row)).await.ok()?,
            _ => Ok(self.primary.read(row).await.expect("the primary is there")),
        };
        self.world.history.count(&format!("reads: of the {server:?}").to_lowercase(), 1);
        if read.is_err() {
            self.replica = None;
        }
        read.ok()
    }

    /// Code and body of an answer of the daemon's admin server.
    pub async fn http(&self, path: &str, most: Duration) -> Option<(u16, String)> {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.world.admin)).await.ok()?;
            let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.ok()?;
            let (head, body) = answer.split_once("\r\n\r\n")?;
            Some((head.split_whitespace().nth(1)?.parse().ok()?, body.to_owned()))
        };
        tokio::time::timeout(most, exchange).await.ok()?
    }

    async fn replica_is_held(&self) -> bool {
        let Some((200, body)) = self.http("/status", STATUS_MOST).await else { return false };
        super::is_held(&serde_json::from_str(&body).unwrap_or_default())
    }

    /// Waits for a random time, which is rarely long.
    pub async fn dawdle(&mut self) {
        let micros = match self.rng.u32(..100) {
            ..50 => 0,
            50..80 => self.rng.u64(..5_000),
            80..97 => self.rng.u64(5_000..100_000),
            _ => self.rng.u64(100_000..1_500_000),
        };
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

//! Reads through a cache that coherd keeps coherent with Postgres. See docs/reading.md.
//!
//! If the cache is down or slow, a request waits for a time-out and then reads the database.
//! On Redis 6, `coherd lua --eval get` prints the script for [`redis::Script`], instead of the function.

use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{AsyncCommands, RedisResult, cmd};
use tokio::io::{AsyncBufReadExt, BufReader};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// More than the slowest read of the database, which `statement_timeout` bounds.
const LEASE_MS: u64 = 10_000;
const VALUE_MS: u64 = 3_600_000;
/// How long to wait for another reader that is loading the same key.
const PATIENCE: Duration = Duration::from_millis(200);

/// What `coherd_get` returns.
enum Got {
    Value(String),
    Token(String),
}

/// The value of a key of a `delete` rule. `load` reads the database in a snapshot of its own.
async fn leased<E>(
    cache: &ConnectionManager,
    key: &str,
    load: impl AsyncFnOnce() -> Result<String, E>,
) -> Result<String, E> {
    let lease = lease_of(key);
    let token = match get_or_lease(cache, key, &lease).await {
        Ok(Got::Value(value)) => return Ok(value),
        Ok(Got::Token(token)) => token,
        Err(_away) => return load().await,
    };
    let value = load().await?;
    let mut fill = cmd("FCALL");
    fill.arg("coherd_fill").arg(2).arg(key).arg(&lease).arg(token).arg(VALUE_MS).arg(&value);
    // 0 means refused: the row has changed in the meantime. This reader may still use what it read. After an error, the
    // value is not stored either.
    let _stored: RedisResult<u8> = fill.query_async(&mut cache.clone()).await;
    Ok(value)
}

/// Returns the value; or a token, if this reader is first or has waited long enough.
async fn get_or_lease(cache: &ConnectionManager, key: &str, lease: &str) -> RedisResult<Got> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let nonce = format!("{:032x}", rand::random::<u128>());
        let mut get = cmd("FCALL");
        get.arg("coherd_get").arg(2).arg(key).arg(lease).arg(LEASE_MS).arg(nonce);
        let reply: Vec<String> = get.query_async(&mut cache.clone()).await?;
        match reply.as_slice() {
            [found, value] if found == "1" => return Ok(Got::Value(value.clone())),
            [_, token, first] if first == "1" || Instant::now() > deadline => return Ok(Got::Token(token.clone())),
            [_, _token, _first] => {}
            _ => return Err((redis::ErrorKind::UnexpectedReturnType, "coherd_get answered otherwise").into()),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The name of the key's lease, in the key's slot of a Redis Cluster.
fn lease_of(key: &str) -> String {
    let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    if tag.is_some_and(|(tag, _)| !tag.is_empty()) { format!("{key}:lease") } else { format!("{{{key}}}:lease") }
}

/// The value of a key of a `bump` rule. `load` is as for [`leased`].
async fn versioned<E>(
    cache: &ConnectionManager,
    key: &str,
    load: impl AsyncFnOnce() -> Result<String, E>,
) -> Result<String, E> {
    let mut cache = cache.clone();
    let version = cmd("FCALL").arg("coherd_version").arg(1).arg(format!("{key}:version")).query_async(&mut cache).await;
    let version: String = match version {
        Ok(version) => version,
        Err(_away) => return load().await,
    };
    let entry = format!("{key}:v{version}");
    match cache.get(&entry).await {
        Ok(Some(value)) => return Ok(value),
        Ok(None) => {}
        Err(_away) => return load().await,
    }
    let value = load().await?;
    let _stored: RedisResult<()> = cache.pset_ex(&entry, &value, VALUE_MS).await; // after an error it is not stored
    Ok(value)
}

/// Like [`leased`], but never older than the commit after which `token` was taken. `load` reads the primary.
async fn own<E>(
    cache: &ConnectionManager,
    record: &str,
    key: &str,
    token: u64,
    load: impl AsyncFnOnce() -> Result<String, E>,
) -> Result<String, E> {
    // Read before the value, and from the same server.
    let settled: RedisResult<Option<u64>> = cache.clone().hget(record, "settled").await;
    match settled {
        Ok(Some(settled)) if settled >= token => leased(cache, key, load).await,
        _ => load().await,
    }
}

struct App {
    cache: ConnectionManager,
    database: tokio_postgres::Client,
    record: String,
}

impl App {
    /// Outside BEGIN each statement is a transaction of its own, so it sees what was committed before it began.
    async fn row(&self, table: &str, id: i64) -> Result<String, tokio_postgres::Error> {
        // The row as JSON. A missing row is "null", and is cached as well: coherd invalidates on INSERT too.
        let query = format!("SELECT coalesce((SELECT to_json(t) FROM {table} t WHERE id = $1), 'null')::text");
        self.database.query_one(&query, &[&id]).await?.try_get(0)
    }

    async fn rename(&self, id: i64, name: &str) -> Result<String, tokio_postgres::Error> {
        self.database.execute("UPDATE users SET name = $1 WHERE id = $2", &[&name, &id]).await?;
        // Take the token after COMMIT, in a transaction of its own. Keep it in the session.
        self.database.query_one("SELECT coherd.token()::text", &[]).await?.try_get(0)
    }

    async fn answer(&self, line: &str) -> Result<String, Error> {
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let id = words.next().unwrap_or_default().parse()?;
        let argument = words.next().unwrap_or_default();
        let user = format!("user:{id}");
        Ok(match command {
            "user" => leased(&self.cache, &user, async || self.row("users", id).await).await?,
            "product" => {
                versioned(&self.cache, &format!("product:{id}"), async || self.row("products", id).await).await?
            }
            "rename" => self.rename(id, argument).await?,
            "own" => {
                own(&self.cache, &self.record, &user, argument.parse()?, async || self.row("users", id).await).await?
            }
            other => return Err(format!("no such command: {other}").into()),
        })
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let settings = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(Duration::from_millis(200)))
        .set_response_timeout(Some(Duration::from_millis(200)))
        .set_number_of_retries(1);
    let client = redis::Client::open(std::env::var("REDIS_URL")?)?;
    let cache = ConnectionManager::new_lazy_with_config(client, settings)?;
    let config = std::env::var("DATABASE_URL")?.parse::<tokio_postgres::Config>()?;
    let (database, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    database.batch_execute("SET statement_timeout = '5s'").await?;
    let record = std::env::var("COHERD_RECORD").unwrap_or_else(|_| "coherd:coherd".to_owned()); // coherd:<slot>
    let app = App { cache, database, record };
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        println!("{}", app.answer(&line).await?);
    }
    Ok(())
}

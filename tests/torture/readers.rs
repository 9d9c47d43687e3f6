//! Readers of the cache, for each of the protocols.

use std::time::Duration;

use redis::{RedisResult, Value as Reply};

use super::Level;
use super::link::{Link, Server};
use super::rows::{Value, parse, text};
use super::writers::{Writer, row};
use crate::protocol::lease_of;

/// One in this many readers with a lease or a version dies before it fills.
const DEATHS: u32 = 30;
/// How long values live. It exceeds any run, so that no stale value expires.
const VALUE_MS: u64 = 3_600_000;
/// How often a later reader checks whether the first one has filled.
const FOLLOWS_MOST: u32 = 20;
/// How long a session continues to read what it wrote last.
const SESSION: Duration = Duration::from_secs(1);

/// Level 0: GET, otherwise read and SET, with arbitrary delays in between.
pub async fn plain(mut link: Link) {
    while !link.world.stops() {
        let row = row(&mut link.rng);
        if let Err(error) = plain_read(&mut link, row, None).await {
            link.world.failed(&error);
        }
    }
}

/// Level 2 with leases.
pub async fn leases(mut link: Link) {
    while !link.world.stops() {
        let row = row(&mut link.rng);
        let read = match link.settled().await {
            Ok(settled) => leased_read(&mut link, row, settled, Level::Leases).await,
            Err(error) => Err(error),
        };
        if let Err(error) = read {
            link.world.failed(&error);
        }
    }
}

/// Level 2 with version pointers.
pub async fn pointers(mut link: Link) {
    while !link.world.stops() {
        let row = row(&mut link.rng);
        if let Err(error) = versioned_read(&mut link, row).await {
            link.world.failed(&error);
        }
    }
}

/// Level 1: a session that has just written reads the cache only after that write has settled.
pub async fn sessions(mut link: Link, mut writer: Writer) {
    while !link.world.stops() {
        if link.world.lulls() {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        }
        let Some((token, written)) = writer.transaction().await else { continue };
        let end = tokio::time::Instant::now() + SESSION;
        while tokio::time::Instant::now() < end && !link.world.stops() {
            tokio::time::sleep(Duration::from_millis(link.rng.u64(..20))).await;
            let (row, _) = written[link.rng.usize(..written.len())];
            if !has_settled(&mut link, &writer, token).await {
                link.world.history.count("level 1: read the primary, as the write has not settled", 1);
                continue;
            }
            let read = if link.rng.bool() {
                plain_read(&mut link, row, Some(token)).await
            } else {
                leased_read(&mut link, row, token, Level::OneWithLeases).await
            };
            if let Err(error) = read {
                link.world.failed(&error);
            }
        }
    }
}

/// Checks in one of three ways whether everything up to the token is settled.
async fn has_settled(link: &mut Link, writer: &Writer, token: u64) -> bool {
    match link.rng.u32(..3) {
        0 => link.settled().await.is_ok_and(|settled| settled >= token),
        1 => {
            let path = format!("/wait?token={token}&timeout=50ms");
            link.http(&path, Duration::from_millis(500)).await.is_some_and(|(code, _)| code == 200)
        }
        _ => {
            let slot = &link.world.slot;
            let wait = format!("SELECT coherd.wait({token}::bigint, '50ms', '{slot}')");
            writer.sql.query_one(&wait, &[]).await.expect("the primary is there").get(0)
        }
    }
}

/// Reads the database, then waits. `None` if the server is down.
async fn read_slowly(link: &mut Link, row: usize, settled: u64, server: Server) -> Option<Value> {
    let value = link.read(row, server).await?;
    link.world.served(Level::Database, row, settled, value, &format!("the {server:?}"));
    link.dawdle().await;
    Some(value)
}

impl Link {
    /// Whether a reader dies before it stores what it has read.
    fn dies(&mut self, level: Level) -> bool {
        let dies = self.rng.u32(..DEATHS) == 0;
        if dies {
            self.world.count(level, "died before the fill");
        }
        dies
    }
}

async fn plain_read(link: &mut Link, row: usize, token: Option<u64>) -> RedisResult<()> {
    let (level, key) = (if token.is_some() { Level::One } else { Level::Zero }, format!("plain:{row}"));
    let settled = match token {
        Some(token) => token,
        None => link.settled().await?,
    };
    let found: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut link.cache).await?;
    if let Some(found) = found {
        link.world.served(level, row, settled, parse(&found), "the cache");
        return Ok(());
    }
    let server = if token.is_some() { Server::Primary } else { link.choose().await };
    let Some(value) = read_slowly(link, row, settled, server).await else { return Ok(()) };
    link.world.count(level, "fills");
    redis::cmd("SET").arg(&key).arg(text(value)).arg("PX").arg(VALUE_MS).query_async(&mut link.cache).await
}

async fn leased_read(link: &mut Link, row: usize, settled: u64, level: Level) -> RedisResult<()> {
    let key = format!("lease:{row}");
    let lease = lease_of(key.as_bytes());
    let mut follows = 0;
    let token = loop {
        let (nonce, ttl) = (format!("{:016x}", link.rng.u64(..)), link.rng.u64(50..5000));
        let mut get = redis::cmd("FCALL");
        get.arg("coherd_get").arg(2).arg(&key).arg(&lease).arg(ttl).arg(nonce);
        let reply: Reply = get.query_async(&mut link.cache).await?;
        let Reply::Array(parts) = &reply else { panic!("{reply:?}") };
        match parts.as_slice() {
            [Reply::Int(1), Reply::BulkString(value)] => {
                link.world.served(level, row, settled, parse(value), "the cache");
                return Ok(());
            }
            [Reply::Int(0), Reply::BulkString(_), Reply::Int(0)]
                if follows < FOLLOWS_MOST && link.rng.u32(..10) > 0 =>
            {
                follows += 1;
                tokio::time::sleep(Duration::from_millis(link.rng.u64(1..6))).await;
            }
            [Reply::Int(0), Reply::BulkString(token), Reply::Int(first)] => {
                if *first == 0 {
                    link.world.count(level, "followers that read too");
                }
                break token.clone();
            }
            _ => panic!("{reply:?}"),
        }
    };
    let server = link.choose().await;
    let Some(value) = read_slowly(link, row, settled, server).await else { return Ok(()) };
    if link.dies(level) {
        return Ok(());
    }
    let mut fill = redis::cmd("FCALL");
    fill.arg("coherd_fill").arg(2).arg(&key).arg(&lease).arg(&token).arg(VALUE_MS).arg(text(value));
    let stored: u8 = fill.query_async(&mut link.cache).await?;
    link.world.count(level, if stored == 1 { "fills" } else { "refused fills" });
    if stored == 1 {
        link.world.tell(row, &format!("{value:?} of the {server:?} is filled under a lease"));
    }
    Ok(())
}

async fn versioned_read(link: &mut Link, row: usize) -> RedisResult<()> {
    let (level, key) = (Level::Pointers, format!("ptr:{row}"));
    let settled = link.settled().await?;
    let pointer = format!("{key}:version");
    let version: String =
        redis::cmd("FCALL").arg("coherd_version").arg(1).arg(&pointer).query_async(&mut link.cache).await?;
    let entry = format!("{key}:v{version}");
    let found: Option<Vec<u8>> = redis::cmd("GET").arg(&entry).query_async(&mut link.cache).await?;
    if let Some(found) = found {
        link.world.served(level, row, settled, parse(&found), "the cache");
        return Ok(());
    }
    let server = link.choose().await;
    let Some(value) = read_slowly(link, row, settled, server).await else { return Ok(()) };
    if link.dies(level) {
        return Ok(());
    }
    link.world.count(level, "fills");
    link.world.tell(row, &format!("{value:?} of the {server:?} is filled under version {version}"));
    redis::cmd("SET").arg(&entry).arg(text(value)).arg("PX").arg(VALUE_MS).query_async(&mut link.cache).await
}

/// A server that runs out of memory: it evicts values, leases and pointers at any time.
pub async fn evict(mut link: Link) {
    while !link.world.stops() {
        tokio::time::sleep(Duration::from_millis(link.rng.u64(..20))).await;
        let row = row(&mut link.rng);
        let key = match link.rng.u32(..4) {
            0 => format!("lease:{row}").into_bytes(),
            1 => lease_of(format!("lease:{row}").as_bytes()),
            2 => format!("ptr:{row}:version").into_bytes(),
            _ => format!("plain:{row}").into_bytes(),
        };
        let gone: RedisResult<usize> = redis::cmd("DEL").arg(key).query_async(&mut link.cache).await;
        link.world.history.count("evicted: keys, leases and pointers", gone.unwrap_or(0));
    }
}

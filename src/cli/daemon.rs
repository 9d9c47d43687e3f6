//! Queries the daemon that runs with this configuration over its admin HTTP server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::admin::status::View;
use crate::cli::Failure;
use crate::config::{ADMIN_LISTEN, Config, Part, SourceConfig};

/// How long the daemon may take for an answer that does not wait for anything.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

/// The longest answer that coherd reads, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 << 20;

/// The hint for a daemon that does not answer.
const HINT: &str =
    "is the daemon running, with this configuration? `coherd run` starts it, admin.listen says where it answers";

/// `--admin`
#[derive(Debug, Default, Clone, Copy, clap::Args)]
pub struct AdminOption {
    /// Admin address of the daemon, as IP:PORT. Default: admin.listen in the configuration
    #[arg(long, value_name = "ADDRESS", env = "COHERD_ADMIN", hide_env_values = true)]
    admin: Option<SocketAddr>,
}

/// Where the daemon answers, and the part of its configuration that can be used.
#[derive(Debug)]
pub struct Way {
    listen: SocketAddr,
    /// The source section of the configuration, if it can be used.
    pub(super) source: Option<SourceConfig>,
    /// The configuration as a whole cannot be used. [`Way::find`] has reported why.
    is_broken: bool,
}

impl Way {
    /// The daemon of this configuration.
    pub(super) fn of(config: &Config) -> Way {
        Way { listen: config.admin.listen, source: Some(config.source.clone()), is_broken: false }
    }

    /// The daemon of the configuration at `path`. A file that cannot be used is reported on stderr and does not end the
    /// command: the daemon may still run with the file's previous contents.
    pub(super) fn find(option: AdminOption, path: &Path) -> Way {
        let env = |name: &str| std::env::var(name).ok();
        let error = match Config::load(path, &env) {
            Ok(config) => return Way { listen: option.admin.unwrap_or(config.admin.listen), ..Way::of(&config) },
            Err(error) => error,
        };
        let part = Part::load(path, &env);
        let listen = option.admin.or(part.admin.map(|admin| admin.listen));
        let listen =
            listen.or_else(|| ADMIN_LISTEN.parse().ok()).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)));
        eprintln!("{error}\ncoherd: the configuration cannot be used; asking the daemon at {listen} all the same");
        Way { listen, source: part.source, is_broken: true }
    }

    /// The failure for a daemon that could not be asked.
    pub(super) fn failed(&self, error: anyhow::Error) -> Failure {
        if self.is_broken { Failure::Setting(format!("{error:#}")) } else { Failure::Failed(error) }
    }
}

/// An HTTP answer.
pub(super) struct Answer {
    pub(super) code: u16,
    pub(super) body: String,
}

/// The body of the daemon's `/status`.
pub(super) async fn status(way: &Way) -> anyhow::Result<String> {
    let answer = ask(way, "/status", TIMEOUT).await?;
    if answer.code != 200 {
        bail!("{}: the answer has status {}: {HINT}", url(way, "/status"), answer.code);
    }
    Ok(answer.body)
}

/// Parses the body that [`status`] returned.
pub(super) fn view(way: &Way, body: &str) -> anyhow::Result<View> {
    serde_json::from_str(body).with_context(|| {
        let url = url(way, "/status");
        format!("{url} did not give the status of a coherd {}", env!("CARGO_PKG_VERSION"))
    })
}

/// Sends one GET. Fails if there is no answer within `patience`.
pub(super) async fn ask(way: &Way, path: &str, patience: Duration) -> anyhow::Result<Answer> {
    let asked = tokio::time::timeout(patience, get(reachable(way.listen), path)).await;
    asked
        .unwrap_or_else(|_| Err(anyhow!("no answer within {} s", patience.as_secs())))
        .with_context(|| format!("asking {}: {HINT}", url(way, path)))
}

fn url(way: &Way, path: &str) -> String {
    let path = path.split('?').next().unwrap_or_default();
    format!("http://{}{path}", reachable(way.listen))
}

/// Replaces an address that means "every interface" with loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Uses HTTP/1.0, so that the answer is not chunked and ends with the connection.
async fn get(address: SocketAddr, path: &str) -> anyhow::Result<Answer> {
    let mut socket = TcpStream::connect(address).await?;
    socket.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    socket.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("what answers there speaks no HTTP")?;
    let code = head.split_ascii_whitespace().nth(1).and_then(|code| code.parse().ok());
    Ok(Answer { code: code.context("what answers there speaks no HTTP")?, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_is_asked_at_loopback() {
        for (listen, asked) in [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(reachable(listen.parse().unwrap()), asked.parse().unwrap());
        }
    }
}

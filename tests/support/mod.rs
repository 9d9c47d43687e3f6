//! Real servers as child processes, on free ports, in temp dirs, stopped on Drop.

pub mod chance;
pub mod daemon;
pub mod hostile;
pub mod manager;
pub mod planted;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod redis;
pub mod standby;
pub mod wait;

pub use daemon::Daemon;
pub use manager::Manager;
pub use postgres::{Database, Postgres};
pub use proxy::Proxy;
pub use redis::Redis;
pub use wait::until;

//! A connection to Postgres: where the server is ([`dsn`]), how to reach it and to get in, and two ways of speaking with it:
//! replication connections ([`session`]) and ordinary SQL ([`sql`]). Everything that a server sends is bounded in here.

mod channel_binding;
pub(in crate::postgres) mod dial;
pub mod dsn;
mod guard;
pub(in crate::postgres) mod handshake;
pub(in crate::postgres) mod inbox;
pub(in crate::postgres) mod notices;
mod passfile;
pub(in crate::postgres) mod server_error;
pub(in crate::postgres) mod session;
pub(in crate::postgres) mod socket;
pub mod sql;
mod tls;

//! A connection to Postgres: where the server is ([`dsn`]), how to reach it and log in, and two ways of talking to it,
//! replication connections ([`session`]) and ordinary SQL ([`sql`]). This module bounds everything that a server sends.

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

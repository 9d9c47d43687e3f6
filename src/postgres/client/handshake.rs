//! Starts and authenticates a replication connection (Postgres manual, "Start-up" and "SASL Authentication").

use bytes::Buf;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use secrecy::{ExposeSecret, SecretString};

use super::dsn::{ChannelBindingChoice, Dsn};
use super::notices::shortened;
use super::session::{Failure, Session, unexpected};
use super::socket::Socket;
use crate::postgres::{ErrorKind, SourceError};

/// The text form of values depends on these settings. Keys are made of values, so they must not depend on how a server
/// or a role is configured.
pub(in crate::postgres) const TEXT_OUTPUT: [(&str, &str); 5] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("extra_float_digits", "3"),
    ("bytea_output", "hex"),
    ("TimeZone", "UTC"),
];

/// The only schemas in which our statements look up functions, operators and types. Otherwise a role that may create
/// objects in a schema of the database (its owner; before Postgres 15 everybody, in `public`) could make a function or
/// an operator that our statement then runs with our rights.
pub(in crate::postgres) const SEARCH_PATH: &str = "pg_catalog,pg_temp";

/// The startup parameter `options`: those of the connection string, then those that every session of ours needs. The
/// last one of a name wins, also over `ALTER ROLE … SET` and `ALTER DATABASE … SET`.
pub(in crate::postgres) fn options<'a>(dsn: &Dsn, ours: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let given = dsn.options.as_deref().unwrap_or_default();
    let backslashes = given.len() - given.trim_end_matches('\\').len();
    // The server drops an odd backslash at the end; here it would escape the space that follows.
    let given = if backslashes % 2 == 1 { given.get(..given.len() - 1).unwrap_or_default() } else { given };
    let ours = ours.into_iter().map(|(name, value)| format!("-c {name}={value}"));
    std::iter::once(given.to_owned()).filter(|given| !given.is_empty()).chain(ours).collect::<Vec<_>>().join(" ")
}

/// Refuses a server that has not applied [`SEARCH_PATH`]; `shown` is the result of `SHOW search_path`.
pub(in crate::postgres) fn require_search_path(shown: &str) -> Result<(), SourceError> {
    let plain: String = shown.chars().filter(|c| !c.is_whitespace()).collect();
    if plain == SEARCH_PATH {
        return Ok(());
    }
    let what = "the server ignores the startup parameter search_path, so functions of other users could run with coherd's \
                privileges";
    let remedy = "Is it a pooler such as pgbouncer? Use the server's own address";
    Err(SourceError::new(ErrorKind::Pooler, what).remedy(remedy))
}

/// Logs in for replication from the database of `dsn`.
pub(in crate::postgres) async fn open(
    socket: Socket,
    dsn: &Dsn,
    password: Option<&SecretString>,
) -> Result<Session, Failure> {
    let mut session = Session::new(socket);
    let mut parameters = vec![
        ("user", dsn.user()),
        ("database", dsn.database()),
        ("replication", "database"),
        ("application_name", &dsn.application_name),
        ("client_encoding", "UTF8"),
    ];
    parameters.extend(TEXT_OUTPUT);
    // Overrides the same setting in `options`, whatever the order.
    parameters.push(("search_path", SEARCH_PATH));
    if let Some(options) = &dsn.options {
        parameters.push(("options", options));
    }
    session.send(|out| frontend::startup_message(parameters, out)).await?;
    authenticate(&mut session, dsn, password).await?;
    loop {
        let message = session.receive().await?;
        match message.tag {
            b'K' => {
                let mut body = session.inbox.body(&message);
                session.backend_pid = body.try_get_u32().unwrap_or(0);
                session.secret_key = body.try_get_u32().unwrap_or(0);
            }
            b'Z' => break,
            tag => return Err(unexpected(tag).into()),
        }
    }
    let shown = session.query("SHOW search_path").await?;
    let shown = shown.first().and_then(|row| row.first()).and_then(Option::as_deref);
    require_search_path(shown.unwrap_or_default())?;
    Ok(session)
}

/// An authentication request of the server.
enum Request {
    Ok,
    Cleartext,
    Md5([u8; 4]),
    Sasl(Vec<String>),
    SaslContinue(Vec<u8>),
    SaslFinal(Vec<u8>),
    Other(u32),
}

async fn request(session: &mut Session) -> Result<Request, Failure> {
    let message = session.receive().await?;
    if message.tag != b'R' {
        return Err(unexpected(message.tag).into());
    }
    let mut body = session.inbox.body(&message);
    Ok(match body.try_get_u32().map_err(|_| unexpected(b'R'))? {
        0 => Request::Ok,
        3 => Request::Cleartext,
        5 => Request::Md5(body.try_into().map_err(|_| unexpected(b'R'))?),
        10 => {
            let names = body.split(|byte| *byte == 0).filter(|name| !name.is_empty());
            Request::Sasl(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
        }
        11 => Request::SaslContinue(body.to_vec()),
        12 => Request::SaslFinal(body.to_vec()),
        other => Request::Other(other),
    })
}

async fn authenticate(session: &mut Session, dsn: &Dsn, password: Option<&SecretString>) -> Result<(), Failure> {
    let given = || {
        let password = password.map(|password| password.expose_secret().as_bytes());
        password.ok_or_else(|| no_password(dsn.user()))
    };
    let first = request(session).await?;
    let binds = matches!(&first, Request::Sasl(names) if names.iter().any(|name| name == SCRAM_SHA_256_PLUS));
    if dsn.channel_binding == ChannelBindingChoice::Require && !binds {
        return Err(no_binding(NOT_OFFERED).into());
    }
    match first {
        Request::Ok => return Ok(()),
        Request::Cleartext => {
            let password = given()?;
            session.send(|out| frontend::password_message(password, out)).await?;
        }
        Request::Md5(salt) => {
            let hash = md5_hash(dsn.user().as_bytes(), given()?, salt);
            session.send(|out| frontend::password_message(hash.as_bytes(), out)).await?;
        }
        Request::Sasl(mechanisms) => scram(session, dsn, given()?, &mechanisms).await?,
        Request::SaslContinue(_) | Request::SaslFinal(_) => return Err(unexpected(b'R').into()),
        Request::Other(method) => return Err(unsupported(method).into()),
    }
    match request(session).await? {
        Request::Ok => Ok(()),
        _ => Err(unexpected(b'R').into()),
    }
}

/// The most common reason for missing channel binding.
pub(in crate::postgres) const NOT_OFFERED: &str =
    "the server does not offer it for this connection (it needs TLS and scram-sha-256)";

/// The reason for missing channel binding with TLS and SCRAM.
pub(in crate::postgres) const NO_HASH: &str =
    "the signature of the server's certificate defines no hash for it (Ed25519)";

pub(in crate::postgres) fn no_password(user: &str) -> SourceError {
    SourceError::refused(format!(
        "the server asks {user} for a password and none is given: set it in dsn, in PGPASSWORD or in the password file"
    ))
}

pub(in crate::postgres) fn no_binding(why: &str) -> SourceError {
    SourceError::refused(format!("channel_binding=require cannot be had: {why}"))
}

pub(in crate::postgres) fn unsupported(method: u32) -> SourceError {
    let name = match method {
        2 => "Kerberos V5",
        7 | 8 => "GSSAPI",
        9 => "SSPI",
        _ => "an unknown method",
    };
    SourceError::refused(format!(
        "the server asks for {name} (authentication request {method}), which coherd does not speak; give it a line \
         with scram-sha-256 or cert in pg_hba.conf"
    ))
}

async fn scram(session: &mut Session, dsn: &Dsn, password: &[u8], offered: &[String]) -> Result<(), Failure> {
    let offers = |name| offered.iter().any(|offered| offered == name);
    let end_point = session.socket.end_point().filter(|_| dsn.channel_binding != ChannelBindingChoice::Disable);
    let (binding, mechanism) = match end_point {
        Some(data) if offers(SCRAM_SHA_256_PLUS) => (ChannelBinding::tls_server_end_point(data), SCRAM_SHA_256_PLUS),
        _ if dsn.channel_binding == ChannelBindingChoice::Require => {
            return Err(no_binding(NO_HASH).into());
        }
        // coherd could have bound, and says so: a server that did offer it then knows that somebody is in between.
        Some(_) if offers(SCRAM_SHA_256) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
        None if offers(SCRAM_SHA_256) => (ChannelBinding::unsupported(), SCRAM_SHA_256),
        _ => {
            let offered = shortened(&offered.join(", "));
            let text = format!("the server offers only {offered}, of which coherd speaks none; use scram-sha-256");
            return Err(SourceError::refused(text).into());
        }
    };
    let broken = |error: std::io::Error| {
        let what = "the server failed its part of the SCRAM exchange";
        let remedy = "It does not know this password, or the connection is intercepted";
        SourceError::refused(what).caused_by(error).remedy(remedy)
    };
    let mut scram = ScramSha256::new(password, binding);
    session.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
    let Request::SaslContinue(data) = request(session).await? else { return Err(unexpected(b'R').into()) };
    scram.update(&data).map_err(broken)?;
    session.send(|out| frontend::sasl_response(scram.message(), out)).await?;
    let Request::SaslFinal(data) = request(session).await? else { return Err(unexpected(b'R').into()) };
    scram.finish(&data).map_err(broken)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_the_last_of_the_options_whatever_the_connection_string_ends_with() {
        for (given, sent) in [
            ("", "-c search_path=pg_catalog,pg_temp"),
            ("-c search_path=public", "-c search_path=public -c search_path=pg_catalog,pg_temp"),
            ("-c a=b\\", "-c a=b -c search_path=pg_catalog,pg_temp"),
            ("-c a=b\\\\", "-c a=b\\\\ -c search_path=pg_catalog,pg_temp"),
        ] {
            let mut dsn = Dsn::parse("host=h user=u", &|_| None).unwrap();
            dsn.options = (!given.is_empty()).then(|| given.to_owned());
            assert_eq!(options(&dsn, [("search_path", SEARCH_PATH)]), sent);
        }
    }

    #[test]
    fn a_path_that_is_not_ours_is_refused() {
        assert!(
            require_search_path("pg_catalog,pg_temp").is_ok() && require_search_path("pg_catalog, pg_temp").is_ok()
        );
        for other in ["", "public", "pg_catalog", "public, pg_catalog, pg_temp", "\"$user\", public"] {
            assert!(require_search_path(other).is_err(), "{other}");
        }
    }
}

//! The connection parameters that libpq knows, and what coherd does with each.

use std::collections::BTreeMap;

/// What is wrong with a connection string. Holds the name of the parameter, never the value of a password and never
/// the whole string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("connection string: {0}")]
pub struct DsnError(pub(super) String);

/// What coherd does with a parameter.
pub(super) enum Use {
    /// It has an effect.
    Yes,
    /// coherd accepts only these values; they ask for what it does anyway.
    Only(&'static [&'static str], &'static str),
    /// coherd accepts any value, which has no effect.
    Ignored,
    /// Not supported: what to do instead.
    No(&'static str),
}

/// One libpq parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    pub(super) env: &'static str,
    pub(super) used: Use,
}

const fn yes(name: &'static str, env: &'static str) -> Parameter {
    Parameter { name, env, used: Use::Yes }
}

const fn no(name: &'static str, env: &'static str, instead: &'static str) -> Parameter {
    Parameter { name, env, used: Use::No(instead) }
}

const fn ignored(name: &'static str, env: &'static str) -> Parameter {
    Parameter { name, env, used: Use::Ignored }
}

const fn only(name: &'static str, env: &'static str, values: &'static [&'static str], why: &'static str) -> Parameter {
    Parameter { name, env, used: Use::Only(values, why) }
}

const NO_GSS: &str = "GSSAPI and SSPI are not offered; use a password (SCRAM) or a client certificate";
const NO_OAUTH: &str = "OAuth is not offered; use a password (SCRAM) or a client certificate";
const NO_CRL: &str = "revocation lists are not offered; take the revoked certificate's authority out of sslrootcert";

/// Every parameter of libpq 18 (Postgres manual, "Parameter Key Words"). An empty `env` means that it has no variable.
pub(super) const PARAMETERS: &[Parameter] = &[
    yes("host", "PGHOST"),
    yes("hostaddr", "PGHOSTADDR"),
    yes("port", "PGPORT"),
    yes("dbname", "PGDATABASE"),
    yes("user", "PGUSER"),
    yes("password", "PGPASSWORD"),
    yes("passfile", "PGPASSFILE"),
    yes("channel_binding", "PGCHANNELBINDING"),
    yes("connect_timeout", "PGCONNECT_TIMEOUT"),
    yes("options", "PGOPTIONS"),
    yes("application_name", "PGAPPNAME"),
    yes("fallback_application_name", ""),
    yes("keepalives", ""),
    yes("keepalives_idle", ""),
    yes("keepalives_interval", ""),
    yes("keepalives_count", ""),
    yes("tcp_user_timeout", ""),
    yes("sslmode", "PGSSLMODE"),
    yes("sslnegotiation", "PGSSLNEGOTIATION"),
    yes("sslcert", "PGSSLCERT"),
    yes("sslkey", "PGSSLKEY"),
    yes("sslrootcert", "PGSSLROOTCERT"),
    yes("sslsni", "PGSSLSNI"),
    yes("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    yes("target_session_attrs", "PGTARGETSESSIONATTRS"),
    yes("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    only("client_encoding", "PGCLIENTENCODING", &["UTF8", "utf8", "UTF-8", "auto"], "coherd always speaks UTF8"),
    only("gssencmode", "PGGSSENCMODE", &["disable", "prefer"], NO_GSS),
    only("sslcertmode", "PGSSLCERTMODE", &["allow"], "leave it out; sslcert and sslkey decide"),
    only(
        "ssl_max_protocol_version",
        "PGSSLMAXPROTOCOLVERSION",
        &["TLSv1.3"],
        "leave it out; TLS 1.2 and 1.3 are spoken",
    ),
    only("sslcompression", "", &["0"], "TLS compression is unsafe and not offered"),
    only("min_protocol_version", "PGMINPROTOCOLVERSION", &["3.0"], "coherd speaks protocol 3.0"),
    ignored("max_protocol_version", "PGMAXPROTOCOLVERSION"),
    ignored("krbsrvname", "PGKRBSRVNAME"),
    ignored("gsslib", "PGGSSLIB"),
    ignored("gssdelegation", "PGGSSDELEGATION"),
    no("replication", "", "coherd sets it by itself; leave it out"),
    no(
        "require_auth",
        "PGREQUIREAUTH",
        "use channel_binding=require or sslmode=verify-full to rule out weaker methods",
    ),
    no("requiressl", "PGREQUIRESSL", "it is obsolete; write sslmode=require"),
    no(
        "requirepeer",
        "PGREQUIREPEER",
        "the owner of the socket is not checked; use a directory that only the server can write",
    ),
    no("service", "PGSERVICE", "service files are not read; write the parameters out"),
    no("servicefile", "PGSERVICEFILE", "service files are not read; write the parameters out"),
    no("sslpassword", "", "encrypted keys are not offered; decrypt it: openssl pkey -in KEY -out PLAIN"),
    no("sslcrl", "PGSSLCRL", NO_CRL),
    no("sslcrldir", "PGSSLCRLDIR", NO_CRL),
    no("sslkeylogfile", "", "session keys are never written out; leave it out"),
    no("scram_client_key", "", "give the password"),
    no("scram_server_key", "", "give the password"),
    no("oauth_issuer", "", NO_OAUTH),
    no("oauth_client_id", "", NO_OAUTH),
    no("oauth_client_secret", "", NO_OAUTH),
    no("oauth_scope", "", NO_OAUTH),
];

/// Parameters as they were written.
#[derive(Default)]
pub(super) struct Given {
    values: BTreeMap<&'static str, String>,
}

impl Given {
    /// Sets a parameter. The last value of a name wins, as in libpq. Refuses unknown names and unsupported values.
    pub(super) fn put(&mut self, name: &str, value: String) -> Result<(), DsnError> {
        let parameter = find(name)?;
        check(parameter, &value)?;
        self.values.insert(parameter.name, value);
        Ok(())
    }

    /// The value as written.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// The value as written, otherwise that of the environment. An empty value counts as none, as in libpq.
    pub(super) fn or_env(&self, name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, DsnError> {
        if let Some(value) = self.get(name).filter(|value| !value.is_empty()) {
            return Ok(Some(value.to_owned()));
        }
        let parameter = find(name)?;
        if parameter.env.is_empty() {
            return Ok(None);
        }
        Ok(env(parameter.env).filter(|value| !value.is_empty()))
    }

    /// Refuses an environment that asks for something unsupported.
    pub(super) fn check_env(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<(), DsnError> {
        for parameter in PARAMETERS.iter().filter(|parameter| !parameter.env.is_empty()) {
            let value = env(parameter.env).filter(|value| !value.is_empty());
            if let (None, Some(value)) = (self.get(parameter.name), value) {
                check(parameter, &value).map_err(|error| DsnError(format!("{} (from {})", error.0, parameter.env)))?;
            }
        }
        Ok(())
    }
}

fn check(parameter: &Parameter, value: &str) -> Result<(), DsnError> {
    match parameter.used {
        Use::No(instead) => Err(DsnError(format!("{}: {instead}", parameter.name))),
        Use::Only(values, why) if !value.is_empty() && !values.contains(&value) => {
            Err(DsnError(format!("{}: only {} is possible: {why}", parameter.name, values.join(", "))))
        }
        Use::Only(..) | Use::Yes | Use::Ignored => Ok(()),
    }
}

fn find(name: &str) -> Result<&'static Parameter, DsnError> {
    if let Some(parameter) = PARAMETERS.iter().find(|parameter| parameter.name == name) {
        return Ok(parameter);
    }
    // A password with a blank or an ampersand in it falls apart into "names", so a name is shown only if it is close to
    // a real one.
    let nearest = PARAMETERS
        .iter()
        .map(|parameter| (strsim::damerau_levenshtein(parameter.name, name), parameter.name))
        .min()
        .filter(|(distance, known)| *distance <= known.len() / 3);
    let text = match nearest {
        Some((_, nearest)) => format!("{name} is no parameter; {nearest} is"),
        None => "unknown parameter; the names are those of libpq (host, port, user, dbname, sslmode, …). Quote a \
                 password with special characters (key=value form), or percent-encode it (URI)"
            .to_owned(),
    };
    Err(DsnError(text))
}

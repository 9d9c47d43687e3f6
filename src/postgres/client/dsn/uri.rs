//! The URI form: `postgresql://user:password@host:port,host:port/database?name=value&…`.

use percent_encoding::percent_decode_str;

use super::parameter::{DsnError, Given};

/// Reads what follows `postgresql://`.
pub(super) fn read(rest: &str, given: &mut Given) -> Result<(), DsnError> {
    let (before_query, query) = rest.split_once('?').map_or((rest, None), |(before, query)| (before, Some(query)));
    let (authority, database) = before_query.split_once('/').map_or((before_query, ""), |(a, d)| (a, d));
    if database.contains('@') {
        return Err(DsnError(
            "an @ stands after the first slash: a slash, ?, # or @ in the password must be percent-encoded (%2F, %3F, \
             %23, %40)"
                .to_owned(),
        ));
    }
    let (credentials, hosts) = authority.rsplit_once('@').map_or(("", authority), |(c, hosts)| (c, hosts));
    let (user, password) = credentials.split_once(':').map_or((credentials, None), |(u, p)| (u, Some(p)));
    put_decoded(given, "user", user)?;
    if let Some(password) = password {
        put_decoded(given, "password", password)?;
    }
    read_hosts(hosts, given)?;
    put_decoded(given, "dbname", database)?;
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        read_pair(pair, given)?;
    }
    Ok(())
}

fn read_pair(pair: &str, given: &mut Given) -> Result<(), DsnError> {
    let Some((name, value)) = pair.split_once('=') else {
        return Err(DsnError(
            "a parameter after the ? has no =: write name=value, and percent-encode & and ? in values".to_owned(),
        ));
    };
    let name = decode("a parameter name", name)?;
    match (name.as_str(), value) {
        // JDBC's spelling, which libpq accepts too.
        ("ssl", "true") => given.put("sslmode", "require".to_owned()),
        (name, value) => given.put(name, decode(name, value)?),
    }
}

fn read_hosts(text: &str, given: &mut Given) -> Result<(), DsnError> {
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    for part in text.split(',') {
        let (host, port) = match part.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']').ok_or_else(|| {
                    DsnError("an IPv6 address lacks its closing bracket: write [2001:db8::1]:5432".to_owned())
                })?;
                let port = after.strip_prefix(':').or(Some(after).filter(|after| after.is_empty()));
                let port = port.ok_or_else(|| DsnError("after an IPv6 address only :port can stand".to_owned()))?;
                (address, port)
            }
            None => part.split_once(':').unwrap_or((part, "")),
        };
        hosts.push(decode("host", host)?);
        ports.push(decode("port", port)?);
    }
    if hosts.iter().any(|host| !host.is_empty()) {
        given.put("host", hosts.join(","))?;
    }
    if ports.iter().any(|port| !port.is_empty()) {
        given.put("port", ports.join(","))?;
    }
    Ok(())
}

fn put_decoded(given: &mut Given, name: &str, value: &str) -> Result<(), DsnError> {
    if value.is_empty() { Ok(()) } else { given.put(name, decode(name, value)?) }
}

fn decode(name: &str, value: &str) -> Result<String, DsnError> {
    let hex = |part: &str| part.as_bytes().get(..2).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit));
    if !value.split('%').skip(1).all(hex) {
        return Err(DsnError(format!("{name}: a % is not followed by two hex digits; a % itself is written %25")));
    }
    let text = percent_decode_str(value).decode_utf8();
    let text = text.map_err(|_| DsnError(format!("{name}: percent-encoded bytes are not UTF-8")))?;
    if text.contains('\0') {
        return Err(DsnError(format!("{name}: %00 is not allowed")));
    }
    Ok(text.into_owned())
}

//! The host names to which these pages answer. A web page can point its own name at this address (DNS rebinding), and
//! the browser then lets it read what is here. But the browser sends the name in the request, and an attacker can only
//! use a name that can be registered.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Names that nobody can register.
const PRIVATE: [&str; 3] = [".localhost", ".local", ".internal"];

/// Refuses requests to host names that are not ours.
pub(super) async fn check(State(hosts): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let header = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
    let target = request.uri().authority().map(axum::http::uri::Authority::as_str);
    // HTTP/1.0 requests may have no host; no browser sends such requests.
    match header.into_iter().chain(target).find(|host| !is_ours(host, &hosts)) {
        None => next.run(request).await,
        Some(host) => {
            let name: String = name_of(host).chars().take(100).collect();
            let text = format!(
                "coherd does not answer to the name {name:?}, because anyone could have registered it: use its IP \
                 address, or add the name to the configuration (admin: hosts: [...]) and restart coherd\n"
            );
            (StatusCode::MISDIRECTED_REQUEST, text).into_response()
        }
    }
}

/// The name without the port.
fn name_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        _ => host,
    }
}

fn is_ours(host: &str, hosts: &[String]) -> bool {
    let name = name_of(host).trim_end_matches('.').to_ascii_lowercase();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(&name);
    address.parse::<IpAddr>().is_ok()
        || !name.contains('.')
        || PRIVATE.iter().any(|private| name.ends_with(private))
        || hosts.iter().any(|host| host.trim_end_matches('.').eq_ignore_ascii_case(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_private_names_and_those_of_the_configuration_are_ours_and_no_others() {
        let hosts = ["coherd.example.com".to_owned()];
        for host in [
            "127.0.0.1",
            "127.0.0.1:9871",
            "10.1.2.3:80",
            "[::1]:9871",
            "[fe80::1]",
            "localhost",
            "LOCALHOST:9871",
            "coherd",
            "coherd:9871",
            "coherd.local:1",
            "a.b.internal",
            "app.localhost",
            "coherd.example.com",
            "Coherd.Example.COM.:9871",
        ] {
            assert!(is_ours(host, &hosts), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9871",
            "coherd.example.com.evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "x.coherd.example.com",
            "example.com:80:80",
            "127.0.0.1.nip.io",
        ] {
            assert!(!is_ours(host, &hosts), "{host}");
        }
    }
}

//! Who may ask: whoever bears the token; and, where there is none, whoever asks this machine by a name of its own.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::api::problem;
use super::settings::HttpSettings;

/// Passes a request on if it may be asked.
pub async fn check(State(settings): State<Arc<HttpSettings>>, request: Request, next: Next) -> Response {
    match &settings.token {
        Some(token) if !bears(request.headers(), token) => {
            let remedy = "send the token of [http] as `Authorization: Bearer …`";
            let answer = problem(StatusCode::UNAUTHORIZED, "a token is needed", remedy);
            return ([("www-authenticate", "Bearer")], answer).into_response();
        }
        // A page of another site may have its own name resolve to this machine.
        None if !asks_this_machine(request.headers()) => {
            let remedy = "ask for localhost or an address, or set a token in [http]";
            return problem(StatusCode::FORBIDDEN, "the request is for another host", remedy).into_response();
        }
        _ => {}
    }
    if request.method() == Method::POST && !settings.allow_control {
        let remedy = "set allow_control = true in [http], or use the command line";
        return problem(StatusCode::FORBIDDEN, "verbs are not allowed here", remedy).into_response();
    }
    next.run(request).await
}

/// Whether the headers have the token. Takes as long for every wrong one.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let Some(given) = value.and_then(|value| value.strip_prefix("Bearer ")) else { return false };
    let (given, wanted) = (Sha256::digest(given.as_bytes()), Sha256::digest(token.as_bytes()));
    given.iter().zip(wanted.iter()).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

fn asks_this_machine(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(HOST).and_then(|host| host.to_str().ok()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    name == "localhost" || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        [(axum::http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn only_the_whole_token_is_borne() {
        assert!(bears(&headers("authorization", "Bearer secret"), "secret"));
        for wrong in ["Bearer secre", "Bearer secrets", "Bearer ", "secret", "Basic secret"] {
            assert!(!bears(&headers("authorization", wrong), "secret"), "{wrong}");
        }
        assert!(!bears(&HeaderMap::new(), "secret"));
    }

    #[test]
    fn names_of_other_hosts_are_not_this_machine() {
        for own in ["localhost", "localhost:9640", "127.0.0.1:9640", "[::1]:9640", "[::1]"] {
            assert!(asks_this_machine(&headers("host", own)), "{own}");
        }
        assert!(!asks_this_machine(&headers("host", "evil.example:9640")));
    }
}

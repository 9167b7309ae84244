//! Who may ask: whoever bears the token, or has presented a certificate; and, where neither is asked for, whoever asks
//! this machine by a name of its own.

use axum::extract::{ConnectInfo, Request, State};
use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::api::problem;
use super::caller::{Peer, on_behalf};
use super::gate::Gate;
use super::settings::HttpSettings;

/// Passes a request on if it may be asked: by whoever bears the token, or has presented a certificate.
pub async fn check(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let (settings, token) = (&gate.settings, gate.live.token());
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.clone()).unwrap_or_default();
    let has_token = token.as_ref().is_some_and(|token| bears(request.headers(), token));
    let is_known = peer.certificate.is_some() || has_token;
    if !is_known && let Some(refused) = refuse(settings, token.is_some(), request.headers()) {
        return refused;
    }
    if request.method() == Method::POST && !settings.allow_control {
        let remedy = "set allow_control = true in [http], or use the command line";
        return problem(StatusCode::FORBIDDEN, "verbs are not allowed here", remedy).into_response();
    }
    on_behalf(peer.told(has_token), next.run(request)).await
}

/// The answer to whoever has not shown who they are; none if nobody has to.
fn refuse(settings: &HttpSettings, has_token: bool, headers: &HeaderMap) -> Option<Response> {
    match (has_token, settings.asks_for_certificates()) {
        (true, _) => {
            let remedy = "send the token of [http] as `Authorization: Bearer …`";
            let answer = problem(StatusCode::UNAUTHORIZED, "a token is needed", remedy);
            Some(([("www-authenticate", "Bearer")], answer).into_response())
        }
        (false, true) => {
            let remedy = "present one that client_ca of [http] has signed";
            Some(problem(StatusCode::FORBIDDEN, "a client certificate is needed", remedy).into_response())
        }
        // A page of another site may have its own name resolve to this machine.
        (false, false) if !asks_this_machine(headers) => {
            let remedy = "ask for localhost or an address, or set a token in [http]";
            Some(problem(StatusCode::FORBIDDEN, "the request is for another host", remedy).into_response())
        }
        (false, false) => None,
    }
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

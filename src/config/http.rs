//! The section `[http]` of the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::reader::Section;
use crate::http::settings::HttpSettings;

/// Where it is listened, unless configured: on this machine only.
const DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9640);
/// Silence after which the process counts as stalled, unless configured.
pub const STALLED_AFTER: Duration = Duration::from_secs(300);

/// Reads `[http]`; none if something of it is refused.
pub fn read_http(section: &mut Section) -> Option<HttpSettings> {
    let listen = section.optional("listen", |text| {
        text.parse::<SocketAddr>().map_err(|_| "expected an address and a port, such as \"127.0.0.1:9640\"".to_owned())
    });
    let (names_token, token_file) = (section.has("token"), section.secret_file("token"));
    let token = section.secret("token");
    if token.as_ref().is_some_and(String::is_empty) {
        section.problem("token", "is empty");
    }
    let listen = listen.unwrap_or(DEFAULT);
    if !listen.ip().is_loopback() && !names_token {
        section
            .problem("listen", "beyond this machine a token is needed: set token, such as { env = \"SOONER_TOKEN\" }");
    }
    Some(HttpSettings {
        listen,
        token,
        token_file,
        allow_control: section.flag("allow_control", false),
        table_metrics: section.flag("table_metrics", true),
        stalled_after: section.duration("stalled_after", STALLED_AFTER, Duration::from_secs(30)),
    })
}

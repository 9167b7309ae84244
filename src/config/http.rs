//! The section `[http]` of the configuration.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::reader::Section;
use crate::http::settings::{HttpSettings, TlsFiles};

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
    let names_authority = section.has("client_ca");
    let tls = read_tls(section);
    if !listen.ip().is_loopback() && !names_token && !names_authority {
        let why = "beyond this machine a token or client certificates are needed: set token, such as \
                   { env = \"SOONER_TOKEN\" }, or certificate, key and client_ca";
        section.problem("listen", why);
    }
    Some(HttpSettings {
        listen,
        tls,
        token,
        token_file,
        allow_control: section.flag("allow_control", false),
        table_metrics: section.flag("table_metrics", true),
        stalled_after: section.duration("stalled_after", STALLED_AFTER, Duration::from_secs(30)),
    })
}

fn read_tls(section: &mut Section) -> Option<TlsFiles> {
    let names = ["certificate", "key", "client_ca"].map(|key| section.has(key));
    let (certificate, key, client_ca) = (section.path("certificate"), section.path("key"), section.path("client_ca"));
    if matches!(names, [true, false, _] | [false, true, _] | [false, false, true]) {
        let why = "certificate and key go together, and client_ca needs both: set certificate and key";
        section.problem("certificate", why);
    }
    Some(TlsFiles { certificate: certificate?, key: key?, client_ca })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(text: &str) -> (Option<HttpSettings>, Vec<String>) {
        let mut section = Section::root(text.parse().unwrap(), Path::new(env!("CARGO_MANIFEST_DIR")));
        let settings = read_http(&mut section);
        (settings, section.finish())
    }

    #[test]
    fn beyond_this_machine_a_token_or_client_certificates_are_needed() {
        let beyond = "listen = '0.0.0.0:9640'\n";
        let tls = "certificate = 'Cargo.toml'\nkey = 'Cargo.toml'\n";
        for allowed in [
            String::new(),
            tls.to_owned(),
            format!("{beyond}token = {{ env = 'PATH' }}"),
            format!("{beyond}{tls}client_ca = 'Cargo.toml'"),
        ] {
            let (settings, problems) = read(&allowed);
            assert!(settings.is_some() && problems.is_empty(), "{allowed}: {problems:?}");
        }
        for (refused, why) in [
            (beyond.to_owned(), "client_ca"),
            (format!("{beyond}{tls}"), "client_ca"),
            ("certificate = 'Cargo.toml'".to_owned(), "go together"),
            ("client_ca = 'Cargo.toml'".to_owned(), "needs both"),
            (format!("{tls}client_ca = 'nowhere.pem'"), "cannot be read"),
            ("token = { file = 'src/config/no' }".to_owned(), "cannot be read"),
        ] {
            let problems = read(&refused).1.join("\n");
            assert!(problems.contains(why), "{refused}: {problems}");
        }
    }

    #[test]
    fn a_token_that_is_read_again_makes_no_other_listener() {
        let of = |text: &str| read(text).0.unwrap();
        let file = of("token = { file = 'rust-toolchain.toml' }");
        assert!(file.listens_as(&HttpSettings { token: Some("another".into()), ..file.clone() }));
        let variable = of("token = { env = 'PATH' }");
        assert!(!variable.listens_as(&HttpSettings { token: Some("another".into()), ..variable.clone() }));
        assert!(!file.listens_as(&of("allow_control = true\ntoken = { file = 'rust-toolchain.toml' }")));
    }
}

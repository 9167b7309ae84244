//! Connection options: a `postgres://` URL with libpq's parameters.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use sooner_api::{Code, Error, Result};
use url::Url;

use crate::errors::pooled;

const DEFAULT_PORT: u16 = 5432;

/// A password, which [`fmt::Debug`] never shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps the text of a secret.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The secret's text, for the one place that sends it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address.
    Tcp(String),
    /// The directory of a unix socket.
    Unix(PathBuf),
}

/// When TLS is used and what is verified: libpq's `sslmode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// `disable`: never TLS.
    Disable,
    /// `allow`: TLS only if the server refuses a connection without it.
    Allow,
    /// `prefer`: TLS if the server supports it; libpq's default.
    Prefer,
    /// `require`: always TLS; the certificate is verified only if a root file is given.
    Require,
    /// `verify-ca`: always TLS, with a certificate signed by a trusted root.
    VerifyCa,
    /// `verify-full`: as `verify-ca`, and the certificate must name the host.
    VerifyFull,
}

/// Which server of several will do: libpq's `target_session_attrs`, as far as a slot can be read there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedServer {
    /// `any`: whatever answers; of several, the primary.
    Any,
    /// `primary`: one that is not in recovery.
    Primary,
    /// `read-write`: a primary whose sessions may write.
    ReadWrite,
}

/// Whether the login is bound to the TLS connection: libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binding {
    /// `disable`: never.
    Disable,
    /// `prefer`: where the server offers it; libpq's default.
    Prefer,
    /// `require`: always.
    Require,
}

/// Our own certificate, by which the server may know us, and its key: PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `sslcert`.
    pub certificate: PathBuf,
    /// `sslkey`.
    pub key: PathBuf,
}

/// How to connect to the database.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Address of the server.
    pub host: Host,
    /// TCP port, or the number in the unix socket's name.
    pub port: u16,
    /// Further servers, which are tried in turn where the first one cannot be reached, or is not the wanted one.
    pub others: Vec<(Host, u16)>,
    /// Which of them will do.
    pub wanted: WantedServer,
    /// Role to log in as.
    pub user: String,
    /// Password, needed if the server asks for one.
    pub password: Option<Secret>,
    /// Database to connect to.
    pub database: String,
    /// When to use TLS, and what to verify.
    pub tls: TlsMode,
    /// PEM file of trusted root certificates; without it, the system's are used.
    pub tls_root: Option<PathBuf>,
    /// Our own certificate.
    pub identity: Option<Identity>,
    /// Whether the login is bound to the TLS connection.
    pub binding: Binding,
    /// Settings of the session, as `-c name=value`; hosts also take other things by it.
    pub options: Option<String>,
}

/// Parameters of libpq and of other drivers that change nothing here: what they are for is done anyway, or is no
/// concern of a program that streams.
const IGNORED: [&str; 14] = [
    "application_name",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "load_balance_hosts",
    "sslcompression",
    "sslnegotiation",
    "sslsni",
    "tcp_user_timeout",
];

impl ConnectOptions {
    /// Parses `postgres://user[:password]@host[:port][,host…]/database[?sslmode=…&sslrootcert=…&host=/socket/dir]`.
    pub fn parse(text: &str) -> Result<ConnectOptions> {
        // Unlike libpq, the URL standard requires a host after a user; `host=` then names the socket's directory.
        let (address, parameters) = text.split_once('?').unwrap_or((text, ""));
        let (address, others) = split_hosts(address)?;
        let address = address.replacen("@/", "@localhost/", 1);
        let url = Url::parse(&format!("{address}?{parameters}")).map_err(|error| bad_url(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(bad_url(&format!("its scheme is '{}'", url.scheme())));
        }
        let mut options = ConnectOptions {
            host: Host::Tcp(host_name(&url)),
            port: url.port().unwrap_or(DEFAULT_PORT),
            others,
            wanted: WantedServer::Any,
            user: decode(url.username()),
            password: url.password().map(|password| Secret::new(decode(password))),
            database: decode(url.path().trim_start_matches('/')),
            tls: TlsMode::Prefer,
            tls_root: None,
            identity: None,
            binding: Binding::Prefer,
            options: None,
        };
        let (mut files, mut ports) = ((None, None), None);
        for (name, value) in url.query_pairs() {
            match &*name {
                "sslcert" => files.0 = Some(PathBuf::from(&*value)),
                "sslkey" => files.1 = Some(PathBuf::from(&*value)),
                // Of hosts that may come after it.
                "port" => ports = Some(value),
                _ => options.set(&name, &value)?,
            }
        }
        ports.map_or(Ok(()), |ports| options.set_ports(&ports))?;
        if !options.others.is_empty() && options.wanted == WantedServer::Any {
            // A standby that answers would otherwise say that there is no slot.
            options.wanted = WantedServer::Primary;
        }
        options.identity = match files {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            (None, None) => None,
            _ => return Err(bad_url("it has one of sslcert and sslkey without the other")),
        };
        if options.user.is_empty() {
            return Err(bad_url("it names no user"));
        }
        if options.database.is_empty() {
            options.database.clone_from(&options.user);
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "sslmode" => self.tls = tls_mode(value)?,
            "sslrootcert" if value == "system" => self.tls = TlsMode::VerifyFull,
            "sslrootcert" => self.tls_root = Some(PathBuf::from(value)),
            "host" => self.set_hosts(value),
            "user" => self.user = value.to_owned(),
            "password" => self.password = Some(Secret::new(value)),
            "dbname" => self.database = value.to_owned(),
            "options" => self.options = Some(value.to_owned()),
            "target_session_attrs" => self.wanted = wanted_server(value)?,
            "channel_binding" => self.binding = binding(value)?,
            "pgbouncer" if value == "true" => return Err(pooled(&self.address())),
            ignored if IGNORED.contains(&ignored) => {}
            other => return Err(bad_url(&format!("its parameter '{other}' is not supported"))),
        }
        Ok(())
    }

    fn set_hosts(&mut self, list: &str) {
        let host = |text: &str| match text.starts_with('/') {
            true => Host::Unix(PathBuf::from(text)),
            false => Host::Tcp(text.to_owned()),
        };
        let mut hosts = list.split(',').map(host);
        self.host = hosts.next().unwrap_or_else(|| Host::Tcp("localhost".to_owned()));
        self.others = hosts.map(|host| (host, self.port)).collect();
    }

    /// One port for all servers, or one for each.
    fn set_ports(&mut self, list: &str) -> Result<()> {
        let ports: Vec<u16> = list.split(',').map(port).collect::<Result<_>>()?;
        if ports.len() != 1 && ports.len() != self.others.len() + 1 {
            return Err(bad_url("it has another number of ports than of hosts"));
        }
        self.port = ports[0];
        for (at, (_, port)) in self.others.iter_mut().enumerate() {
            *port = ports.get(at + 1).copied().unwrap_or(self.port);
        }
        Ok(())
    }

    /// The same options for each of the servers, in the order in which they are tried.
    pub fn for_each_server(&self) -> impl Iterator<Item = ConnectOptions> + '_ {
        let others = self.others.iter().map(|(host, port)| (host.clone(), *port));
        [(self.host.clone(), self.port)].into_iter().chain(others).map(|(host, port)| ConnectOptions {
            host,
            port,
            others: Vec::new(),
            ..self.clone()
        })
    }

    /// Host and port, or the path of the unix socket, for messages.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(directory) => directory.join(format!(".s.PGSQL.{}", self.port)).display().to_string(),
        }
    }
}

/// The address with its first host only, and the other hosts: URLs by their standard have one.
fn split_hosts(address: &str) -> Result<(String, Vec<(Host, u16)>)> {
    let start = address.find("://").map_or(0, |at| at + 3);
    let end = address[start..].find('/').map_or(address.len(), |at| start + at);
    let hosts = start + address[start..end].rfind('@').map_or(0, |at| at + 1);
    let Some((first, rest)) = address[hosts..end].split_once(',') else { return Ok((address.to_owned(), Vec::new())) };
    let others = rest.split(',').map(|text| match text.rsplit_once(':') {
        Some((host, number)) if !number.contains(']') => Ok((Host::Tcp(without_brackets(host)), port(number)?)),
        _ => Ok((Host::Tcp(without_brackets(text)), DEFAULT_PORT)),
    });
    let others = others.collect::<Result<_>>()?;
    Ok((format!("{}{first}{}", &address[..hosts], &address[end..]), others))
}

fn port(text: &str) -> Result<u16> {
    text.parse().map_err(|_| bad_url("its port is not a number"))
}

fn without_brackets(host: &str) -> String {
    decode(host.trim_start_matches('[').trim_end_matches(']'))
}

fn wanted_server(text: &str) -> Result<WantedServer> {
    Ok(match text {
        "any" => WantedServer::Any,
        "primary" => WantedServer::Primary,
        "read-write" => WantedServer::ReadWrite,
        other => {
            let why = format!("its target_session_attrs is '{other}', and slots are read at the primary");
            return Err(bad_url(&why));
        }
    })
}

fn binding(text: &str) -> Result<Binding> {
    Ok(match text {
        "disable" => Binding::Disable,
        "prefer" => Binding::Prefer,
        "require" => Binding::Require,
        other => return Err(bad_url(&format!("its channel_binding is '{other}'"))),
    })
}

/// Host of the URL, `localhost` if it names none; without the brackets that a URL puts around an IPv6 address.
fn host_name(url: &Url) -> String {
    without_brackets(url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost"))
}

fn tls_mode(text: &str) -> Result<TlsMode> {
    Ok(match text {
        "disable" => TlsMode::Disable,
        "allow" => TlsMode::Allow,
        "prefer" => TlsMode::Prefer,
        "require" => TlsMode::Require,
        "verify-ca" => TlsMode::VerifyCa,
        "verify-full" => TlsMode::VerifyFull,
        other => return Err(bad_url(&format!("its sslmode is '{other}'"))),
    })
}

fn decode(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn bad_url(why: &str) -> Error {
    Error::operator(
        Code::PostgresUrlInvalid,
        "the Postgres URL cannot be used",
        why,
        "write it as postgres://user@host:5432/database?sslmode=verify-full, \
         with sslmode one of disable, allow, prefer, require, verify-ca, verify-full",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_everything() {
        let text = "postgres://so%40ner:p%2Fw@db.example:6432/shop?sslmode=verify-full&sslrootcert=/ca.pem";
        let options = ConnectOptions::parse(text).unwrap();
        assert_eq!(options.host, Host::Tcp("db.example".into()));
        assert_eq!((options.port, options.user.as_str(), options.database.as_str()), (6432, "so@ner", "shop"));
        assert_eq!(options.password, Some(Secret::new("p/w")));
        assert_eq!((options.tls, options.tls_root), (TlsMode::VerifyFull, Some(PathBuf::from("/ca.pem"))));
    }

    #[test]
    fn a_unix_socket() {
        let options = ConnectOptions::parse("postgres://me@/shop?host=/run/postgresql&port=5433").unwrap();
        assert_eq!(options.address(), "/run/postgresql/.s.PGSQL.5433");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let options = ConnectOptions::parse("postgres://me:hunter2@db/shop").unwrap();
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn other_urls_say_what_is_wrong() {
        for (text, why) in [
            ("mysql://me@db/shop", "scheme"),
            ("postgres://db/shop", "no user"),
            ("postgres://me@db/shop?sslmode=sometimes", "sslmode"),
            ("postgres://me@db/shop?tls=1", "'tls'"),
            ("postgres://me@db/shop?target_session_attrs=standby", "primary"),
            ("postgres://me@db/shop?channel_binding=maybe", "channel_binding"),
            ("postgres://me@db/shop?sslcert=/c.pem", "without the other"),
            ("postgres://me@a,b/shop?port=1,2,3", "number of ports"),
            ("postgres://me@a:x,b/shop", "port"),
            ("postgres://me@db:6543/shop?pgbouncer=true", "pgbouncer=true"),
        ] {
            let error = ConnectOptions::parse(text).unwrap_err();
            assert!(error.why.contains(why), "{error}");
        }
    }
}

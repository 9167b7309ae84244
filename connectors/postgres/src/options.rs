//! Connection options: a `postgres://` URL with libpq's parameters.
//!
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING-URIS>

use std::fmt;
use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use sooner_api::{Code, Error, Result};
use url::Url;

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

/// Address of the server.
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

/// How to connect to the database.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Address of the server.
    pub host: Host,
    /// TCP port, or the number in the unix socket's name.
    pub port: u16,
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
}

impl ConnectOptions {
    /// Parses `postgres://user[:password]@host[:port]/database[?sslmode=…&sslrootcert=…&host=/socket/dir]`.
    pub fn parse(text: &str) -> Result<ConnectOptions> {
        // Unlike libpq, the URL standard requires a host after a user; `host=` then names the socket's directory.
        let (address, parameters) = text.split_once('?').unwrap_or((text, ""));
        let address = address.replacen("@/", "@localhost/", 1);
        let url = Url::parse(&format!("{address}?{parameters}")).map_err(|error| bad_url(&error.to_string()))?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err(bad_url(&format!("its scheme is '{}'", url.scheme())));
        }
        let mut options = ConnectOptions {
            host: Host::Tcp(host_name(&url)),
            port: url.port().unwrap_or(5432),
            user: decode(url.username()),
            password: url.password().map(|password| Secret::new(decode(password))),
            database: decode(url.path().trim_start_matches('/')),
            tls: TlsMode::Prefer,
            tls_root: None,
        };
        for (name, value) in url.query_pairs() {
            options.set(&name, &value)?;
        }
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
            "host" if value.starts_with('/') => self.host = Host::Unix(PathBuf::from(value)),
            "host" => self.host = Host::Tcp(value.to_owned()),
            "port" => self.port = value.parse().map_err(|_| bad_url("its port is not a number"))?,
            "user" => self.user = value.to_owned(),
            "password" => self.password = Some(Secret::new(value)),
            "dbname" => self.database = value.to_owned(),
            "application_name" | "connect_timeout" => {}
            other => return Err(bad_url(&format!("its parameter '{other}' is not supported"))),
        }
        Ok(())
    }

    /// Host and port, or the path of the unix socket, for messages.
    pub fn address(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(directory) => directory.join(format!(".s.PGSQL.{}", self.port)).display().to_string(),
        }
    }
}

/// Host of the URL, `localhost` if it names none; without the brackets that a URL puts around an IPv6 address.
fn host_name(url: &Url) -> String {
    let host = url.host_str().filter(|host| !host.is_empty()).unwrap_or("localhost");
    host.trim_start_matches('[').trim_end_matches(']').to_owned()
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
        ] {
            let error = ConnectOptions::parse(text).unwrap_err();
            assert!(error.why.contains(why), "{error}");
        }
    }
}

//! How the listener is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of `[http]`.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// TLS; none for plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Token that requests have to bear; none only on the loopback interface, or where certificates are asked for.
    pub token: Option<String>,
    /// File that holds the token, which is read again when it changes; none if it is elsewhere.
    pub token_file: Option<PathBuf>,
    /// Whether verbs are allowed, and not only looks.
    pub allow_control: bool,
    /// Whether each table has its own series.
    pub table_metrics: bool,
    /// Silence after which the process counts as stalled.
    pub stalled_after: Duration,
}

/// PEM files of TLS, which are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Our certificate, with those that lead to its authority.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Authority whose clients are let in without a token; none if certificates are not asked for.
    pub client_ca: Option<PathBuf>,
}

impl HttpSettings {
    /// Whether clients may show by a certificate who they are.
    pub fn asks_for_certificates(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())
    }

    /// Whether a listener with other settings would be the same: what it reads again by itself does not count.
    pub fn listens_as(&self, other: &HttpSettings) -> bool {
        let token = if self.token_file.is_some() { &other.token } else { &self.token };
        HttpSettings { token: token.clone(), ..self.clone() } == *other
    }
}

impl std::fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpSettings").field("listen", &self.listen).finish_non_exhaustive()
    }
}

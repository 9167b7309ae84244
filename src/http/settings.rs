//! How the listener is set up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of `[http]`.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Token that requests have to bear; none only on the loopback interface.
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

impl HttpSettings {
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

//! How the listener is set up.

use std::net::SocketAddr;
use std::time::Duration;

/// Settings of `[http]`.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Token that requests have to bear; none only on the loopback interface.
    pub token: Option<String>,
    /// Whether verbs are allowed, and not only looks.
    pub allow_control: bool,
    /// Whether each table has its own series.
    pub table_metrics: bool,
    /// Silence after which the process counts as stalled.
    pub stalled_after: Duration,
}

impl std::fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpSettings").field("listen", &self.listen).finish_non_exhaustive()
    }
}

//! Who asks, as far as a listener can tell: what it has shown, and from where. It is what the journal, and with it the
//! audit trail, says of what was asked for.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use sooner_delta::audit::digits::hex;

tokio::task_local! {
    static CALLER: Arc<str>;
}

/// What a connection shows of its other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where it is; none if that is not known.
    pub address: Option<SocketAddr>,
    /// SHA-256, as hexadecimal digits, of its certificate, which the authority for clients has signed; none without.
    pub certificate: Option<Arc<str>>,
}

impl Peer {
    /// A peer with a certificate that was verified, as its DER encoding.
    pub fn verified(address: SocketAddr, certificate: &[u8]) -> Peer {
        Peer { address: Some(address), certificate: Some(hex(&Sha256::digest(certificate)).into()) }
    }

    /// What is said of it, if it bears the token, or does not.
    pub fn told(&self, has_token: bool) -> String {
        let shown = match (&self.certificate, has_token) {
            (Some(hash), _) => format!("a client with the certificate of SHA-256 {hash}"),
            (None, true) => "a client with the token".to_owned(),
            (None, false) => "a client".to_owned(),
        };
        match self.address {
            Some(address) => format!("{shown}, at {}", address.ip()),
            None => shown,
        }
    }
}

/// Answers a request on behalf of a caller.
pub async fn on_behalf<T>(caller: String, answering: impl Future<Output = T>) -> T {
    CALLER.scope(caller.into(), answering).await
}

/// On whose behalf this is done; none outside of a request.
pub fn caller() -> Option<Arc<str>> {
    CALLER.try_with(Arc::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_is_told_by_what_it_has_shown_and_where_it_is() {
        let address = "192.0.2.7:4711".parse().unwrap();
        let known = Peer { address: Some(address), certificate: None };
        assert_eq!(known.told(true), "a client with the token, at 192.0.2.7");
        assert_eq!(Peer::default().told(false), "a client");
        let verified = Peer::verified(address, b"abc").told(false);
        assert!(
            verified.contains("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad, at"),
            "{verified}"
        );
        assert_eq!(caller(), None);
        assert_eq!(on_behalf("somebody".to_owned(), async { caller() }).await.as_deref(), Some("somebody"));
    }
}

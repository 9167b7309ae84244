//! TLS in libpq's modes, with rustls.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256, Sha384, Sha512};
use sooner_api::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};

use crate::options::{ConnectOptions, Host, Identity, TlsMode};

/// What is verified of the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Nothing,
    Root,
    RootAndName,
}

/// Performs the TLS handshake on a connection whose server has agreed to TLS. A certificate that fails verification
/// needs the operator; other failures of the handshake can be retried.
pub async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(options: &ConnectOptions, stream: S) -> Result<TlsStream<S>> {
    let Host::Tcp(host) = &options.host else {
        return Err(failed(options, "TLS is not used on a unix socket"));
    };
    let check = match options.tls {
        TlsMode::VerifyFull => Check::RootAndName,
        TlsMode::VerifyCa => Check::Root,
        // As in libpq, `require` with a root file verifies the certificate chain.
        TlsMode::Require if options.tls_root.is_some() => Check::Root,
        _ => Check::Nothing,
    };
    let connector = TlsConnector::from(Arc::new(config(options, check)?));
    let name = ServerName::try_from(host.clone()).map_err(|error| failed(options, &error.to_string()))?;
    connector.connect(name, stream).await.map_err(|error| explain(options, &error))
}

/// What a login is bound to, so that nobody between us and the server can use it: a hash of the server's certificate.
///
/// <https://www.rfc-editor.org/rfc/rfc5929#section-4>
#[derive(Clone, Debug)]
pub struct EndPoint(pub Vec<u8>);

/// What a login by this connection can be bound to; none for a certificate whose signature has no hash that is known.
pub fn end_point<S>(stream: &TlsStream<S>) -> Option<EndPoint> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    Some(EndPoint(match signature_bits(certificate)? {
        256 => Sha256::digest(certificate).to_vec(),
        384 => Sha384::digest(certificate).to_vec(),
        _ => Sha512::digest(certificate).to_vec(),
    }))
}

/// Size of the hash that a certificate is to be hashed by: that of its signature, or 256 bits for weaker ones. The
/// algorithm's identifier comes last but for the signature itself.
fn signature_bits(certificate: &[u8]) -> Option<u32> {
    const RSA: [u8; 8] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    let last_after = |prefix: &[u8]| {
        let at = certificate.windows(prefix.len()).rposition(|window| window == prefix)?;
        Some((at, *certificate.get(at + prefix.len())?))
    };
    let rsa = last_after(&RSA).and_then(|(at, kind)| {
        let bits = match kind {
            4 | 5 | 11 => 256,
            12 => 384,
            13 => 512,
            // Such as that of a key, which comes earlier.
            _ => return None,
        };
        Some((at, bits))
    });
    let ecdsa = last_after(&ECDSA).and_then(|(at, kind)| {
        let bits = match kind {
            1 | 2 => 256,
            3 => 384,
            4 => 512,
            _ => return None,
        };
        Some((at, bits))
    });
    rsa.max(ecdsa).map(|(_, bits)| bits)
}

fn config(options: &ConnectOptions, check: Check) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failed(options, &error.to_string()))?;
    let inner = match check {
        Check::Nothing => None,
        _ => {
            let roots = Arc::new(roots(options.tls_root.as_deref())?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            Some(verifier.map_err(|error| failed(options, &format!("the trusted roots cannot be used: {error}")))?)
        }
    };
    let verifier = Arc::new(Verifier { check, inner, provider });
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let Some(Identity { certificate, key }) = &options.identity else { return Ok(builder.with_no_client_auth()) };
    let unusable = |error: String| {
        let what = format!("cannot use the certificate {} with the key {}", certificate.display(), key.display());
        Error::operator(
            Code::PostgresTlsFailed,
            what,
            error,
            "point sslcert and sslkey to PEM files that belong together",
        )
    };
    let chain =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| unusable(error.to_string()))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(error.to_string()))?;
    builder.with_client_auth_cert(chain, key).map_err(|error| unusable(error.to_string()))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let Some(file) = file else {
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return Ok(store);
    };
    let unusable = |why: String| {
        let what = format!("cannot read the root certificate {}", file.display());
        Error::operator(
            Code::PostgresTlsFailed,
            what,
            why,
            "point sslrootcert to a PEM file that this process may read",
        )
    };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        store.add(certificate).map_err(|error| unusable(error.to_string()))?;
    }
    if store.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    Ok(store)
}

fn explain(options: &ConnectOptions, error: &io::Error) -> Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(_)) => failed(options, &error.to_string()),
        _ => crate::errors::connection_lost(format!("TLS with Postgres at {} failed", options.address()), error),
    }
}

fn failed(options: &ConnectOptions, why: &str) -> Error {
    Error::operator(
        Code::PostgresTlsFailed,
        format!("TLS with Postgres at {} failed", options.address()),
        why,
        "set sslrootcert to the root that signed the server's certificate, and connect by the name that it carries",
    )
}

/// Certificate verifier for libpq's three levels of trust: any certificate, one of a trusted root, or one of a
/// trusted root for this host.
#[derive(Debug)]
struct Verifier {
    check: Check,
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else {
            return Ok(ServerCertVerified::assertion());
        };
        match inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // webpki checks the name last, after the chain: this error implies that the chain is valid.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if self.check == Check::Root => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_hashed_as_its_signature_is() {
        const RSA_KEY: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 1];
        let with =
            |key: &[u8], signature: &[u8]| signature_bits(&[&[0x30], key, &[3, 1], signature, &[7; 20]].concat());
        let rsa = |kind: u8| [&RSA_KEY[..8], &[kind]].concat();
        let ecdsa = |kind: u8| vec![0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, kind];
        for (kind, bits) in [(4, 256), (5, 256), (11, 256), (12, 384), (13, 512)] {
            assert_eq!(with(&RSA_KEY, &rsa(kind)), Some(bits));
        }
        for (kind, bits) in [(2, 256), (3, 384), (4, 512)] {
            assert_eq!(with(&RSA_KEY, &ecdsa(kind)), Some(bits));
        }
        assert_eq!(with(&RSA_KEY, &[0x2b, 0x65, 0x70]), None, "Ed25519 has no hash of its own");
    }
}

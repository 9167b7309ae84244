//! TLS of the listener: our certificate, and the authority whose clients are let in. Files are read again when they
//! change; connections that are open stay as they are.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use super::settings::TlsFiles;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// What new connections are secured by. Clones share it.
#[derive(Clone)]
pub struct Certificates {
    files: TlsFiles,
    current: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Certificates {
    /// Reads the files; an error says which one is of no use.
    pub fn open(files: &TlsFiles) -> anyhow::Result<Certificates> {
        let current = Arc::new(RwLock::new(Arc::new(read(files)?)));
        Ok(Certificates { files: files.clone(), current })
    }

    /// What the next connection is secured by.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the files again whenever they change, for ever. What is of no use changes nothing.
    pub async fn renew(self) {
        let mut known = content(&self.files);
        loop {
            tokio::time::sleep(INTERVAL).await;
            let found = content(&self.files);
            if found == known {
                continue;
            }
            known = found;
            match read(&self.files) {
                Ok(config) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!("the certificates of [http] were read again");
                }
                Err(error) => tracing::warn!(error = format!("{error:#}"), "the former certificates count on"),
            }
        }
    }
}

/// Stands for what the files hold; the key itself is not kept for this.
fn content(files: &TlsFiles) -> u64 {
    let mut hasher = DefaultHasher::new();
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    paths.into_iter().flatten().for_each(|path| std::fs::read(path).ok().hash(&mut hasher));
    hasher.finish()
}

fn read(files: &TlsFiles) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(roots(path)?);
            // Probes present no certificate: what they may ask is decided with each request.
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).allow_unauthenticated();
            let verifier = verifier.build().map_err(|error| unusable("client_ca", path, &error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let chain = certificates("certificate", &files.certificate)?;
    let key =
        PrivateKeyDer::from_pem_file(&files.key).map_err(|error| unusable("key", &files.key, &error.to_string()))?;
    let mut config = builder.with_single_cert(chain, key).map_err(|error| {
        unusable("certificate", &files.certificate, &format!("it does not fit key, {}: {error}", files.key.display()))
    })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(path: &Path) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client_ca", path)? {
        roots.add(certificate).map_err(|error| unusable("client_ca", path, &error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|error| unusable(key, path, &error.to_string()))?;
    match found.is_empty() {
        true => Err(unusable(key, path, "it holds no certificate")),
        false => Ok(found),
    }
}

fn unusable(key: &str, path: &Path, why: &str) -> anyhow::Error {
    anyhow::anyhow!(
        "cannot use {key} of [http], {}: {why}. To do: point it to a PEM file that this process may read.",
        path.display()
    )
}

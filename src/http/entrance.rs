//! How connections come in: plain, or by TLS. A handshake keeps nobody else waiting, and takes a bounded time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::caller::Peer;
use super::connections::{BoundedListener, Connection};
use super::tls::Certificates;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Accepts connections, with TLS if there are certificates for it.
pub struct Entrance {
    listener: BoundedListener,
    certificates: Option<Certificates>,
    /// As many at most as there are connections.
    handshakes: JoinSet<Option<(Stream, SocketAddr)>>,
}

/// A connection whose handshake, if there is one, is done.
pub enum Stream {
    /// Without TLS.
    Plain(Connection),
    /// With TLS.
    Secured(Box<TlsStream<Connection>>),
}

impl Entrance {
    /// Accepts connections of a listener.
    pub fn new(listener: TcpListener, certificates: Option<Certificates>) -> Entrance {
        Entrance { listener: BoundedListener::new(listener), certificates, handshakes: JoinSet::new() }
    }

    /// Reads certificates again whenever they change, for ever.
    pub fn renew(&self) -> impl Future<Output = ()> + Send + 'static {
        let certificates = self.certificates.clone();
        async move {
            match certificates {
                Some(certificates) => certificates.renew().await,
                None => std::future::pending().await,
            }
        }
    }
}

impl Listener for Entrance {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        loop {
            let Some(certificates) = &self.certificates else {
                let (connection, address) = self.listener.accept().await;
                return (Stream::Plain(connection), address);
            };
            tokio::select! {
                biased;
                Some(done) = self.handshakes.join_next() => if let Ok(Some(accepted)) = done {
                    return accepted;
                },
                (connection, address) = self.listener.accept() => {
                    let acceptor = TlsAcceptor::from(certificates.current());
                    self.handshakes.spawn(async move {
                        let stream = timeout(HANDSHAKE, acceptor.accept(connection)).await;
                        let stream = stream.map_err(io::Error::from).flatten();
                        let refused = |error: &io::Error| tracing::debug!(%address, %error, "a handshake failed");
                        stream.inspect_err(refused).ok().map(|stream| (Stream::Secured(Box::new(stream)), address))
                    });
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Entrance>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Entrance>) -> Peer {
        let address = *stream.remote_addr();
        let certificates = match stream.io() {
            Stream::Plain(_) => None,
            // One that was not verified would have ended the handshake.
            Stream::Secured(stream) => stream.get_ref().1.peer_certificates(),
        };
        match certificates.and_then(<[_]>::first) {
            Some(certificate) => Peer::verified(address, certificate),
            None => Peer { address: Some(address), certificate: None },
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Secured(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Secured(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Secured(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Secured(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

//! Opens the transport to the server: a unix socket, TCP, or TLS over TCP.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use sooner_api::{Code, Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use crate::errors::connection_lost;
use crate::low_watermark::LowWatermark;
use crate::options::{ConnectOptions, Host, TlsMode};
use crate::tls::{self, EndPoint};

/// A bidirectional byte stream, whatever the transport. Implemented for every type that meets the bounds.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// Opens the transport that the options ask for; no start-up message has been sent on it yet. With TLS, also returns
/// what a login can be bound to. A failed connection can be retried; a server without TLS where `sslmode` requires it
/// needs the operator.
pub async fn open(options: &ConnectOptions) -> Result<(Box<dyn Duplex>, Option<EndPoint>)> {
    let lost =
        |error: io::Error| connection_lost(format!("cannot connect to Postgres at {}", options.address()), &error);
    let host = match &options.host {
        Host::Unix(_) => return Ok((Box::new(UnixStream::connect(options.address()).await.map_err(lost)?), None)),
        Host::Tcp(host) => host.as_str(),
    };
    let connect = || async {
        let stream = TcpStream::connect((host, options.port)).await.map_err(lost)?;
        stream.set_nodelay(true).map_err(lost)?;
        let keepalive =
            socket2::TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
        socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(lost)?;
        Ok(LowWatermark::new(stream))
    };
    let mut stream = connect().await?;
    if matches!(options.tls, TlsMode::Disable | TlsMode::Allow) {
        return Ok((Box::new(stream), None));
    }
    if server_takes_tls(&mut stream).await.map_err(lost)? {
        let stream = tls::handshake(options, stream).await?;
        let end_point = tls::end_point(&stream);
        return Ok((Box::new(stream), end_point));
    }
    if options.tls == TlsMode::Prefer {
        return Ok((Box::new(stream), None));
    }
    Err(Error::operator(
        Code::PostgresTlsFailed,
        format!("TLS with Postgres at {} failed", options.address()),
        "the server does not support TLS, and sslmode asks for it",
        "set ssl = on in postgresql.conf, or sslmode=prefer if an unprotected connection will do",
    ))
}

async fn server_takes_tls(stream: &mut LowWatermark) -> io::Result<bool> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all_buf(&mut request).await?;
    Ok(stream.read_u8().await? == b'S')
}

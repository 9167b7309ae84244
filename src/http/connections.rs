//! A bound on connections: whoever holds one and says nothing keeps nobody else out.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};

/// Connections at the same time; one more ends the oldest.
const MOST: usize = 128;
/// How long a connection lasts at most, whatever is said on it: clients connect again.
const LIFETIME: Duration = Duration::from_secs(300);

/// Accepts connections, and ends the oldest where there are too many.
pub struct BoundedListener {
    inner: TcpListener,
    open: VecDeque<Arc<End>>,
}

/// Ends a connection from outside.
#[derive(Default)]
struct End {
    is_asked: AtomicBool,
    waker: AtomicWaker,
}

/// A connection that may be ended.
pub struct Connection {
    stream: TcpStream,
    end: Arc<End>,
    lifetime: Pin<Box<Sleep>>,
}

impl BoundedListener {
    /// Accepts connections of this listener.
    pub fn new(inner: TcpListener) -> BoundedListener {
        BoundedListener { inner, open: VecDeque::new() }
    }
}

impl Listener for BoundedListener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.inner).await;
        self.open.retain(|end| Arc::strong_count(end) > 1);
        if self.open.len() >= MOST
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.is_asked.store(true, Ordering::Release);
            oldest.waker.wake();
        }
        let end = Arc::new(End::default());
        self.open.push_back(end.clone());
        (Connection { stream, end, lifetime: Box::pin(sleep(LIFETIME)) }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

impl Connection {
    /// Whether the connection is to end.
    fn poll_end(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        self.end.waker.register(context.waker());
        if self.end.is_asked.load(Ordering::Acquire) || self.lifetime.as_mut().poll(context).is_ready() {
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the connection has been held for too long"));
        }
        Poll::Pending
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(error) = self.poll_end(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(error) = self.poll_end(context) {
            return Poll::Ready(Err(error));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn whoever_holds_connections_and_says_nothing_keeps_nobody_out() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(|| async { "well" }));
        let serving = tokio::spawn(async move { axum::serve(BoundedListener::new(listener), router).await });
        let mut idle = Vec::new();
        for _ in 0..3 * MOST {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HT").await.unwrap();
            idle.push(stream);
        }
        let mut asking = TcpStream::connect(address).await.unwrap();
        asking.write_all(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        asking.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("well"), "{answer}");
        // The oldest was ended.
        let ended = idle[0].read(&mut [0; 100]).await;
        assert!(ended.is_err() || ended.is_ok_and(|bytes| bytes == 0));
        serving.abort();
    }
}

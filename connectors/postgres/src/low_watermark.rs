//! A TCP stream that wakes its reader less often while the reader is behind.
//!
//! The walsender writes every row by itself, and each write wakes the reader. While there is a backlog the socket's
//! low watermark (`SO_RCVLOWAT`, socket(7)) is raised, so that the kernel wakes the reader only for a large piece;
//! if little arrives, a short timer reads what is available. This halves the CPU of the walsender too. Once the
//! reader has caught up, the watermark returns to one byte, so that no event waits.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Low watermark while the reader is behind, in bytes; about a third of what a default receive buffer grows to.
const RAISED_BYTES: libc::c_int = 1 << 20;
/// Number of bytes within one span of `PATIENCE` that counts as a backlog (16 MiB/s). A single read indicates
/// nothing: a reader that is woken for every row gets little each time, however much is waiting.
const BACKLOG_BYTES: usize = 64 << 10;
/// How long the kernel may hold back fewer bytes than the low watermark.
const PATIENCE: Duration = Duration::from_millis(4);

/// A TCP stream whose low watermark adapts to the backlog.
pub struct LowWatermark {
    tcp: TcpStream,
    raised: bool,
    patience: Pin<Box<Sleep>>,
    waiting: bool,
    /// Start of the current span; `span_bytes` counts the bytes received since.
    span_start: Instant,
    span_bytes: usize,
}

impl LowWatermark {
    /// Wraps a connected stream; the watermark starts at one byte.
    pub fn new(tcp: TcpStream) -> LowWatermark {
        LowWatermark {
            tcp,
            raised: false,
            patience: Box::pin(sleep(PATIENCE)),
            waiting: false,
            span_start: Instant::now(),
            span_bytes: 0,
        }
    }

    fn adapt(&mut self, received: usize) -> io::Result<()> {
        self.waiting = false;
        self.span_bytes += received;
        let behind = self.span_bytes >= BACKLOG_BYTES;
        let elapsed = self.span_start.elapsed();
        if elapsed < PATIENCE && !behind {
            return Ok(());
        }
        // Bytes that arrive after a long pause are not a backlog, however many they are.
        let behind = behind && elapsed < PATIENCE * 2;
        (self.span_start, self.span_bytes) = (Instant::now(), 0);
        if behind != self.raised {
            set_low_watermark(&self.tcp, if behind { RAISED_BYTES } else { 1 })?;
            self.raised = behind;
        }
        Ok(())
    }
}

impl AsyncRead for LowWatermark {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match this.tcp.try_io(Interest::READABLE, || receive(&this.tcp, buf)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(received) => return Poll::Ready(this.adapt(received)),
            }
            if this.tcp.poll_read_ready(cx)?.is_ready() {
                continue;
            }
            if !this.raised {
                return Poll::Pending;
            }
            if !this.waiting {
                this.waiting = true;
                this.patience.as_mut().reset(Instant::now() + PATIENCE);
            }
            ready!(this.patience.as_mut().poll(cx));
            match receive(&this.tcp, buf) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => this.adapt(0)?,
                Err(error) => return Poll::Ready(Err(error)),
                Ok(received) => return Poll::Ready(this.adapt(received)),
            }
        }
    }
}

impl AsyncWrite for LowWatermark {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// Reads the bytes that are available, regardless of the low watermark.
fn receive(tcp: &TcpStream, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
    let unfilled: &mut [MaybeUninit<u8>] = unfilled(buf);
    let received = SockRef::from(tcp).recv(unfilled)?;
    advance(buf, received);
    Ok(received)
}

#[allow(unsafe_code, reason = "socket2 reads into uninitialised memory, and only its first bytes are then used")]
fn unfilled<'a>(buf: &'a mut ReadBuf<'_>) -> &'a mut [MaybeUninit<u8>] {
    // SAFETY: the slice is only written to.
    unsafe { buf.unfilled_mut() }
}

#[allow(unsafe_code, reason = "see above")]
fn advance(buf: &mut ReadBuf<'_>, received: usize) {
    // SAFETY: recv has initialised this many bytes of the unfilled part.
    unsafe { buf.assume_init(received) };
    buf.advance(received);
}

#[allow(unsafe_code, reason = "no safe wrapper offers SO_RCVLOWAT")]
fn set_low_watermark(tcp: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the option's value is an int that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVLOWAT,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

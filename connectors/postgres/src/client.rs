//! A connection to Postgres: start-up, authentication, simple queries, `COPY … TO STDOUT`, and the start of
//! replication.
//!
//! <https://www.postgresql.org/docs/current/protocol-flow.html>

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::frontend;
use sooner_api::{Class, Code, Error, Result};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::dial::{Duplex, open};
use crate::errors::{ServerError, connection_lost, protocol};
use crate::options::{ConnectOptions, TlsMode, WantedServer};

/// Time limit for connecting, including TLS and authentication.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server works on a statement.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a statement waits for a lock that somebody else holds.
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// Buffer space reserved for each read, in bytes.
const READ_BYTES: usize = 1 << 20;
/// Size of a message, without its tag, at most: Postgres builds them in buffers of less than 1 GiB.
const LARGEST_MESSAGE: usize = (1 << 30) + 4;
/// Size of a buffer that is kept for what follows.
pub const KEPT_BYTES: usize = 4 << 20;

/// What a connection is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// SQL only.
    Sql,
    /// Replication commands, and also SQL (`replication=database`).
    Replication,
}

/// A message from the server: its tag and its content.
#[derive(Debug)]
pub struct Frame {
    /// Tag: the first byte, which names the message's type.
    pub tag: u8,
    /// Content, after tag and length.
    pub payload: Bytes,
}

/// A row of a simple query: each column's text; none for NULL.
pub type Row = Vec<Option<String>>;

/// A connection that has logged in and runs one command at a time.
pub struct Client {
    stream: Box<dyn Duplex>,
    incoming: BytesMut,
    outgoing: BytesMut,
    parameters: HashMap<String, String>,
    address: String,
}

impl Client {
    /// Connects, logs in, and waits until the server is ready; of several, the first one that answers and is wanted.
    pub async fn connect(options: &ConnectOptions, mode: Mode) -> Result<Client> {
        let (mut failed, mut unwanted) = (None, None);
        for server in options.for_each_server() {
            match Client::connect_to(&server, mode).await {
                Ok(mut client) => match client.check_wanted(&server).await {
                    Ok(()) => return Ok(client),
                    Err(error) => unwanted = Some(error),
                },
                // What passes by itself comes first, since then another one may do.
                Err(error) if error.class == Class::Retry => failed = Some(error),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.or(unwanted).unwrap_or_else(|| Error::internal("cannot connect to Postgres", "no server is named")))
    }

    /// Refuses a server that is not the wanted one.
    async fn check_wanted(&mut self, options: &ConnectOptions) -> Result<()> {
        let sql = match options.wanted {
            WantedServer::Any => return Ok(()),
            WantedServer::Primary => "SELECT pg_catalog.pg_is_in_recovery()",
            WantedServer::ReadWrite => {
                "SELECT pg_catalog.pg_is_in_recovery() OR pg_catalog.current_setting('transaction_read_only')::bool"
            }
        };
        if self.query_value(sql).await?.as_deref() == Some("f") {
            return Ok(());
        }
        Err(Error::retry(
            Code::PostgresUnreachable,
            format!("cannot use Postgres at {}", self.address),
            "it is a standby, or takes no writes, and target_session_attrs asks for another server",
            "name the primary in the URL, too; it is tried again",
        ))
    }

    async fn connect_to(options: &ConnectOptions, mode: Mode) -> Result<Client> {
        let what = || format!("cannot connect to Postgres at {}", options.address());
        match tokio::time::timeout(CONNECT_TIMEOUT, Client::start_in_either_way(options, mode)).await {
            Ok(result) => result,
            Err(_) => Err(connection_lost(what(), &io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s"))),
        }
    }

    /// Connects by the TLS mode's first choice. If the server refuses the login (SQLSTATE 28000), `prefer` tries
    /// again without TLS and `allow` with it.
    async fn start_in_either_way(options: &ConnectOptions, mode: Mode) -> Result<Client> {
        let other = match options.tls {
            TlsMode::Prefer => TlsMode::Disable,
            TlsMode::Allow => TlsMode::Require,
            _ => return Client::start(options, mode).await,
        };
        match Client::start(options, mode).await {
            Err(error) if error.why.contains("SQLSTATE 28000") => {
                Client::start(&ConnectOptions { tls: other, ..options.clone() }, mode).await
            }
            result => result,
        }
    }

    async fn start(options: &ConnectOptions, mode: Mode) -> Result<Client> {
        let (stream, end_point) = open(options).await?;
        let mut client = Client {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            parameters: HashMap::new(),
            address: options.address(),
        };
        let mut parameters = vec![
            ("user", options.user.as_str()),
            ("database", options.database.as_str()),
            ("application_name", "sooner"),
            ("client_encoding", "UTF8"),
            ("datestyle", "ISO, YMD"),
            ("timezone", "UTC"),
            ("intervalstyle", "postgres"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "3"),
            // Nothing that we write is worth waiting for a standby.
            ("synchronous_commit", "local"),
        ];
        parameters.extend(options.options.as_deref().map(|settings| ("options", settings)));
        if mode == Mode::Replication {
            parameters.push(("replication", "database"));
        }
        client.send(|out| frontend::startup_message(parameters.iter().copied(), out)).await?;
        client.authenticate(options, end_point).await?;
        client.until_ready().await?;
        client.set_timeouts(mode).await?;
        Ok(client)
    }

    /// Sets the session's timeouts, as far as this server version has them. Nothing that is asked here may occupy the
    /// server for long, nor wait long for a lock, behind which others would wait. Connections that are idle stay;
    /// limits that are meant for interactive sessions would end them. The creation of a slot waits as long as it takes.
    async fn set_timeouts(&mut self, mode: Mode) -> Result<()> {
        let (statement, lock) = match mode {
            Mode::Sql => (STATEMENT_TIMEOUT.as_millis(), LOCK_TIMEOUT.as_millis()),
            Mode::Replication => (0, 0),
        };
        let since = [
            (90_600, "statement_timeout", statement),
            (90_600, "lock_timeout", lock),
            (90_600, "idle_in_transaction_session_timeout", 0),
            (140_000, "idle_session_timeout", 0),
            (170_000, "transaction_timeout", 0),
        ];
        let version = self.server_version();
        let known = since.iter().filter(|(first, ..)| version >= *first);
        let settings: Vec<_> = known.map(|(_, name, limit)| format!("SET {name} = {limit}")).collect();
        self.query(&settings.join("; ")).await.map(drop)
    }

    /// The server's version as a number, such as 150018 for 15.18.
    pub fn server_version(&self) -> u32 {
        let text = self.parameters.get("server_version").map_or("", String::as_str);
        let mut parts = text.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
        parts.next().unwrap_or(0) * 10_000 + parts.next().unwrap_or(0)
    }

    /// Runs one statement (or several, separated by semicolons) and returns all rows.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>> {
        self.send(|out| frontend::query(sql, out)).await?;
        let mut rows = Vec::new();
        let mut failed = None;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'D' => rows.push(parse_row(frame.payload).ok_or_else(|| self.malformed("DataRow"))?),
                b'E' => failed = Some(ServerError::parse(&frame.payload)),
                b'Z' => break,
                _ => {}
            }
        }
        match failed {
            None => Ok(rows),
            Some(error) => Err(error.into_error(format!("Postgres refused: {}", summary(sql)))),
        }
    }

    /// Runs one statement and returns the first column of its first row; none if there is no row, or if it is NULL.
    pub async fn query_value(&mut self, sql: &str) -> Result<Option<String>> {
        Ok(self.query(sql).await?.into_iter().next().and_then(|row| row.into_iter().next().flatten()))
    }

    /// Starts `COPY … TO STDOUT`; the rows are then read by [`Client::copy_data`].
    pub async fn copy_out(&mut self, sql: &str) -> Result<()> {
        self.enter_copy(sql, b'H').await
    }

    /// Reads the next message of a `COPY … TO STDOUT`: one row, with its newline. `None` at the end.
    pub async fn copy_data(&mut self) -> Result<Option<Bytes>> {
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'd' => return Ok(Some(frame.payload)),
                b'E' => return Err(ServerError::parse(&frame.payload).into_error("Postgres ended the copy")),
                b'Z' => return Ok(None),
                _ => {}
            }
        }
    }

    /// Starts replication and consumes the client; returns its byte stream, with the bytes that have already been
    /// received.
    pub async fn start_replication(mut self, command: &str) -> Result<(Box<dyn Duplex>, BytesMut)> {
        self.enter_copy(command, b'W').await?;
        Ok((self.stream, self.incoming))
    }

    async fn enter_copy(&mut self, command: &str, expected: u8) -> Result<()> {
        self.send(|out| frontend::query(command, out)).await?;
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                tag if tag == expected => return Ok(()),
                b'E' => {
                    let error = ServerError::parse(&frame.payload);
                    return Err(error.into_error(format!("Postgres refused: {}", summary(command))));
                }
                b'N' | b'S' => {}
                _ => return Err(self.malformed("a copy response")),
            }
        }
    }

    async fn until_ready(&mut self) -> Result<()> {
        loop {
            let frame = self.frame().await?;
            match frame.tag {
                b'Z' => return Ok(()),
                b'S' => {
                    let mut parts = frame.payload.split(|&byte| byte == 0);
                    let mut text = || parts.next().map(|part| String::from_utf8_lossy(part).into_owned());
                    if let (Some(name), Some(value)) = (text(), text()) {
                        self.parameters.insert(name, value);
                    }
                }
                b'E' => {
                    let what = format!("cannot log in to Postgres at {}", self.address);
                    return Err(ServerError::parse(&frame.payload).into_error(what));
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn send(&mut self, write: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        let written = write(&mut self.outgoing);
        let sent = match written {
            Ok(()) => self.stream.write_all_buf(&mut self.outgoing).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => self.stream.flush().await.map_err(|error| self.io_failed(&error)),
            Err(error) => Err(self.io_failed(&error)),
        }
    }

    /// Size in bytes of the next message, as soon as its begin is here.
    pub(crate) async fn next_size(&mut self) -> Result<usize> {
        loop {
            if let Some(size) = announced_size(&self.incoming).map_err(|error| self.io_failed(&error))? {
                return Ok(size);
            }
            read_more(&mut *self.stream, &mut self.incoming).await.map_err(|error| self.io_failed(&error))?;
        }
    }

    pub(crate) async fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = split_frame(&mut self.incoming).map_err(|error| self.io_failed(&error))? {
                if frame.payload.len() > KEPT_BYTES {
                    // What follows lies in the same memory.
                    self.incoming = BytesMut::from(&self.incoming[..]);
                }
                return Ok(frame);
            }
            read_more(&mut *self.stream, &mut self.incoming).await.map_err(|error| self.io_failed(&error))?;
        }
    }

    fn io_failed(&self, error: &io::Error) -> Error {
        connection_lost(format!("lost the connection to Postgres at {}", self.address), error)
    }

    pub(crate) fn malformed(&self, expected: &str) -> Error {
        protocol(format!("cannot understand Postgres at {}", self.address), format!("expected {expected}"))
    }
}

/// Takes the first whole message from the buffer, if there is one.
fn split_frame(buffer: &mut BytesMut) -> io::Result<Option<Frame>> {
    let Some(length) = frame_length(buffer)? else { return Ok(None) };
    let tag = buffer[0];
    let mut frame = buffer.split_to(length);
    frame.advance(5);
    Ok(Some(Frame { tag, payload: frame.freeze() }))
}

/// Length of the first message, including tag and length; none until it is complete. A length out of range is an error.
#[inline]
pub fn frame_length(buffer: &[u8]) -> io::Result<Option<usize>> {
    Ok(announced_size(buffer)?.filter(|size| buffer.len() >= *size))
}

/// Size that the first message has, or will have once it is complete, including tag and length; none until it says so.
#[inline]
pub fn announced_size(buffer: &[u8]) -> io::Result<Option<usize>> {
    let Some(&[_, a, b, c, d]) = buffer.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if !(4..=LARGEST_MESSAGE).contains(&length) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message's length is out of range"));
    }
    Ok(Some(length + 1))
}

/// Reads once, into a buffer that begins with a message: with room for what is missing of a large one, or for 1 MiB.
/// The end of the stream is an error. Cancelling loses no bytes.
pub async fn read_more<S: AsyncRead + Unpin + ?Sized>(stream: &mut S, buffer: &mut BytesMut) -> io::Result<()> {
    let size = announced_size(buffer)?;
    read_some(stream, buffer, size).await
}

/// Reads once, into a buffer with room for a large message of this size that has begun in it, or for 1 MiB; the end of
/// the stream is an error. Cancelling loses no bytes.
pub async fn read_some<S: AsyncRead + Unpin + ?Sized>(
    stream: &mut S,
    buffer: &mut BytesMut,
    size: Option<usize>,
) -> io::Result<()> {
    // Exactly as much as a large message takes: a buffer that grows bit by bit ends up twice as large.
    let missing = size.filter(|size| *size > READ_BYTES).map(|size| size.saturating_sub(buffer.len()));
    buffer.reserve(missing.filter(|missing| *missing > 0).unwrap_or(READ_BYTES));
    if stream.read_buf(buffer).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
    }
    Ok(())
}

/// Quotes a name for use in SQL.
pub fn quote_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text for use in SQL.
pub fn quote_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn parse_row(mut payload: Bytes) -> Option<Row> {
    let columns = payload.try_get_u16().ok()?;
    let mut row = Vec::with_capacity(columns.into());
    for _ in 0..columns {
        let length = payload.try_get_i32().ok()?;
        row.push(match usize::try_from(length) {
            Err(_) => None,
            Ok(length) if length <= payload.len() => {
                Some(String::from_utf8_lossy(&payload.split_to(length)).into_owned())
            }
            Ok(_) => return None,
        });
    }
    Some(row)
}

/// The first 100 characters of a statement, for messages.
fn summary(sql: &str) -> String {
    let line = sql.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(100) {
        None => line,
        Some((end, _)) => format!("{}…", &line[..end]),
    }
}

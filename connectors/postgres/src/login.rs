//! Authentication at the server: clear text, MD5, or SCRAM-SHA-256, whichever the server asks for.
//!
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

use std::io;

use bytes::Buf;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;
use sooner_api::{Code, Error, Result};

use crate::client::{Client, Frame};
use crate::errors::ServerError;
use crate::options::ConnectOptions;

impl Client {
    /// Answers the server's authentication requests until it accepts the login.
    pub(crate) async fn authenticate(&mut self, options: &ConnectOptions) -> Result<()> {
        let password = || {
            options.password.as_ref().map(|password| password.reveal().as_bytes()).ok_or_else(|| {
                Error::operator(
                    Code::PostgresLoginRefused,
                    format!("cannot log in to Postgres at {}", options.address()),
                    "the server asks for a password and none is configured",
                    "set password = { env = \"…\" } or { file = \"…\" } in [source]",
                )
            })
        };
        loop {
            let mut frame = self.login_frame(options).await?;
            if frame.tag != b'R' || frame.payload.len() < 4 {
                return Err(self.malformed("an authentication request"));
            }
            match frame.payload.get_i32() {
                0 => return Ok(()),
                3 => {
                    let password = password()?.to_vec();
                    self.send(|out| frontend::password_message(&password, out)).await?;
                }
                5 => {
                    let salt = frame.payload.as_ref().try_into().map_err(|_| self.malformed("a salt"))?;
                    let hashed = authentication::md5_hash(options.user.as_bytes(), password()?, salt);
                    self.send(|out| frontend::password_message(hashed.as_bytes(), out)).await?;
                }
                10 => {
                    let password = password()?.to_vec();
                    self.scram(options, &frame.payload, &password).await?;
                }
                _ => {
                    return Err(Error::operator(
                        Code::PostgresLoginRefused,
                        format!("cannot log in to Postgres at {}", options.address()),
                        "the server asks for a way of authentication that is not supported",
                        "use scram-sha-256 for this role in pg_hba.conf",
                    ));
                }
            }
        }
    }

    async fn scram(&mut self, options: &ConnectOptions, mechanisms: &[u8], password: &[u8]) -> Result<()> {
        if !mechanisms.split(|&byte| byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
            return Err(self.malformed("SCRAM-SHA-256 among the mechanisms"));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
        let mut frame = self.login_frame(options).await?;
        if frame.payload.len() < 4 || frame.payload.get_i32() != 11 {
            return Err(self.malformed("the first step of SCRAM"));
        }
        scram.update(&frame.payload).map_err(|error| not_the_server(options, &error))?;
        self.send(|out| frontend::sasl_response(scram.message(), out)).await?;
        let mut frame = self.login_frame(options).await?;
        if frame.payload.len() < 4 || frame.payload.get_i32() != 12 {
            return Err(self.malformed("the last step of SCRAM"));
        }
        scram.finish(&frame.payload).map_err(|error| not_the_server(options, &error))
    }

    async fn login_frame(&mut self, options: &ConnectOptions) -> Result<Frame> {
        let frame = self.frame().await?;
        if frame.tag == b'E' {
            let what = format!("cannot log in to Postgres at {} as '{}'", options.address(), options.user);
            return Err(ServerError::parse(&frame.payload).into_error(what));
        }
        Ok(frame)
    }
}

/// Error for a failed SCRAM exchange: the server must also prove that it knows the password, and this one did not.
fn not_the_server(options: &ConnectOptions, error: &io::Error) -> Error {
    Error::operator(
        Code::PostgresLoginRefused,
        format!("cannot trust the server at {}", options.address()),
        error,
        "check the address of [source] and who answers there",
    )
}

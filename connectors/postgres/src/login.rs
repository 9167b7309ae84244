//! Authentication at the server: clear text, MD5, or SCRAM-SHA-256, whichever the server asks for.
//!
//! <https://www.postgresql.org/docs/current/sasl-authentication.html>

use std::io;

use bytes::Buf;
use postgres_protocol::authentication;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use sooner_api::{Code, Error, Result};

use crate::client::{Client, Frame};
use crate::errors::ServerError;
use crate::options::{Binding, ConnectOptions};
use crate::tls::EndPoint;

impl Client {
    /// Answers the server's authentication requests until it accepts the login, which can be bound to `end_point`.
    pub(crate) async fn authenticate(&mut self, options: &ConnectOptions, end_point: Option<EndPoint>) -> Result<()> {
        let mut is_bound = false;
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
                0 if options.binding == Binding::Require && !is_bound => return Err(not_bound(options)),
                0 => return Ok(()),
                3 | 5 if options.binding == Binding::Require => return Err(not_bound(options)),
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
                    is_bound = self.scram(options, &frame.payload, &password, end_point.as_ref()).await?;
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

    /// Logs in by SCRAM; returns whether the login is bound to the connection.
    async fn scram(
        &mut self,
        options: &ConnectOptions,
        mechanisms: &[u8],
        password: &[u8],
        end_point: Option<&EndPoint>,
    ) -> Result<bool> {
        let offers = |wanted: &str| mechanisms.split(|&byte| byte == 0).any(|name| name == wanted.as_bytes());
        let end_point = end_point.filter(|_| options.binding != Binding::Disable);
        let bound_to = end_point.filter(|_| offers(SCRAM_SHA_256_PLUS));
        if bound_to.is_none() && options.binding == Binding::Require {
            return Err(not_bound(options));
        }
        if bound_to.is_none() && !offers(SCRAM_SHA_256) {
            return Err(self.malformed("SCRAM-SHA-256 among the mechanisms"));
        }
        let (mechanism, binding) = match (bound_to, end_point) {
            (Some(EndPoint(hash)), _) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash.clone())),
            // We could have, which the server is told, so that nobody between us can hide its offer.
            (None, Some(_)) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
            (None, None) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        };
        let mut scram = ScramSha256::new(password, binding);
        self.send(|out| frontend::sasl_initial_response(mechanism, scram.message(), out)).await?;
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
        scram.finish(&frame.payload).map_err(|error| not_the_server(options, &error))?;
        Ok(bound_to.is_some())
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

/// Error for a login that is to be bound to the connection, and cannot be.
fn not_bound(options: &ConnectOptions) -> Error {
    Error::operator(
        Code::PostgresLoginRefused,
        format!("cannot log in to Postgres at {}", options.address()),
        "the login cannot be bound to the TLS connection, by the server or by its certificate's signature, and \
         channel_binding=require asks for that",
        "connect by TLS to a server that authenticates by scram-sha-256, or set channel_binding=prefer",
    )
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

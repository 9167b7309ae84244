//! A connection for queries beside the stream: opened on demand, and again after a query failed.

use sooner_api::Result;
use sooner_schemas::Lsn;

use crate::client::{Client, Mode};
use crate::errors::protocol;
use crate::options::ConnectOptions;
use crate::row::text;
use crate::visibility::Visibility;

/// A connection that may not be there.
pub struct SideConnection {
    options: ConnectOptions,
    client: Option<Client>,
    /// It was said that commits wait for sooner.
    is_warned: bool,
}

/// How the server is doing.
pub struct ServerState {
    /// Where its log ends.
    pub end_lsn: Lsn,
    /// The transactions that a snapshot sees by now.
    pub visible: Visibility,
    /// Commits wait for sooner, as for a synchronous standby.
    pub is_awaited: bool,
}

impl SideConnection {
    /// Connects later, when it is needed.
    pub fn new(options: &ConnectOptions) -> SideConnection {
        SideConnection { options: options.clone(), client: None, is_warned: false }
    }

    /// Takes the connection; whoever can still use it afterwards gives it back.
    pub async fn take(&mut self) -> Result<Client> {
        match self.client.take() {
            Some(client) => Ok(client),
            None => Client::connect(&self.options, Mode::Sql).await,
        }
    }

    /// Keeps a connection for the next query.
    pub fn give_back(&mut self, client: Client) {
        self.client = Some(client);
    }

    /// Queries where the server's log ends, what is visible, and who waits for us.
    pub async fn server_state(&mut self) -> Result<ServerState> {
        let mut client = self.take().await?;
        let sql = "SELECT pg_catalog.pg_current_wal_flush_lsn(), pg_catalog.pg_current_snapshot(), \
                   EXISTS (SELECT FROM pg_catalog.pg_stat_replication \
                           WHERE application_name = 'sooner' AND sync_state <> 'async')";
        let row = client.query(sql).await?.first().cloned().unwrap_or_default();
        self.give_back(client);
        let end = text(&row, 0)?.parse();
        let is_awaited = text(&row, 2)? == "t";
        if is_awaited && !std::mem::replace(&mut self.is_warned, true) {
            tracing::warn!(
                "synchronous_standby_names takes sooner for a standby, so commits wait for it; name the standbys there"
            );
        }
        Ok(ServerState {
            end_lsn: end.map_err(|error| protocol("cannot understand the server's position", error))?,
            visible: Visibility::parse(text(&row, 1)?)?,
            is_awaited,
        })
    }

    /// Writes a message to the log that nobody reads, so that the server sends what is before it: it keeps back what
    /// no transaction has made durable.
    pub async fn push(&mut self) -> Result<()> {
        let mut client = self.take().await?;
        match client.query("SELECT pg_catalog.pg_logical_emit_message(true, 'sooner', '')").await {
            Ok(_) => self.give_back(client),
            // Others write to the log sooner or later.
            Err(error) => tracing::debug!(%error, "could not write to the server's log"),
        }
        Ok(())
    }
}

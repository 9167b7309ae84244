//! Where the server's log ends.

use sooner_api::Result;
use sooner_schemas::Lsn;

use crate::client::Client;
use crate::errors::protocol;

/// Size of a page of the log, in bytes, unless the server was compiled otherwise.
const PAGE: u64 = 8192;
/// Size of a segment of the log, in bytes, at least: each is a multiple of it.
const SEGMENT: u64 = 1 << 20;

/// Where the log of a server that is no standby ends: everything that is visible by now was written before it.
pub async fn log_end(client: &mut Client) -> Result<Lsn> {
    let end = client.query_value("SELECT pg_catalog.pg_current_wal_insert_lsn()").await?;
    let end = end.unwrap_or_default().parse();
    end.map(before_page_header).map_err(|error| protocol("cannot understand the end of the log", error))
}

/// A position of the log where a page begins is shown after the page's header, and told to readers of the log without
/// it: 24 bytes, or 40 for the first page of a segment. No reader gets to what is shown before the next record is.
///
/// <https://github.com/postgres/postgres/blob/master/src/include/access/xlog_internal.h>
pub fn before_page_header(lsn: Lsn) -> Lsn {
    let header = if lsn.0 % SEGMENT == 40 { 40 } else { 24 };
    if lsn.0 % PAGE == header { Lsn(lsn.0 - header) } else { lsn }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_behind_the_header_of_an_empty_page_is_its_beginning() {
        let of = |lsn| before_page_header(Lsn(lsn)).0;
        assert_eq!((of(3 * PAGE + 24), of(5 * SEGMENT + 40)), (3 * PAGE, 5 * SEGMENT));
        // A record may end there, whose rest is behind the header.
        assert_eq!(of(3 * PAGE + 40), 3 * PAGE + 40);
        assert_eq!((of(3 * PAGE), of(3 * PAGE + 48)), (3 * PAGE, 3 * PAGE + 48));
    }
}

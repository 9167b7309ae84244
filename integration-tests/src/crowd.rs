//! A pipeline of very many tables, as far as its listener knows: the real board, fed with the facts that a pipeline
//! tells, behind the real listener. For pages and readers of the API that have to bear that.

use std::sync::Arc;
use std::time::Duration;

use sooner::clock::SystemClock;
use sooner::control::Requests;
use sooner::cut_desk::CutRequests;
use sooner::http::cut_counter::CutCounter;
use sooner::http::erasure_view::ErasureView;
use sooner::http::inquiry::{HoldVerbs, Inquiry, Records, Verb, Waiting};
use sooner::http::live::Live;
use sooner::http::settings::HttpSettings;
use sooner::http::shapes::{Origins, Shapes};
use sooner::http::topics::TopicView;
use sooner::http::{Shared, bind, serve};
use sooner::status::StatusBoard;
use sooner::verifications::ReportsView;
use sooner_api::{
    Clock, Code, Committed, Error, Fact, Side, SlotStanding, TableSize, TableState, TakesPart, Telemetry,
};
use sooner_schemas::event::Watermark;
use sooner_schemas::{Lsn, TableName};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::free_port;

/// Where the log of the source ends.
const END: Lsn = Lsn(0x16_B374_D848);
/// Of so many tables, one is parked.
const PARKED_EACH: usize = 1000;

/// A listener, and the board behind it.
pub struct Crowd {
    /// Its URL.
    pub url: String,
    /// What it answers from.
    pub board: StatusBoard,
    /// The tables' names, in their order.
    pub names: Vec<TableName>,
    _folder: TempDir,
    serving: JoinHandle<()>,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Crowd {
    /// So many tables, which all stream but for some that are parked, and some that are copied.
    pub async fn start(tables: usize) -> Crowd {
        let mut names: Vec<_> = (0..tables).map(name).collect();
        names.sort();
        let board = StatusBoard::new("crowd", Duration::from_secs(300));
        tell(&board, &names);
        let address = format!("127.0.0.1:{}", free_port()).parse().expect("an address");
        let settings = HttpSettings {
            listen: address,
            tls: None,
            token: None,
            token_file: None,
            allow_control: true,
            table_metrics: true,
            stalled_after: Duration::from_secs(300),
        };
        let folder = tempfile::tempdir().expect("a folder");
        let listener = bind(&settings).await.expect("a free port");
        let live = Live::new(None);
        live.runs(Some("s3://lake/crowd"), false);
        let shared = Shared {
            board: board.clone(),
            letters: None,
            // There is no row to be followed, and no file to plan from.
            tracer: Arc::new(|_, _| None),
            topics: TopicView::new(None, None),
            planner: unasked(),
            records: Records {
                reports: unasked(),
                making: unasked(),
                waiting: Waiting::default(),
                audit: unasked(),
                audit_check: unasked(),
            },
            requests: Requests::new(folder.path()),
            cuts: CutCounter::new(CutRequests::new(folder.path()), || Box::pin(async { Ok(None) })),
            erasing: ErasureView::new(None),
            holds: HoldVerbs { add: undone(), release: undone() },
            tasks: None,
            reports: ReportsView::new(folder.path()),
            verify_requests: None,
            shapes: Shapes::new(Origins::default()),
            settings: Arc::new(settings),
            live,
        };
        let serving = tokio::spawn(serve(listener, shared));
        Crowd { url: format!("http://{address}"), board, names, _folder: folder, serving }
    }
}

/// What nobody asks here.
fn unasked() -> Inquiry {
    Inquiry::new(|_| Box::pin(async { Err("there is no configuration".to_owned()) }))
}

/// What nobody has done here.
fn undone() -> Verb {
    Verb::new(|_| {
        Box::pin(async { Err(sooner_api::Error::internal("cannot do it", "there is no configuration").into()) })
    })
}

fn name(number: usize) -> TableName {
    let schemas = ["public", "billing", "warehouse", "a_schema_with_a_rather_long_name"];
    let tables = ["orders", "order_lines", "customers_by_region_and_quarter", "t"];
    TableName::new(schemas[number % schemas.len()], format!("{}_{number:05}", tables[number / 4 % tables.len()]))
}

/// Tells the board what a pipeline would.
fn tell(board: &StatusBoard, names: &[TableName]) {
    let states: Vec<_> = (0..names.len()).map(state).collect();
    let parts = names.iter().zip(&states);
    let parts = parts.map(|(table, state)| TakesPart { table, state, estimated_rows: Some(5000), unsent: &[] });
    board.record(Fact::Tables(parts.collect()));
    for (number, (table, state)) in names.iter().zip(&states).enumerate() {
        board.record(Fact::State(Side::Sink, table, state));
        let rows = 1000 + number as u64 * 7 % 9000;
        if *state == TableState::Copying {
            board.record(Fact::CopyBegun(table, 0));
        }
        board.record(Fact::RowsCopied(table, rows, rows * 100));
        let committed =
            Committed { table_version: 3 + number as u64 % 500, rows_written: rows, ..Committed::default() };
        let took = Duration::from_millis(5);
        board.record(Fact::Committed { table, committed: &committed, events: rows, took, commit_micros: None });
        let size = TableSize {
            files: 1 + rows % 30,
            bytes: rows * 90,
            rows,
            deleted_rows: rows / 20,
            index_keys: None,
            index_bytes: 0,
        };
        board.record(Fact::Size(table, size));
    }
    let now_micros = SystemClock.now_micros();
    let mark = |back: u64| Watermark {
        commit_lsn: Lsn(END.0 - back),
        end_lsn: Lsn(END.0 - back),
        commit_micros: now_micros - back as i64,
    };
    board.record(Fact::ServerEnd(END));
    board.record(Fact::Slot(&SlotStanding {
        retained_bytes: 48 << 20,
        wal_status: Some("reserved".to_owned()),
        ..SlotStanding::default()
    }));
    let behind = names.iter().enumerate().filter(|(number, _)| number % 3 == 0);
    let behind = behind.map(|(number, table)| (table, mark(number as u64 * 31))).collect();
    board.record(Fact::Coverage { now_micros, read: mark(0), behind, apart: Vec::new() });
    for fact in
        [Fact::Received(END), Fact::Durable(Lsn(END.0 - 4096)), Fact::Confirmed(Lsn(END.0 - 4096)), Fact::Running]
    {
        board.record(fact);
    }
}

fn state(number: usize) -> TableState {
    match number % PARKED_EACH {
        7 => {
            let why = "the value 'infinity' of its column paid_at is beyond a timestamp";
            let remedy = "set unholdable of its [[table]], or change the value; then `sooner resume` it";
            let error = Error::operator(Code::ValueUnholdable, "cannot merge its events", why, remedy);
            TableState::Parked { error, copied_lsn: None }
        }
        70..75 => TableState::Copying,
        _ => TableState::Streaming { copied_lsn: None },
    }
}

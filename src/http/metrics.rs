//! `GET /metrics`: the status as series of Prometheus, in OpenMetrics' text form, worked out at each scrape.
//!
//! Names and units: <https://prometheus.io/docs/practices/naming/>; the form:
//! <https://prometheus.io/docs/specs/om/open_metrics_spec/>

use std::fmt;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use sooner_api::Side;
use sooner_schemas::TableName;

use super::Shared;
use crate::status::{Status, TableStatus};
use crate::totals::{Histogram, Totals};
use crate::verifications::Reports;

/// Media type of OpenMetrics' text form.
const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// States of a slot's log, as `pg_replication_slots.wal_status` has them.
const WAL_STATES: [&str; 4] = ["reserved", "extended", "unreserved", "lost"];
/// Phases of a table.
const PHASES: [&str; 5] = ["waiting", "copying", "streaming", "parked", "gone"];

/// Answers a scrape.
pub async fn metrics(State(shared): State<Shared>) -> Response {
    let snapshot = Snapshot {
        status: shared.board.read_now(),
        totals: shared.board.totals(),
        // Reports that cannot be read are told by the API.
        reports: shared.reports.read().unwrap_or_default(),
        of_tables: shared.settings.table_metrics,
        has_kafka: shared.live.has_kafka(),
        resident_bytes: resident_bytes(),
    };
    match exposition(snapshot) {
        Ok(text) => ([(CONTENT_TYPE, MEDIA_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn exposition(snapshot: Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(snapshot));
    let mut text = String::new();
    text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The status and the totals at one moment.
#[derive(Debug)]
struct Snapshot {
    status: Status,
    totals: Totals,
    /// What `sooner verify` found.
    reports: Arc<Reports>,
    /// Whether each table has its own series.
    of_tables: bool,
    /// Whether there is Kafka between source and lake.
    has_kafka: bool,
    /// Resident memory of the process, where the system tells it.
    resident_bytes: Option<u64>,
}

/// Resident memory of this process: `VmRSS` of <https://man7.org/linux/man-pages/man5/proc_pid_status.5.html>
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

type Labels = Vec<(&'static str, String)>;

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut out = Families { encoder, pipeline: self.status.pipeline.clone() };
        self.process(&mut out)?;
        self.positions(&mut out)?;
        self.slot(&mut out)?;
        if self.of_tables { self.tables(&mut out) } else { Ok(()) }
    }
}

impl Snapshot {
    fn process(&self, out: &mut Families<'_>) -> fmt::Result {
        let version = vec![("version", env!("CARGO_PKG_VERSION").to_owned())];
        out.gauge("sooner_build_info", "Version of the process", None, [(version, 1.0)])?;
        let moves = if self.status.trouble.is_some() { 0.0 } else { 1.0 };
        out.gauge(
            "sooner_up",
            "Whether the pipeline moves, rather than waits to try again",
            None,
            [(Vec::new(), moves)],
        )?;
        let paused = [Side::Source, Side::Sink]
            .map(|side| (side_label(side), f64::from(u8::from(self.status.paused.contains(&side)))));
        out.gauge("sooner_paused", "Whether a side rests, because somebody asked for it", None, paused)?;
        let errors = self.totals.errors.iter().map(|(code, count)| (vec![("code", code.clone())], *count));
        out.counter("sooner_errors", "Errors that interrupted the pipeline or stopped a table", errors)?;
        let Totals { commits, ways, transactions, dead_letters, .. } = &self.totals;
        out.counter("sooner_commits", "Commits to tables of the lake", [(Vec::new(), commits.count())])?;
        out.histogram("sooner_commit_duration", "Duration of commits to tables of the lake", commits)?;
        let help = "From commits at the source to those of the lake that make them visible";
        out.histogram("sooner_end_to_end", help, ways)?;
        if self.has_kafka {
            let help = "Duration of Kafka transactions, from the first message to the commit";
            out.histogram("sooner_kafka_transaction_duration", help, transactions)?;
            let help = "Messages that could not be read, and went to the dead letters";
            out.counter("sooner_dead_letters", help, [(Vec::new(), *dead_letters)])?;
            let throttled = self.totals.throttled.iter().map(|(side, wait)| (side_label(*side), wait.as_secs_f64()));
            let help = "How long brokers make a client wait, because it exceeds a quota";
            out.gauge("sooner_kafka_throttle", help, Some(Unit::Seconds), throttled)?;
        }
        let reports = || self.totals.reports.iter().map(|(report, totals)| (vec![("report", report.clone())], totals));
        let made = reports().filter_map(|(labels, totals)| Some((labels, totals.made_micros? as f64 / 1e6)));
        let help = "When a report was last made";
        out.gauge("sooner_report_last_success_timestamp", help, Some(Unit::Seconds), made)?;
        let failed = reports().map(|(labels, totals)| (labels, totals.failed));
        out.counter("sooner_report_failed", "Runs of a report that failed", failed)?;
        self.memory(out)
    }

    fn memory(&self, out: &mut Families<'_>) -> fmt::Result {
        let (one, bytes) = (|value: f64| [(Vec::new(), value)], Some(Unit::Bytes));
        if let Some((taken, limit)) = self.totals.memory {
            out.gauge("sooner_buffer", "Memory of events that wait", bytes.clone(), one(taken as f64))?;
            out.gauge("sooner_buffer_limit", "Memory that such events may take", bytes.clone(), one(limit as f64))?;
            let is_pressed = f64::from(u8::from(self.totals.is_pressed));
            let help = "Whether what is read waits for what is written";
            out.gauge("sooner_backpressure_active", help, None, one(is_pressed))?;
        }
        let resident = self.resident_bytes.map(|resident| (Vec::new(), resident as f64));
        out.gauge("process_resident_memory", "Resident memory of the process", bytes, resident)
    }

    fn positions(&self, out: &mut Families<'_>) -> fmt::Result {
        let Status { server_end_lsn: end, received_lsn, durable_lsn, confirmed_flush_lsn, .. } = self.status;
        let behind = |lsn: sooner_schemas::Lsn| [(Vec::new(), end.bytes_since(lsn) as f64)];
        let bytes = Some(Unit::Bytes);
        let unread = "Log of the server that has not been read";
        out.gauge("sooner_source_lag", unread, bytes.clone(), behind(received_lsn))?;
        let unapplied = "Log of the server that is not in the lake";
        out.gauge("sooner_lake_lag", unapplied, bytes.clone(), behind(durable_lsn))?;
        let unconfirmed = "Log of the server that has not been confirmed to it";
        out.gauge("sooner_confirmed_lag", unconfirmed, bytes, behind(confirmed_flush_lsn))
    }

    fn slot(&self, out: &mut Families<'_>) -> fmt::Result {
        let Some(slot) = &self.status.slot else { return Ok(()) };
        let (one, bytes) = (|value: f64| [(Vec::new(), value)], Some(Unit::Bytes));
        let retained = "Log that the slot makes the server keep";
        out.gauge("sooner_slot_retained", retained, bytes.clone(), one(slot.retained_bytes as f64))?;
        let safe = slot.safe_bytes.map(|safe| (Vec::new(), safe as f64));
        out.gauge("sooner_slot_safe_wal", "Log that may be written before the slot is lost", bytes, safe)?;
        let states = WAL_STATES.map(|state| {
            let is = slot.wal_status.as_deref() == Some(state);
            (vec![("status", state.to_owned())], f64::from(u8::from(is)))
        });
        out.gauge("sooner_slot_wal_status", "Availability of the slot's log", None, states)?;
        let spilled = slot.spilled_bytes.map(|spilled| (Vec::new(), spilled));
        out.counter("sooner_slot_spill_bytes", "Large transactions that the server wrote to its disk", spilled)?;
        let help = "Standbys that the server waits for before it sends anything, and that are not connected";
        out.gauge("sooner_source_standbys_missing", help, None, one(slot.standbys_missing.into()))?;
        let ahead = slot.clock_ahead_micros.map(|micros| (Vec::new(), micros as f64 / 1e6));
        out.gauge("sooner_source_clock_ahead", "The server's clock beside this machine's", Some(Unit::Seconds), ahead)
    }

    fn tables(&self, out: &mut Families<'_>) -> fmt::Result {
        let phases = self.status.tables.iter().flat_map(|(name, table)| {
            PHASES.map(|phase| {
                let mut labels = table_label(name);
                labels.push(("phase", phase.to_owned()));
                (labels, f64::from(u8::from(table.state.name() == phase)))
            })
        });
        out.gauge("sooner_table_phase", "What a table does", None, phases)?;
        let read = self.totals.events.iter().flat_map(|(table, events)| {
            events.iter().map(|(op, events)| {
                let mut labels = table_label(table);
                labels.push(("op", (*op).to_owned()));
                (labels, *events)
            })
        });
        out.counter("sooner_events", "Events read from the source, by operation", read)?;
        let events = self.status.tables.iter().map(|(name, table)| (table_label(name), table.events));
        out.counter("sooner_table_events", "Events merged into a table of the lake", events)?;
        for (name, help, unit, value) in TABLE_GAUGES {
            let series =
                self.status.tables.iter().filter_map(|(table, status)| Some((table_label(table), value(status)?)));
            out.gauge(name, help, unit.map(of_name), series)?;
        }
        let unread = self.status.tables.iter().flat_map(|(name, table)| {
            table.partitions.iter().filter_map(|(partition, offsets)| {
                let mut labels = table_label(name);
                labels.push(("partition", partition.to_string()));
                Some((labels, (offsets.end_offset? - offsets.next_offset).max(0) as f64))
            })
        });
        out.gauge("sooner_unread_offsets", "Offsets of a partition that have not been read", None, unread)?;
        self.verified(out)
    }

    fn verified(&self, out: &mut Families<'_>) -> fmt::Result {
        let known = || self.reports.iter().filter(|(table, _)| self.status.tables.contains_key(table));
        let equal = known().filter_map(|(table, found)| Some((table_label(table), found.equal_micros? as f64 / 1e6)));
        let help = "When a table was last verified to equal its source";
        out.gauge("sooner_verify_last_success_timestamp", help, Some(Unit::Seconds), equal)?;
        let differing = known().filter_map(|(table, found)| Some((table_label(table), found.differing? as f64)));
        let help = "Rows that differed from the source when a table was last verified";
        out.gauge("sooner_verify_rows_differing", help, None, differing)
    }
}

type TableValue = fn(&TableStatus) -> Option<f64>;

/// Gauges of a table: name, help, unit, and value, where it is known.
const TABLE_GAUGES: [(&str, &str, Option<&str>, TableValue); 11] = [
    ("sooner_table_lag", "Age of the oldest event that is not visible", Some("seconds"), |table| table.lag_seconds),
    ("sooner_table_lag", "Log that the table is behind the server", Some("bytes"), |table| {
        table.lag_bytes.map(|bytes| bytes as f64)
    }),
    ("sooner_copy_rows", "Rows that the table's last copy has read", None, |table| Some(table.rows_copied as f64)),
    ("sooner_copy_rows_estimated", "Rows that the planner estimates", None, |table| {
        table.rows_estimated.map(|rows| rows as f64)
    }),
    ("sooner_table_version", "Version of the lake table", None, |table| {
        table.table_version.map(|version| version as f64)
    }),
    ("sooner_table_files", "Data files of the lake table", None, |table| table.files.map(|files| files as f64)),
    ("sooner_table_size", "Size of those files", Some("bytes"), |table| table.file_bytes.map(|bytes| bytes as f64)),
    ("sooner_table_deleted_row_ratio", "Share of rows in the files that are gone", None, |table| {
        table.deleted_row_ratio
    }),
    ("sooner_index_keys", "Keys in the table's index", None, |table| table.index_keys.map(|keys| keys as f64)),
    ("sooner_index", "The index on disk", Some("bytes"), |table| table.index_bytes.map(|bytes| bytes as f64)),
    (
        "sooner_table_watermark_timestamp",
        "Commit time of the last transaction that is visible",
        Some("seconds"),
        |table| table.watermark_micros.map(|micros| micros as f64 / 1e6),
    ),
];

fn of_name(unit: &str) -> Unit {
    if unit == "bytes" { Unit::Bytes } else { Unit::Seconds }
}

fn side_label(side: Side) -> Labels {
    let name = if side == Side::Source { "source" } else { "sink" };
    vec![("side", name.to_owned())]
}

fn table_label(table: &TableName) -> Labels {
    vec![("table", table.to_string())]
}

/// Writes families of series, each with the pipeline's label.
struct Families<'a> {
    encoder: DescriptorEncoder<'a>,
    pipeline: String,
}

impl Families<'_> {
    fn gauge(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, series, |mut encoder, value| encoder.encode_gauge(&value))
    }

    fn counter(&mut self, name: &str, help: &str, series: impl IntoIterator<Item = (Labels, u64)>) -> fmt::Result {
        self.family(name, help, None, MetricType::Counter, series, |mut encoder, value| {
            encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) -> fmt::Result {
        let buckets = histogram.buckets();
        let series = [(Vec::new(), histogram)];
        self.family(name, help, Some(Unit::Seconds), MetricType::Histogram, series, |mut encoder, histogram| {
            encoder.encode_histogram::<NoLabelSet>(histogram.seconds, histogram.count(), &buckets, None)
        })
    }

    fn family<V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        metric_type: MetricType,
        series: impl IntoIterator<Item = (Labels, V)>,
        encode: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self.encoder.encode_descriptor(name, help, unit.as_ref(), metric_type)?;
        for (mut labels, value) in series {
            labels.insert(0, ("pipeline", self.pipeline.clone()));
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sooner_api::{Code, Fact, SlotStanding, TableState};
    use sooner_schemas::Lsn;
    use sooner_schemas::event::Op;

    use super::*;

    #[test]
    fn series_have_base_units_and_say_whose_they_are() {
        let mut status =
            Status { pipeline: "shop".into(), server_end_lsn: Lsn(100), durable_lsn: Lsn(40), ..Status::default() };
        let wal_status = Some("extended".to_owned());
        let (spilled_bytes, clock_ahead_micros) = (Some(11), Some(-2_500_000));
        let slot = SlotStanding { retained_bytes: 7, wal_status, spilled_bytes, ..SlotStanding::default() };
        status.slot = Some(SlotStanding { clock_ahead_micros, standbys_missing: 1, ..slot });
        let mut table = TableStatus::new(TableState::Streaming { copied_lsn: None });
        (table.events, table.lag_seconds) = (5, Some(1.5));
        status.tables.insert(TableName::new("public", "t"), table);
        let mut totals = Totals::default();
        totals.committed(Duration::from_millis(20), Some(1_000_000), 1_600_000);
        (totals.memory, totals.dead_letters) = (Some((5, 9)), 3);
        totals.failed(Code::PostgresUnreachable);
        let name = TableName::new("public", "t");
        for (op, events) in [(Op::Update, 2), (Op::Delete, 1), (Op::Update, 3)] {
            totals.hear(&Fact::Read(&name, op, events), 0);
        }
        totals.hear(&Fact::Throttled(Side::Sink, Duration::from_millis(250)), 0);
        totals.hear(&Fact::ReportMade("daily", 1_500_000), 0);
        let of = |of_tables: bool| Snapshot {
            status: status.clone(),
            totals: totals.clone(),
            reports: Arc::default(),
            of_tables,
            has_kafka: of_tables,
            resident_bytes: Some(7),
        };
        let text = exposition(of(true)).unwrap();
        for line in [
            "sooner_lake_lag_bytes{pipeline=\"shop\"} 60.0",
            "sooner_slot_retained_bytes{pipeline=\"shop\"} 7.0",
            "sooner_slot_wal_status{pipeline=\"shop\",status=\"extended\"} 1.0",
            "sooner_slot_wal_status{pipeline=\"shop\",status=\"lost\"} 0.0",
            "sooner_table_phase{pipeline=\"shop\",table=\"public.t\",phase=\"streaming\"} 1.0",
            "sooner_table_events_total{pipeline=\"shop\",table=\"public.t\"} 5",
            "sooner_table_lag_seconds{pipeline=\"shop\",table=\"public.t\"} 1.5",
            "sooner_errors_total{pipeline=\"shop\",code=\"postgres_unreachable\"} 1",
            "sooner_commit_duration_seconds_bucket{le=\"0.025\",pipeline=\"shop\"} 1",
            "sooner_end_to_end_seconds_bucket{le=\"0.5\",pipeline=\"shop\"} 0",
            "sooner_end_to_end_seconds_bucket{le=\"1.0\",pipeline=\"shop\"} 1",
            "sooner_dead_letters_total{pipeline=\"shop\"} 3",
            "sooner_events_total{pipeline=\"shop\",table=\"public.t\",op=\"update\"} 5",
            "sooner_events_total{pipeline=\"shop\",table=\"public.t\",op=\"delete\"} 1",
            "sooner_kafka_throttle_seconds{pipeline=\"shop\",side=\"sink\"} 0.25",
            "sooner_report_last_success_timestamp_seconds{pipeline=\"shop\",report=\"daily\"} 1.5",
            "sooner_report_failed_total{pipeline=\"shop\",report=\"daily\"} 0",
            "sooner_slot_spill_bytes_total{pipeline=\"shop\"} 11",
            "sooner_source_clock_ahead_seconds{pipeline=\"shop\"} -2.5",
            "sooner_source_standbys_missing{pipeline=\"shop\"} 1.0",
            "sooner_buffer_limit_bytes{pipeline=\"shop\"} 9.0",
            "process_resident_memory_bytes{pipeline=\"shop\"} 7.0",
            "# TYPE sooner_commits counter",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
        let few = exposition(of(false)).unwrap();
        assert!(!few.contains("table=") && few.contains("sooner_lake_lag_bytes") && few.ends_with("# EOF\n"));
    }
}

//! The listener of a running pipeline: metrics, health, a read-only API, a page, and verbs where they are allowed.
//!
//! Everything is a reader of the status board; nothing here is asked by the loops.

pub mod access;
pub mod api;
mod caller;
pub mod connections;
pub mod cut_counter;
pub mod cuts;
pub mod dead_letters;
mod docs;
pub mod entrance;
pub mod erasure_view;
pub mod erasures;
pub mod fleet;
pub mod gate;
pub mod health;
pub mod histories;
pub mod holds;
pub mod inquiry;
mod lake;
pub mod live;
pub mod metrics;
pub mod page;
pub mod records;
pub mod schema;
pub mod settings;
pub mod shapes;
pub mod summary;
pub mod tables;
pub mod tasks;
pub mod tls;
pub mod topics;
pub mod trace;
pub mod verifications;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use axum::serve::Listener;
use tokio::net::TcpListener;

use self::caller::Peer;
use self::cut_counter::CutCounter;
use self::entrance::Entrance;
use self::erasure_view::ErasureView;
use self::gate::Gate;
use self::inquiry::{HoldVerbs, Inquiry, Records};
use self::live::Live;
use self::settings::HttpSettings;
use self::shapes::Shapes;
use self::tls::Certificates;
use self::topics::TopicView;
use crate::control::Requests;
use crate::letters::Desk;
use crate::status::StatusBoard;
use crate::tasks::desk::TaskDesk;
use crate::verifications::ReportsView;
use crate::verify_request::VerifyRequests;

/// Requests of more than this many bytes are refused.
const BODY_BYTES: usize = 64 << 10;
/// The page may load nothing from elsewhere.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self'; \
                           frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// What requests are answered from.
#[derive(Clone)]
pub struct Shared {
    /// Status and journal.
    pub board: StatusBoard,
    /// The dead letters; none where messages that cannot be read stop their table.
    pub letters: Option<Desk>,
    /// Follows rows.
    pub tracer: trace::Tracer,
    /// What is known of topics beside the status.
    pub topics: TopicView,
    /// Works out what another configuration would do.
    pub planner: Inquiry,
    /// Knows of reports and of the audit trail.
    pub records: Records,
    /// Where verbs go.
    pub requests: Requests,
    /// Where cuts are asked for.
    pub cuts: CutCounter,
    /// What is known of erasures, and where they are asked for.
    pub erasing: ErasureView,
    /// Makes and releases legal holds.
    pub holds: HoldVerbs,
    /// Where tasks are asked for; none in a process without a lake.
    pub tasks: Option<TaskDesk>,
    /// What `sooner verify` found.
    pub reports: ReportsView,
    /// Where verifications are asked for; none where this process cannot make them.
    pub verify_requests: Option<VerifyRequests>,
    /// Where the kinds of columns come from.
    pub shapes: Shapes,
    /// Settings of the listener, but for what changes.
    pub settings: Arc<HttpSettings>,
    /// What changes while it listens.
    pub live: Live,
}

/// Takes the address. One that is taken already, or not this machine's, is an error, and so is a certificate that is of
/// no use.
pub async fn bind(settings: &HttpSettings) -> anyhow::Result<Entrance> {
    let certificates = settings.tls.as_ref().map(Certificates::open).transpose()?;
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on {}: {error}. To do: set listen of [http] to an address of this machine with a free port.",
            settings.listen
        )
    })?;
    Ok(Entrance::new(listener, certificates))
}

/// Answers requests until the task is dropped.
pub async fn serve(entrance: Entrance, shared: Shared) {
    let gate = Gate { settings: shared.settings.clone(), live: shared.live.clone() };
    serve_paths(entrance, router(shared, gate.clone()), gate).await;
}

/// Answers requests for these paths, and reads certificates and the token again when they change.
async fn serve_paths(entrance: Entrance, paths: Router, gate: Gate) {
    if let Ok(address) = entrance.local_addr() {
        tracing::info!(%address, tls = gate.settings.tls.is_some(), "listening for HTTP");
    }
    let renewing = gate.live.renew_token(gate.settings.token_file.clone());
    let certificates = entrance.renew();
    let service = paths.into_make_service_with_connect_info::<Peer>();
    tokio::select! {
        ended = axum::serve(entrance, service) => if let Err(error) = ended {
            tracing::error!(%error, "the HTTP listener ended");
        },
        () = renewing => {}
        () = certificates => {}
    }
}

/// All paths. Probes need neither token nor certificate, as kubelets have none, and say nothing but yes or no; the page
/// has no data, and asks for the token; documents are the same everywhere.
fn router(shared: Shared, gate: Gate) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(api::healthz))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/health", get(api::health))
        .route("/api/v1/summary", get(summary::summary))
        .route("/api/v1/events", get(api::events))
        .route("/api/v1/topics", get(api::topics))
        .route("/api/v1/openapi.json", get(api::openapi))
        .route("/api/v1/dead-letters", get(dead_letters::list))
        .route("/api/v1/dead-letters/replay", post(dead_letters::replay))
        .route("/api/v1/dead-letters/drop", post(dead_letters::drop_letters))
        .route("/api/v1/dead-letters/{partition}/{offset}", get(dead_letters::show))
        .route("/api/v1/cuts", get(cuts::list).post(cuts::create))
        .route("/api/v1/cuts/{name}", get(cuts::show))
        .route("/api/v1/cuts/{name}/drop", post(cuts::drop_cut))
        .route("/api/v1/cuts/{name}/export", post(tasks::export))
        .route("/api/v1/cuts/{name}/sql", get(cuts::sql))
        .route("/api/v1/cuts/{name}/verify", post(tasks::verify))
        .route("/api/v1/erasures", get(erasures::list).post(erasures::ask))
        .route("/api/v1/erasures/{name}", get(erasures::show))
        .route("/api/v1/erasures/{name}/forget", post(erasures::forget))
        .route("/api/v1/holds", get(holds::list).post(holds::add))
        .route("/api/v1/holds/{name}/release", post(holds::release))
        .route("/api/v1/verifications", get(verifications::verifications).post(verifications::ask))
        .route("/api/v1/histories", get(histories::histories))
        .route("/api/v1/reports", get(records::reports))
        .route("/api/v1/reports/{name}", get(records::report))
        .route("/api/v1/reports/{name}/run", post(tasks::run_report))
        .route("/api/v1/reports/{name}/backfill", post(tasks::backfill))
        .route("/api/v1/tasks", get(tasks::list))
        .route("/api/v1/tasks/{name}", get(tasks::show))
        .route("/api/v1/tasks/{name}/forget", post(tasks::forget))
        .route("/api/v1/audit", get(records::audit))
        .route("/api/v1/audit/check", get(records::audit_check))
        .route("/api/v1/audit/verify", post(tasks::check_audit))
        .route("/api/v1/optimize", post(tasks::optimize))
        .route("/api/v1/vacuum", post(tasks::vacuum))
        .route("/api/v1/plan", get(api::plan))
        .route("/api/v1/pause", post(api::pause))
        .route("/api/v1/resume", post(api::resume_all))
        .route("/api/v1/tables", get(tables::tables))
        .route("/api/v1/tables/{table}", get(api::table))
        .route("/api/v1/tables/{table}/schema", get(schema::schema))
        .route("/api/v1/tables/{table}/trace", get(trace::trace_row))
        .route("/api/v1/tables/{table}/history", get(histories::query))
        .route("/api/v1/tables/{table}/history/head", get(histories::head))
        .route("/api/v1/tables/{table}/history/verify", post(tasks::check_history))
        .route("/api/v1/tables/{table}/replay", post(tasks::replay))
        .route("/api/v1/tables/{table}/resume", post(api::resume))
        .route("/api/v1/tables/{table}/copy", post(api::copy))
        .route("/api/v1/tables/{table}/cancel", post(api::cancel))
        .route("/api/v1/tables/{table}/repartition", post(api::repartition))
        .layer(axum::middleware::from_fn_with_state(gate, access::check));
    Router::new()
        .route("/", get(page))
        .route("/docs/{page}", get(docs::docs))
        .route("/livez", get(api::live))
        .route("/readyz", get(api::ready))
        .merge(guarded)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES))
        .with_state(shared)
}

async fn page() -> impl IntoResponse {
    html(page::PAGE.as_str())
}

/// A page, with what keeps it from loading anything.
fn html(text: impl Into<axum::body::Body>) -> impl IntoResponse {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, Html(text.into()))
}

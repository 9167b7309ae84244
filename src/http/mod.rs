//! The listener of a running pipeline: metrics, health, a read-only API, a page, and verbs where they are allowed.
//!
//! Everything is a reader of the status board; nothing here is asked by the loops.

pub mod access;
pub mod api;
pub mod connections;
pub mod fleet;
pub mod health;
pub mod metrics;
pub mod schema;
pub mod settings;
pub mod shapes;
pub mod summary;
pub mod tables;

use std::sync::Arc;

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};
use tokio::net::TcpListener;

use self::connections::BoundedListener;
use self::settings::HttpSettings;
use self::shapes::Shapes;
use crate::control::Requests;
use crate::status::StatusBoard;

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
    /// Location of the lake; none in a process that runs only the source's side.
    pub lake: Option<String>,
    /// Whether there is Kafka between source and lake.
    pub has_kafka: bool,
    /// Where verbs go.
    pub requests: Requests,
    /// Where the kinds of columns come from.
    pub shapes: Shapes,
    /// Settings of the listener.
    pub settings: Arc<HttpSettings>,
}

/// Takes the address. One that is taken already, or not this machine's, is an error.
pub async fn bind(settings: &HttpSettings) -> anyhow::Result<TcpListener> {
    TcpListener::bind(settings.listen).await.map_err(|error| {
        anyhow::anyhow!(
            "cannot listen on {}: {error}. To do: set listen of [http] to an address of this machine with a free port.",
            settings.listen
        )
    })
}

/// Answers requests until the task is dropped.
pub async fn serve(listener: TcpListener, shared: Shared) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "listening for HTTP");
    }
    if let Err(error) = axum::serve(BoundedListener::new(listener), router(shared)).await {
        tracing::error!(%error, "the HTTP listener ended");
    }
}

/// All paths. Probes need no token, as kubelets have none, and say nothing but yes or no; the page has no data, and
/// asks for the token.
fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/metrics", get(metrics::metrics))
        .route("/healthz", get(api::healthz))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/health", get(api::health))
        .route("/api/v1/summary", get(summary::summary))
        .route("/api/v1/events", get(api::events))
        .route("/api/v1/openapi.json", get(api::openapi))
        .route("/api/v1/pause", post(api::pause))
        .route("/api/v1/resume", post(api::resume_all))
        .route("/api/v1/tables", get(tables::tables))
        .route("/api/v1/tables/{table}", get(api::table))
        .route("/api/v1/tables/{table}/schema", get(schema::schema))
        .route("/api/v1/tables/{table}/resume", post(api::resume))
        .route("/api/v1/tables/{table}/copy", post(api::copy))
        .route("/api/v1/tables/{table}/cancel", post(api::cancel))
        .layer(axum::middleware::from_fn_with_state(shared.settings.clone(), access::check));
    Router::new()
        .route("/", get(page))
        .route("/livez", get(api::live))
        .route("/readyz", get(api::ready))
        .merge(guarded)
        .layer(axum::extract::DefaultBodyLimit::max(BODY_BYTES))
        .with_state(shared)
}

async fn page() -> impl IntoResponse {
    html(include_str!("page.html"))
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

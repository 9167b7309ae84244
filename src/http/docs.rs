//! Longer pages, as text: what to do when an alert fires, and how anybody checks the audit trail.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

const PAGES: [(&str, &str); 2] =
    [("runbook.md", include_str!("../docs/runbook.md")), ("audit.md", include_str!("../docs/audit.md"))];

/// `GET /docs/{page}`.
pub async fn docs(Path(name): Path<String>) -> Response {
    match PAGES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => ([(CONTENT_TYPE, "text/markdown; charset=utf-8")], *text).into_response(),
        None => (StatusCode::NOT_FOUND, "there are runbook.md and audit.md\n").into_response(),
    }
}

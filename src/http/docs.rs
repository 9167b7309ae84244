//! Longer pages, as text: what to do when an alert fires, how anybody checks the audit trail, and how to
//! erase somebody.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

const PAGES: [(&str, &str); 3] = [
    ("runbook.md", include_str!("../docs/runbook.md")),
    ("audit.md", include_str!("../docs/audit.md")),
    ("erasure.md", include_str!("../docs/erasure.md")),
];

/// `GET /docs/{page}`.
pub async fn docs(Path(name): Path<String>) -> Response {
    match PAGES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => ([(CONTENT_TYPE, "text/markdown; charset=utf-8")], *text).into_response(),
        None => (StatusCode::NOT_FOUND, "there are runbook.md, audit.md and erasure.md\n").into_response(),
    }
}

//! Longer pages, as text: what to do when an alert fires, how anybody checks the audit trail, how to erase somebody,
//! and how to know what was true at a moment.

use axum::extract::Path;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

const PAGES: [(&str, &str); 4] = [
    ("runbook.md", include_str!("../docs/runbook.md")),
    ("audit.md", include_str!("../docs/audit.md")),
    ("erasure.md", include_str!("../docs/erasure.md")),
    ("compliance.md", include_str!("../docs/compliance.md")),
];

/// `GET /docs/{page}`.
pub async fn docs(Path(name): Path<String>) -> Response {
    match PAGES.iter().find(|(known, _)| *known == name) {
        Some((_, text)) => ([(CONTENT_TYPE, "text/markdown; charset=utf-8")], *text).into_response(),
        None => {
            (StatusCode::NOT_FOUND, "there are runbook.md, audit.md, erasure.md and compliance.md\n").into_response()
        }
    }
}

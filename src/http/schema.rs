//! A table's columns for the API. The source's side knows relations; of the lake the table's own log is asked, when
//! somebody wants to know. So an idle table costs nothing here.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::json;

use super::Shared;
use super::api::{Answer, known, problem};
use super::shapes::ways;

/// `GET /api/v1/tables/{schema.table}/schema`: the columns of a table, at its source and in the lake.
pub async fn schema(State(shared): State<Shared>, Path(table): Path<String>) -> Answer {
    let name = match known(&shared, &table) {
        Ok(name) => name,
        Err(answer) => return answer,
    };
    let origins = shared.shapes.origins();
    let (relation, unsent) = shared.board.look(|status| {
        let table = status.tables.get(&name);
        (table.and_then(|table| table.relation.clone()), table.map(|table| table.columns_not_sent.clone()))
    });
    let (shape, trouble) = match &origins.lake {
        None => (None, None),
        Some(lake) => match shared.shapes.of_lake(lake, &name).await {
            Ok(shape) => (shape, None),
            Err(trouble) => (None, Some(trouble)),
        },
    };
    if let (None, Some(trouble)) = (&relation, &trouble) {
        return problem(StatusCode::SERVICE_UNAVAILABLE, trouble, "see to the lake's store, and ask again");
    }
    let unsent = unsent.filter(|unsent| !unsent.is_empty());
    let unsent = unsent.or_else(|| shape.as_ref().map(|shape| shape.unsent.clone())).unwrap_or_default();
    let answer = json!({
        "table": name,
        "columns": ways(relation.as_deref(), shape.as_ref(), &origins),
        "not_sent": unsent,
        "replica_identity": relation.as_ref().map(|relation| relation.identity),
        "lake_version": shape.map(|shape| shape.version),
        "lake_trouble": trouble,
    });
    (StatusCode::OK, Json(answer))
}

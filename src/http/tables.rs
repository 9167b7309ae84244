//! Lists of tables for the API: all of them, or those that somebody looks for, in an order, a page at a time.

use std::cmp::Ordering;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use sooner_schemas::TableName;

use super::Shared;
use super::api::problem;
use crate::status::{Status, TableStatus};

/// Header with the number of tables that were looked for, of which the answer may have a page.
pub const TOTAL_COUNT: HeaderName = HeaderName::from_static("x-total-count");

/// Orders by name, as questions have them.
const ORDERS: [(&str, Order); 11] = [
    ("name", Order::Name),
    ("worst", Order::Worst),
    ("phase", Order::Phase),
    ("lag", Order::Number(|table| table.lag_seconds)),
    ("events", Order::Number(|table| Some(table.events as f64))),
    ("copied", Order::Number(|table| Some(table.rows_copied as f64))),
    ("unread", Order::Number(|table| table.lag_messages.map(|messages| messages as f64))),
    ("version", Order::Number(|table| table.table_version.map(|version| version as f64))),
    ("files", Order::Number(|table| table.files.map(|files| files as f64))),
    ("size", Order::Number(|table| table.file_bytes.map(|bytes| bytes as f64))),
    ("gone", Order::Number(|table| table.deleted_row_ratio)),
];

/// An order of tables; those that are alike in it are in the order of their names.
#[derive(Clone, Copy)]
enum Order {
    Name,
    /// What needs a person first, then by what is known of the lag.
    Worst,
    Phase,
    /// The greatest number first, what is not known last.
    Number(fn(&TableStatus) -> Option<f64>),
}

/// Which tables are looked for. Without anything: all of them, in the order of their names.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listing {
    /// Text that their names contain, in any case.
    filter: String,
    /// Phase that they are in.
    phase: Option<String>,
    /// Name of their order; with a `-` before it, the other way round.
    sort: Option<String>,
    /// So many of them are left out.
    offset: usize,
    /// So many follow at most.
    limit: Option<usize>,
}

/// Tables in an order, as a JSON object.
struct InOrder(Vec<(TableName, TableStatus)>);

impl Serialize for InOrder {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, table) in &self.0 {
            map.serialize_entry(name, table)?;
        }
        map.end()
    }
}

/// `GET /api/v1/tables?filter=…&phase=…&sort=…&offset=…&limit=…`: each table with its status, in that order.
pub async fn tables(State(shared): State<Shared>, Query(listing): Query<Listing>) -> Response {
    let Some(order) = order(listing.sort.as_deref().unwrap_or("name")) else {
        let names: Vec<_> = ORDERS.iter().map(|(name, _)| *name).collect();
        let remedy = format!("sort by one of {}; a - before it turns it round", names.join(", "));
        return problem(StatusCode::BAD_REQUEST, "there is no such order of tables", &remedy).into_response();
    };
    let (count, page) = shared.board.look(|status| page(status, &listing, order));
    ([(TOTAL_COUNT, count.to_string())], Json(InOrder(page))).into_response()
}

/// An order by its name, and whether it is turned round.
fn order(name: &str) -> Option<(Order, bool)> {
    let (name, is_turned) = name.strip_prefix('-').map_or((name, false), |name| (name, true));
    ORDERS.iter().find(|(known, _)| *known == name).map(|(_, order)| (*order, is_turned))
}

/// How many tables are looked for, and those of one page.
fn page(status: &Status, listing: &Listing, order: (Order, bool)) -> (usize, Vec<(TableName, TableStatus)>) {
    let wanted = listing.filter.to_lowercase();
    let is_wanted = |name: &TableName, table: &TableStatus| {
        listing.phase.as_deref().is_none_or(|phase| table.state.name() == phase)
            && (wanted.is_empty() || name.to_string().to_lowercase().contains(&wanted))
    };
    let mut found: Vec<_> = status.tables.iter().filter(|(name, table)| is_wanted(name, table)).collect();
    // They come in the order of their names, which a stable sort keeps.
    found.sort_by(|(_, a), (_, b)| compare(order, a, b));
    if let (Order::Name, true) = order {
        found.reverse();
    }
    let page = found.iter().skip(listing.offset).take(listing.limit.unwrap_or(usize::MAX));
    (found.len(), page.map(|(name, table)| ((*name).clone(), (*table).clone())).collect())
}

fn compare((order, is_turned): (Order, bool), a: &TableStatus, b: &TableStatus) -> Ordering {
    let turned = |ordering: Ordering| if is_turned { ordering.reverse() } else { ordering };
    match order {
        Order::Name => Ordering::Equal,
        Order::Phase => turned(a.state.name().cmp(b.state.name())),
        Order::Worst => turned(greatest_first(Some(badness(a)), Some(badness(b)))),
        Order::Number(number) => match (number(a), number(b)) {
            (Some(a), Some(b)) => turned(greatest_first(Some(a), Some(b))),
            (a, b) => greatest_first(a, b),
        },
    }
}

fn greatest_first(a: Option<f64>, b: Option<f64>) -> Ordering {
    b.partial_cmp(&a).unwrap_or(Ordering::Equal)
}

/// How much a table wants to be looked at: by its phase, then by its lag.
fn badness(table: &TableStatus) -> f64 {
    let phase = match table.state.name() {
        "parked" => 4e9,
        "waiting" => 3e9,
        "copying" => 2e9,
        _ => 0.0,
    };
    phase + table.lag_seconds.unwrap_or(0.0).min(1e9)
}

#[cfg(test)]
mod tests {
    use sooner_api::{Code, Error, TableState};

    use super::*;

    fn status() -> Status {
        let mut status = Status::default();
        let streaming = TableState::Streaming { copied_lsn: None };
        for (name, lag, files) in [("Orders", Some(0.0), Some(3)), ("lines", Some(9.0), None), ("items", None, Some(7))]
        {
            let table = TableStatus { lag_seconds: lag, files, ..TableStatus::new(streaming.clone()) };
            status.tables.insert(TableName::new("public", name), table);
        }
        let error = Error::operator(Code::ShapeChanged, "w", "y", "r");
        let parked = TableStatus::new(TableState::Parked { error, copied_lsn: None });
        status.tables.insert(TableName::new("public", "users"), parked);
        status
    }

    fn names(listing: &Listing) -> (usize, Vec<String>) {
        let (count, page) = page(&status(), listing, order(listing.sort.as_deref().unwrap_or("name")).unwrap());
        (count, page.into_iter().map(|(name, _)| name.table).collect())
    }

    fn sorted(sort: &str) -> Vec<String> {
        names(&Listing { sort: Some(sort.to_owned()), ..Listing::default() }).1
    }

    #[test]
    fn tables_come_in_the_order_that_was_asked_for_and_unknown_numbers_last() {
        assert_eq!(names(&Listing::default()), (4, ["Orders", "items", "lines", "users"].map(str::to_owned).to_vec()));
        assert_eq!(sorted("-name"), ["users", "lines", "items", "Orders"]);
        assert_eq!(sorted("worst"), ["users", "lines", "Orders", "items"]);
        assert_eq!(sorted("lag"), ["lines", "Orders", "items", "users"]);
        assert_eq!(sorted("-lag"), ["Orders", "lines", "items", "users"]);
        assert_eq!(sorted("files"), ["items", "Orders", "lines", "users"]);
        assert_eq!(sorted("phase"), ["users", "Orders", "items", "lines"]);
        assert!(order("color").is_none());
    }

    #[test]
    fn a_page_is_of_what_was_looked_for() {
        let filter = |filter: &str| Listing { filter: filter.to_owned(), ..Listing::default() };
        assert_eq!(names(&filter("ORD")), (1, vec!["Orders".to_owned()]));
        assert_eq!(names(&filter("public.l")), (1, vec!["lines".to_owned()]));
        let parked = Listing { phase: Some("parked".to_owned()), ..Listing::default() };
        assert_eq!(names(&parked), (1, vec!["users".to_owned()]));
        let page = Listing { offset: 1, limit: Some(2), ..Listing::default() };
        assert_eq!(names(&page), (4, ["items", "lines"].map(str::to_owned).to_vec()));
        assert_eq!(names(&Listing { offset: 9, ..Listing::default() }), (4, Vec::new()));
    }

    #[test]
    fn the_answer_keeps_the_order() {
        let listing = Listing { sort: Some("worst".to_owned()), ..Listing::default() };
        let (_, page) = page(&status(), &listing, order("worst").unwrap());
        let text = serde_json::to_string(&InOrder(page)).unwrap();
        let at = |name: &str| text.find(&format!("\"public.{name}\"")).unwrap();
        assert!(at("users") < at("lines") && at("lines") < at("Orders"), "{text}");
    }
}

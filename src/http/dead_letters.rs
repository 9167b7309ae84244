//! The dead letters by the API: as `sooner dead-letters` has them.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::json;
use sooner_api::Result;
use sooner_kafka::letters::catalogue::Selection;
use sooner_kafka::letters::outcome::Outcome;
use sooner_kafka::message::letter_headers::LetterId;

use super::Shared;
use super::api::{Answer, failed, note, problem};
use crate::letters::{Desk, Listed};

/// So many letters are listed unless a limit is asked for.
const LISTED: usize = 100;
/// So many are listed at most.
const MOST_LISTED: usize = 10_000;

/// Which letters are to be listed.
#[derive(Debug, Default, Deserialize)]
pub struct Wanted {
    /// Only those of this topic.
    topic: Option<String>,
    /// So many at most.
    limit: Option<usize>,
}

/// `GET /api/v1/dead-letters?topic=…&limit=…`: the open letters in groups, and the last ones, without what is in them.
pub async fn list(State(shared): State<Shared>, Query(wanted): Query<Wanted>) -> Answer {
    let Some(desk) = &shared.letters else { return (StatusCode::OK, Json(json!(Listed::default()))) };
    let limit = wanted.limit.unwrap_or(LISTED).min(MOST_LISTED);
    match desk.list(Selection::of_topic(wanted.topic), limit).await {
        Ok(listed) => (StatusCode::OK, Json(json!(listed))),
        Err(error) => failed(&error),
    }
}

/// `GET /api/v1/dead-letters/{partition}/{offset}`: a letter with what is in it, rows' values too.
pub async fn show(State(shared): State<Shared>, Path((partition, offset)): Path<(i32, i64)>) -> Answer {
    let Some(desk) = &shared.letters else { return no_letter() };
    match desk.show(LetterId { partition, offset }).await {
        Ok(Some(shown)) => (StatusCode::OK, Json(json!(shown))),
        Ok(None) => no_letter(),
        Err(error) => failed(&error),
    }
}

/// Body of a verb: which letters are meant, by one of these.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    id: Option<LetterId>,
    topic: Option<String>,
    #[serde(default)]
    all: bool,
}

impl Which {
    /// What is meant; none unless it is one thing.
    fn selection(self) -> Option<Selection> {
        match (self.id, self.topic, self.all) {
            (Some(id), None, false) => Some(Selection::One(id)),
            (None, Some(topic), false) => Some(Selection::Topic(topic)),
            (None, None, true) => Some(Selection::All),
            _ => None,
        }
    }
}

/// `POST /api/v1/dead-letters/replay` with `{"id": "0/7"}`, `{"topic": "…"}` or `{"all": true}`: as the command.
pub async fn replay(State(shared): State<Shared>, Json(which): Json<Which>) -> Answer {
    match meant(&shared, which) {
        Ok((desk, selection)) => {
            note(&shared, None, "dead-letters replay", json!({ "selection": format!("{selection:?}") }));
            let handled = desk.replay(selection.clone()).await;
            told(&desk, &selection, handled).await
        }
        Err(refused) => refused,
    }
}

/// `POST /api/v1/dead-letters/drop` with the same: as the command with --yes.
pub async fn drop_letters(State(shared): State<Shared>, Json(which): Json<Which>) -> Answer {
    match meant(&shared, which) {
        Ok((desk, selection)) => {
            note(&shared, None, "dead-letters drop", json!({ "selection": format!("{selection:?}") }));
            let handled = desk.drop_letters(selection.clone()).await;
            told(&desk, &selection, handled).await
        }
        Err(refused) => refused,
    }
}

fn meant(shared: &Shared, which: Which) -> std::result::Result<(Desk, Selection), Answer> {
    let Some(selection) = which.selection() else {
        let remedy = "send one of {\"id\": \"0/7\"}, {\"topic\": \"…\"} and {\"all\": true}";
        return Err(problem(StatusCode::BAD_REQUEST, "it is not said which letters are meant", remedy));
    };
    Ok((shared.letters.clone().ok_or_else(no_letter)?, selection))
}

async fn told(desk: &Desk, selection: &Selection, handled: Result<Vec<Outcome>>) -> Answer {
    match (handled, selection) {
        (Err(error), _) => failed(&error),
        (Ok(outcomes), Selection::One(id)) if outcomes.is_empty() => match desk.find(*id).await {
            Ok(None) => no_letter(),
            Ok(Some(letter)) => (StatusCode::OK, Json(json!({ "outcomes": [], "letter": letter }))),
            Err(error) => failed(&error),
        },
        (Ok(outcomes), _) => (StatusCode::OK, Json(json!({ "outcomes": outcomes }))),
    }
}

fn no_letter() -> Answer {
    problem(StatusCode::NOT_FOUND, "there is no such dead letter", "see /api/v1/dead-letters")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_says_which_letters_are_meant() {
        let read = |body: &str| serde_json::from_str::<Which>(body).ok().and_then(Which::selection);
        let id = LetterId { partition: 0, offset: 7 };
        assert_eq!(read("{\"id\": \"0/7\"}"), Some(Selection::One(id)));
        assert_eq!(read("{\"topic\": \"t\"}"), Some(Selection::Topic("t".to_owned())));
        assert_eq!(read("{\"all\": true}"), Some(Selection::All));
        for bad in ["{}", "{\"id\": \"7\"}", "{\"all\": true, \"topic\": \"t\"}", "{\"all\": false}", "{\"odd\": 1}"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}

//! One page over many pipelines. Each pipeline's own listener is asked for its summary again and again, by this process
//! alone: whoever looks at the page makes it ask nobody, and only those are asked that the configuration names.

use std::cmp::Reverse;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use futures::future::join_all;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use serde::Serialize;
use sooner_api::Clock;
use tokio::sync::Semaphore;

use super::entrance::Entrance;
use super::gate::Gate;
use super::health::Health;
use super::live::Live;
use super::settings::HttpSettings;
use super::summary::Summary;
use super::{access, html, page, serve_paths};
use crate::clock::SystemClock;

/// Pause between two looks at a pipeline.
const INTERVAL: Duration = Duration::from_secs(3);
/// How long a pipeline may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pipelines that are asked at the same time.
const AT_ONCE: usize = 16;
/// Bytes of an answer at most.
const ANSWER_BYTES: usize = 256 << 10;

/// A pipeline that is looked at.
#[derive(Clone, PartialEq, Eq)]
pub struct Peer {
    /// URL of its listener, without a slash at the end.
    pub url: String,
    /// URL of its page, as people reach it.
    pub page: String,
    /// Token that its listener wants.
    pub token: Option<String>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer").field("url", &self.url).field("page", &self.page).finish_non_exhaustive()
    }
}

/// How a pipeline is; `silent` if it does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Ok,
    Warn,
    Error,
    Silent,
}

/// A pipeline as it was seen last.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Seen {
    /// Name of the pipeline; its URL before it has answered.
    name: String,
    /// URL of its page.
    page: String,
    /// How it is; none before it was asked for the first time.
    health: Option<Condition>,
    /// When it answered last, in microseconds since 1970.
    heard_micros: Option<i64>,
    /// Since when it does not answer, in microseconds since 1970; none if it does.
    silent_since_micros: Option<i64>,
    /// Why it does not answer.
    silent_because: Option<String>,
    /// Events a second between its last two answers.
    events_per_second: Option<f64>,
    /// What it answered last.
    summary: Option<Summary>,
}

/// The pipelines that are looked at. Clones share them.
#[derive(Clone)]
pub struct Fleet {
    peers: Arc<Vec<Peer>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    http: Client,
    patience: Duration,
}

impl Seen {
    fn new(peer: &Peer) -> Seen {
        Seen {
            name: peer.url.clone(),
            page: peer.page.clone(),
            health: None,
            heard_micros: None,
            silent_since_micros: None,
            silent_because: None,
            events_per_second: None,
            summary: None,
        }
    }

    /// Takes an answer, or why there is none.
    fn take(&mut self, answer: Result<Summary, String>, now_micros: i64) {
        match answer {
            Ok(summary) => {
                self.name.clone_from(&summary.pipeline);
                self.health = Some(match summary.health {
                    Health::Ok => Condition::Ok,
                    Health::Warn => Condition::Warn,
                    Health::Error => Condition::Error,
                });
                self.heard_micros = Some(now_micros);
                (self.silent_since_micros, self.silent_because) = (None, None);
                self.events_per_second = self.summary.as_ref().and_then(|former| rate(former, &summary));
                self.summary = Some(summary);
            }
            Err(why) => {
                self.health = Some(Condition::Silent);
                self.silent_since_micros.get_or_insert(now_micros);
                self.silent_because = Some(why);
                self.events_per_second = None;
            }
        }
    }
}

/// Events a second between two answers; none if that cannot be said, as after a start.
fn rate(former: &Summary, summary: &Summary) -> Option<f64> {
    let micros = summary.updated_micros - former.updated_micros;
    let events = summary.events.checked_sub(former.events)?;
    (micros > 0).then(|| events as f64 * 1e6 / micros as f64)
}

impl Fleet {
    /// These pipelines, none of which has been asked yet.
    pub fn new(peers: Vec<Peer>) -> anyhow::Result<Fleet> {
        Fleet::with_patience(peers, PATIENCE)
    }

    fn with_patience(peers: Vec<Peer>, patience: Duration) -> anyhow::Result<Fleet> {
        // An answer that leads elsewhere is none: nobody else is asked than who is named.
        let http = Client::builder().redirect(Policy::none()).build().map_err(|error| {
            anyhow::anyhow!("cannot set up an HTTP client: {error}. To do: see to the system's root certificates.")
        })?;
        let seen = Arc::new(Mutex::new(peers.iter().map(Seen::new).collect()));
        Ok(Fleet { peers: Arc::new(peers), seen, http, patience })
    }

    /// Looks at the pipelines until the task is dropped.
    pub async fn keep_looking(self) {
        loop {
            self.look().await;
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// Asks each pipeline once. One that does not answer holds up nobody's answer, but the next look.
    async fn look(&self) {
        let places = Semaphore::new(AT_ONCE);
        let looks = self.peers.iter().enumerate().map(async |(index, peer)| {
            let _place = places.acquire().await;
            let mut request = self.http.get(format!("{}/api/v1/summary", peer.url));
            if let Some(token) = &peer.token {
                request = request.bearer_auth(token);
            }
            let answer = tokio::time::timeout(self.patience, answer_of(request)).await;
            let late = || Err(format!("it did not answer within {} s", self.patience.as_secs_f64()));
            let answer = answer.unwrap_or_else(|_| late());
            if let Some(seen) = self.seen().get_mut(index) {
                seen.take(answer, SystemClock.now_micros());
            }
        });
        join_all(looks).await;
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All pipelines, the worst first.
    fn worst_first(&self) -> Vec<Seen> {
        let mut seen = self.seen().clone();
        let lag = |seen: &Seen| seen.summary.as_ref().and_then(|summary| summary.lag_seconds).unwrap_or_default();
        seen.sort_by(|a, b| {
            let later = || lag(b).total_cmp(&lag(a));
            Reverse(a.health).cmp(&Reverse(b.health)).then_with(later).then_with(|| a.name.cmp(&b.name))
        });
        seen
    }
}

/// The summary that a listener answers with, or why there is none.
async fn answer_of(request: RequestBuilder) -> Result<Summary, String> {
    let mut answer = request.send().await.map_err(|error| innermost(&error))?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => return Err("it wants another token: set token of its [[pipeline]]".to_owned()),
        StatusCode::NOT_FOUND => {
            return Err("it knows no /api/v1/summary: is it sooner, and as new as this?".to_owned());
        }
        status => return Err(format!("it answers with {status}")),
    }
    let mut body = Vec::new();
    while let Some(bytes) = answer.chunk().await.map_err(|error| innermost(&error))? {
        body.extend_from_slice(&bytes);
        if body.len() > ANSWER_BYTES {
            return Err(format!("its answer has more than {ANSWER_BYTES} bytes"));
        }
    }
    serde_json::from_slice(&body).map_err(|error| format!("its answer cannot be understood: {error}"))
}

/// The first cause of an error, which says most.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Answers requests until the task is dropped.
pub async fn serve(entrance: Entrance, fleet: Fleet, settings: HttpSettings) {
    let live = Live::new(settings.token.as_deref());
    let gate = Gate { settings: Arc::new(settings), live };
    let guarded = Router::new()
        .route("/api/v1/pipelines", get(pipelines))
        .route("/api/v1/openapi.json", get(openapi))
        .layer(axum::middleware::from_fn_with_state(gate.clone(), access::check));
    let page = page::PAGE.replacen("<html ", "<html data-fleet ", 1);
    let router = Router::new()
        .route("/", get(async move || html(page.clone())))
        .route("/livez", get(async || "ok\n"))
        .merge(guarded)
        .with_state(fleet);
    serve_paths(entrance, router, gate).await;
}

/// `GET /api/v1/pipelines`: each pipeline as it was seen last, the worst first.
async fn pipelines(State(fleet): State<Fleet>) -> impl IntoResponse {
    Json(fleet.worst_first())
}

/// `GET /api/v1/openapi.json`: this API, as OpenAPI 3.1 describes it.
async fn openapi() -> impl IntoResponse {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], include_str!("fleet_openapi.json"))
}

#[cfg(test)]
mod tests {
    use axum::response::Redirect;
    use tokio::net::TcpListener;

    use super::*;

    fn peer(url: String) -> Peer {
        Peer { page: url.clone(), url, token: None }
    }

    async fn listener_of(router: Router) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        url
    }

    fn summary(pipeline: &str, health: Health, lag: f64) -> Summary {
        Summary { pipeline: pipeline.to_owned(), health, lag_seconds: Some(lag), ..Summary::default() }
    }

    #[tokio::test]
    async fn who_does_not_answer_as_it_should_is_silent_and_says_why() {
        let good =
            listener_of(Router::new().route("/api/v1/summary", get(async || Json(summary("a", Health::Ok, 0.0)))));
        let target = format!("{}/api/v1/summary", good.await);
        let redirected =
            listener_of(Router::new().route("/api/v1/summary", get(async move || Redirect::to(&target)))).await;
        let endless = listener_of(Router::new().route("/api/v1/summary", get(async || "x".repeat(1 << 20)))).await;
        let slow = get(async || tokio::time::sleep(Duration::from_secs(60)).await);
        let slow = listener_of(Router::new().route("/api/v1/summary", slow)).await;
        let other = listener_of(Router::new()).await;
        let closed = { TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
        let urls = [redirected, endless, slow, other, format!("http://{closed}")];
        let fleet = Fleet::with_patience(urls.map(peer).to_vec(), Duration::from_secs(1)).unwrap();
        fleet.look().await;
        let seen = fleet.seen().clone();
        assert!(seen.iter().all(|seen| seen.health == Some(Condition::Silent) && seen.silent_since_micros.is_some()));
        let why: Vec<_> = seen.iter().map(|seen| seen.silent_because.clone().unwrap()).collect();
        for (why, expected) in why.iter().zip(["303", "more than 262144", "within 1 s", "knows no", "refused"]) {
            assert!(why.contains(expected), "'{expected}' is not in '{why}'");
        }
        fleet.look().await;
        assert_eq!(fleet.seen()[0].silent_since_micros, seen[0].silent_since_micros, "since the first time");
    }

    #[test]
    fn the_worst_comes_first_and_what_was_known_of_a_silent_one_stays() {
        let peers = ["a", "b", "c", "d", "e"].map(|name| peer(format!("http://{name}"))).to_vec();
        let fleet = Fleet::new(peers).unwrap();
        let take = |index: usize, answer, now| fleet.seen()[index].take(answer, now);
        take(0, Ok(summary("fine", Health::Ok, 0.0)), 1);
        take(1, Ok(summary("late", Health::Ok, 9.0)), 1);
        take(2, Ok(summary("ill", Health::Error, 0.0)), 1);
        take(3, Ok(summary("gone", Health::Ok, 0.0)), 1);
        take(3, Err("refused".to_owned()), 2);
        take(3, Err("refused".to_owned()), 3);
        let seen = fleet.worst_first();
        let names: Vec<_> = seen.iter().map(|seen| seen.name.as_str()).collect();
        assert_eq!(names, ["gone", "ill", "late", "fine", "http://e"]);
        assert_eq!((seen[0].heard_micros, seen[0].silent_since_micros), (Some(1), Some(2)));
        assert!(seen[0].summary.is_some() && seen[4].health.is_none());
        take(3, Ok(summary("gone", Health::Warn, 0.0)), 4);
        let last = fleet.seen()[3].clone();
        assert_eq!((last.silent_since_micros, last.health), (None, Some(Condition::Warn)));
    }

    #[test]
    fn a_rate_is_told_between_answers_of_one_process() {
        let at = |updated_micros, events| Summary { updated_micros, events, ..Summary::default() };
        assert_eq!(rate(&at(1_000_000, 10), &at(3_000_000, 30)), Some(10.0));
        assert_eq!(rate(&at(1_000_000, 10), &at(3_000_000, 3)), None, "it was started anew");
        assert_eq!(rate(&at(1_000_000, 10), &at(1_000_000, 10)), None);
    }
}

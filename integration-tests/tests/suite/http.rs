//! The listener: metrics, probes, health, the API and its verbs, as a scraper, a kubelet and a person use them.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::{Duration, Instant};

use integration_tests::certificates::Certificates;
use integration_tests::free_port;
use integration_tests::pipeline::{Pipeline, find};
use integration_tests::postgres::{Postgres, Version};
use reqwest::{Certificate, Client, Identity, RequestBuilder, StatusCode};
use serde_json::Value;
use sooner::status::Status;

const TOKEN: &str = "a secret of the test";

struct Listener {
    url: String,
    http: Client,
}

impl Listener {
    fn get(&self, path: &str) -> RequestBuilder {
        self.http.get(format!("{}{path}", self.url))
    }

    fn post(&self, path: &str, body: &'static str) -> RequestBuilder {
        self.http.post(format!("{}{path}", self.url)).header("content-type", "application/json").body(body)
    }

    async fn json(&self, path: &str) -> (StatusCode, Value) {
        let answer = self.get(path).bearer_auth(TOKEN).send().await.unwrap();
        (answer.status(), answer.json().await.unwrap())
    }

    /// Value of a series of the metrics; none if it is not there.
    async fn series(&self, name: &str) -> Option<f64> {
        let text = self.get("/metrics").bearer_auth(TOKEN).send().await.unwrap().text().await.unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }
}

async fn status_of(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}

fn listen(pipeline: &Pipeline, settings: &str) -> Listener {
    let address = format!("127.0.0.1:{}", free_port());
    pipeline.append_settings(&format!("[http]\nlisten = \"{address}\"\n{settings}"));
    Listener { url: format!("http://{address}"), http: Client::new() }
}

async fn all_but_probes_and_the_page_ask_for_the_token(listener: &Listener) {
    for open in
        ["/livez", "/readyz", "/", "/docs/runbook.md", "/docs/audit.md", "/docs/erasure.md", "/docs/compliance.md"]
    {
        assert_eq!(status_of(listener.get(open)).await, StatusCode::OK, "{open}");
    }
    for guarded in ["/metrics", "/healthz", "/api/v1/status", "/api/v1/events", "/api/v1/tables/public.t"] {
        assert_eq!(status_of(listener.get(guarded)).await, StatusCode::UNAUTHORIZED, "{guarded}");
        assert_eq!(
            status_of(listener.get(guarded).bearer_auth("a secret")).await,
            StatusCode::UNAUTHORIZED,
            "{guarded}"
        );
        assert_eq!(status_of(listener.get(guarded).bearer_auth(TOKEN)).await, StatusCode::OK, "{guarded}");
    }
    assert_eq!(status_of(listener.get("/../../etc/passwd").bearer_auth(TOKEN)).await, StatusCode::NOT_FOUND);
    assert_eq!(status_of(listener.get("/api/v1/tables/public.none").bearer_auth(TOKEN)).await, StatusCode::NOT_FOUND);
}

async fn the_api_is_as_it_is_described(listener: &Listener) {
    let (_, api) = listener.json("/api/v1/openapi.json").await;
    for (path, verbs) in api["paths"].as_object().unwrap() {
        let parameters = verbs["get"]["parameters"].as_array().into_iter().flatten();
        let needed: Vec<_> = parameters
            .filter(|parameter| parameter["required"] == true && parameter["in"] == "query")
            .map(|parameter| {
                format!("?{}={}", parameter["name"].as_str().unwrap(), parameter["example"].as_str().unwrap())
            })
            .collect();
        let path = format!("{}{}", path.replace("{table}", "public.t"), needed.concat());
        if path.contains('{') {
            // There is no such thing here.
            let none = path.replace(['{', '}'], "").replace("partition/offset", "0/0");
            let request = if verbs["get"].is_object() { listener.get(&none) } else { listener.post(&none, "{}") };
            assert_eq!(status_of(request.bearer_auth(TOKEN)).await, StatusCode::NOT_FOUND, "{path}");
        } else if verbs["get"].is_object() {
            assert_eq!(status_of(listener.get(&path).bearer_auth(TOKEN)).await, StatusCode::OK, "{path}");
        } else {
            let refused = listener.post(&path, "{\"odd\": 1}").bearer_auth(TOKEN);
            assert_eq!(status_of(refused).await, StatusCode::UNPROCESSABLE_ENTITY, "{path}");
        }
    }
}

async fn a_row_is_followed(listener: &Listener) {
    let (code, found) = listener.json("/api/v1/tables/public.t/trace?key=id%3D1").await;
    assert_eq!((code, &found["verdict"]["outcome"]), (StatusCode::OK, &"up_to_date".into()), "{found}");
    assert!(found["lake"]["file"].is_string() && !found.to_string().contains("2020-01-01"), "no values: {found}");
    for (path, why) in [("trace", "no key"), ("trace?key=x", "\"x\""), ("trace?key=1,2", "2 value(s)")] {
        let (code, refused) = listener.json(&format!("/api/v1/tables/public.t/{path}")).await;
        let said = refused["error"].as_str().unwrap();
        assert!(code == StatusCode::BAD_REQUEST && said.contains(why), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_seen_and_mended_over_http() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY, v date); INSERT INTO t VALUES (1, '2020-01-01')").await;
    postgres.sql("CREATE TABLE u (id int PRIMARY KEY); INSERT INTO u SELECT generate_series(1, 100)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.append_settings("[[table]]\nmatch = \"public.t\"\nwrite = [\"mirror\", \"history\"]\nchain = true");
    let listener = listen(&pipeline, "token = { env = \"HTTP_TOKEN\" }\nallow_control = true");
    pipeline.set("HTTP_TOKEN", TOKEN);
    pipeline.start();
    pipeline.catch_up(&postgres).await;

    all_but_probes_and_the_page_ask_for_the_token(&listener).await;
    the_api_is_as_it_is_described(&listener).await;
    a_row_is_followed(&listener).await;

    // The API says what the command says.
    let (_, status) = listener.json("/api/v1/status").await;
    let printed: Status = serde_json::from_slice(&pipeline.output("status", &["--json"]).stdout).unwrap();
    assert_eq!(
        status["tables"]["public.u"]["watermark_lsn"].as_str(),
        find(&printed, "public.u").unwrap().watermark_lsn.map(|lsn| lsn.to_string()).as_deref()
    );
    assert_eq!(listener.json("/healthz").await.1["health"], "ok");
    assert_eq!(
        listener.series("sooner_table_phase{pipeline=\"shop\",table=\"public.u\",phase=\"streaming\"}").await,
        Some(1.0)
    );
    assert_eq!(listener.series("sooner_copy_rows{pipeline=\"shop\",table=\"public.u\"}").await, Some(100.0));
    let copied = "sooner_events_total{pipeline=\"shop\",table=\"public.u\",op=\"copy\"}";
    assert_eq!(listener.series(copied).await, Some(100.0));
    let ahead = listener.series("sooner_source_clock_ahead_seconds{pipeline=\"shop\"}").await.unwrap();
    assert!(ahead.abs() < 1.0, "both clocks are this machine's: {ahead}");
    assert_eq!(listener.series("sooner_source_standbys_missing{pipeline=\"shop\"}").await, Some(0.0));
    assert_eq!(listener.series("sooner_slot_spill_bytes_total{pipeline=\"shop\"}").await, Some(0.0));
    let commits = listener.series("sooner_commits_total{pipeline=\"shop\"}").await.unwrap();
    postgres.sql("INSERT INTO u VALUES (1000)").await;
    pipeline.catch_up(&postgres).await;
    assert!(listener.series("sooner_commits_total{pipeline=\"shop\"}").await.unwrap() > commits);
    assert!(listener.series("sooner_table_events_total{pipeline=\"shop\",table=\"public.u\"}").await.unwrap() >= 1.0);

    // A table parks: health says why, and what to do, and the verb does it.
    postgres.sql("INSERT INTO t VALUES (2, 'infinity')").await;
    let parks = |status: &Status| find(status, "public.t").is_some_and(|table| table.reason().is_some());
    pipeline.wait_for("a parked table", Duration::from_secs(30), parks).await;
    let (code, health) = listener.json("/healthz").await;
    assert_eq!((code, &health["checks"][0]["name"]), (StatusCode::SERVICE_UNAVAILABLE, &Value::from("public.t")));
    assert!(health["checks"][0]["remedy"].as_str().unwrap().contains("unholdable"), "{health}");
    assert_eq!(status_of(listener.get("/livez")).await, StatusCode::OK, "it is no reason to be killed");
    assert_eq!(listener.series("sooner_errors_total{pipeline=\"shop\",code=\"value_unholdable\"}").await, Some(1.0));
    let (_, told) = listener.json("/api/v1/events?table=public.t&limit=1").await;
    assert_eq!(told[0]["kind"], "parked");
    postgres.sql("UPDATE t SET v = '2021-01-01' WHERE id = 2").await;
    let resume = "/api/v1/tables/public.t/resume";
    assert_eq!(status_of(listener.post(resume, "{}")).await, StatusCode::UNAUTHORIZED);
    let form = listener.http.post(format!("{}{resume}", listener.url)).bearer_auth(TOKEN);
    assert_eq!(status_of(form).await, StatusCode::UNSUPPORTED_MEDIA_TYPE, "as a form of another site would ask");
    assert_eq!(status_of(listener.post(resume, "{}").bearer_auth(TOKEN)).await, StatusCode::ACCEPTED);
    pipeline.wait_until_streaming(&["public.t"]).await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.t", "public.u"]);
    assert!(!pipeline.log().contains(TOKEN));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_cannot_go_on_is_alive_and_not_ready_and_looks_alone_are_allowed() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut pipeline = Pipeline::local(&postgres);
    let listener = listen(&pipeline, "table_metrics = false");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_eq!(status_of(listener.post("/api/v1/tables/public.t/copy", "{}")).await, StatusCode::FORBIDDEN);
    assert_eq!(status_of(listener.get("/metrics").header("host", "evil.example")).await, StatusCode::FORBIDDEN);
    assert_eq!(listener.series("sooner_copy_rows{pipeline=\"shop\",table=\"public.t\"}").await, None);
    assert_eq!(listener.series("sooner_up{pipeline=\"shop\"}").await, Some(1.0));
    postgres.stop("immediate");
    let asked = Instant::now();
    while status_of(listener.get("/readyz")).await != StatusCode::SERVICE_UNAVAILABLE {
        assert!(asked.elapsed() < Duration::from_secs(30), "{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(status_of(listener.get("/livez")).await, StatusCode::OK);
    assert_eq!(listener.series("sooner_up{pipeline=\"shop\"}").await, Some(0.0));
    let (_, health) = listener.json("/healthz").await;
    assert_eq!(health["health"], "warn", "it passes by itself: {health}");
    postgres.launch();
    while status_of(listener.get("/readyz")).await != StatusCode::OK {
        assert!(asked.elapsed() < Duration::from_secs(90), "{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let taken = pipeline.beside();
    let refused = taken.output("run", &[]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("cannot listen on") && said.contains("To do"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_listener_is_told_while_it_listens_counts_from_then_on() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let mut pipeline = Pipeline::local(&postgres);
    let token = pipeline.folder().join("token");
    std::fs::write(&token, "one\n").unwrap();
    let listener = listen(&pipeline, "token = { file = \"token\" }");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let status = async |token: &str| status_of(listener.get("/api/v1/status").bearer_auth(token)).await;
    assert_eq!((status("one").await, status("two").await), (StatusCode::OK, StatusCode::UNAUTHORIZED));
    std::fs::write(&token, "two\n").unwrap();
    pipeline.wait_for_log("the token of [http] was read again", Duration::from_secs(30)).await;
    assert_eq!((status("one").await, status("two").await), (StatusCode::UNAUTHORIZED, StatusCode::OK));
    std::fs::remove_file(&token).unwrap();
    pipeline.wait_for_log("the file holds no token", Duration::from_secs(30)).await;
    assert_eq!((status("").await, status("two").await), (StatusCode::UNAUTHORIZED, StatusCode::OK));

    // Another lake is where the tables are from then on.
    let location = async || {
        let table = listener.get("/api/v1/tables/public.t").bearer_auth("two").send().await.unwrap();
        table.json::<Value>().await.unwrap()["location"].as_str().unwrap_or_default().to_owned()
    };
    std::fs::write(&token, "two\n").unwrap();
    assert_eq!(location().await, format!("{}/public/t", pipeline.lake));
    let (lake, other) = (pipeline.lake.clone(), pipeline.folder().join("elsewhere").display().to_string());
    pipeline.replace(&lake, &other);
    pipeline.signal("HUP");
    pipeline.wait_for_log("the configuration was read again", Duration::from_secs(30)).await;
    let asked = Instant::now();
    while location().await != format!("{other}/public/t") {
        assert!(asked.elapsed() < Duration::from_secs(30), "{}", pipeline.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A client that trusts the root authority, and presents a certificate if one is named.
fn client(certificates: &Certificates, presents: Option<&str>) -> Client {
    let root = std::fs::read(certificates.path("root.crt")).unwrap();
    let trusting = Client::builder().add_root_certificate(Certificate::from_pem(&root).unwrap());
    let presenting = match presents {
        Some(name) => {
            let identity = std::fs::read(certificates.key_store(name)).unwrap();
            trusting.identity(Identity::from_pem(&identity).unwrap())
        }
        None => trusting,
    };
    presenting.build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_authority_for_clients_only_theirs_are_let_in_and_probes_always() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY)").await;
    let certificates = Certificates::new();
    certificates.issue("server", "DNS:localhost,IP:127.0.0.1");
    certificates.issue("client", "DNS:client");
    certificates.issue_elsewhere("stranger", "DNS:stranger");
    let mut pipeline = Pipeline::local(&postgres);
    let authority = pipeline.folder().join("clients.pem");
    std::fs::copy(certificates.path("root.crt"), &authority).unwrap();
    let port = free_port();
    let (server, key) = (certificates.path("server.crt"), certificates.path("server.key"));
    pipeline.append_settings(&format!(
        "[http]\nlisten = \"0.0.0.0:{port}\"\ncertificate = {server:?}\nkey = {key:?}\nclient_ca = \"clients.pem\""
    ));
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let url = |path: &str| format!("https://localhost:{port}{path}");
    let asked = async |presents: Option<&str>, path: &str| {
        client(&certificates, presents).get(url(path)).send().await.map(|answer| answer.status())
    };
    assert_eq!(asked(Some("client"), "/api/v1/status").await.unwrap(), StatusCode::OK);
    for guarded in ["/api/v1/status", "/metrics", "/healthz"] {
        assert_eq!(asked(None, guarded).await.unwrap(), StatusCode::FORBIDDEN, "{guarded}");
    }
    for open in ["/livez", "/readyz"] {
        assert_eq!(asked(None, open).await.unwrap(), StatusCode::OK, "{open}");
    }
    assert!(asked(Some("stranger"), "/livez").await.is_err(), "an authority that nobody trusts");
    assert!(Client::new().get(url("/livez")).send().await.is_err(), "whose certificate it is can be verified");
    assert!(reqwest::get(format!("http://localhost:{port}/livez")).await.is_err(), "plain HTTP");

    // Whoever begins no handshake, or does not end it, keeps nobody out.
    let slow: Vec<_> = (0..300).map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()).collect();
    assert_eq!(asked(Some("client"), "/api/v1/status").await.unwrap(), StatusCode::OK);
    drop(slow);

    // Another authority counts from then on; one that is none changes nothing.
    std::fs::write(&authority, "none").unwrap();
    pipeline.wait_for_log("the former certificates count on", Duration::from_secs(30)).await;
    assert_eq!(asked(Some("client"), "/api/v1/status").await.unwrap(), StatusCode::OK);
    std::fs::copy(certificates.path("other.crt"), &authority).unwrap();
    pipeline.wait_for_log("the certificates of [http] were read again", Duration::from_secs(30)).await;
    assert!(asked(Some("client"), "/api/v1/status").await.is_err());
    assert_eq!(asked(Some("stranger"), "/api/v1/status").await.unwrap(), StatusCode::OK);

    // A process whose certificate is of no use does not start.
    let other = pipeline.beside();
    other.replace(&format!("certificate = {server:?}"), "certificate = \"sooner.toml\"");
    std::fs::copy(&authority, other.folder().join("clients.pem")).unwrap();
    let refused = String::from_utf8_lossy(&other.output("run", &[]).stderr).into_owned();
    assert!(refused.contains("cannot use certificate of [http]") && refused.contains("To do"), "{refused}");
}

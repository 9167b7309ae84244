//! Brokers and registries as real clusters have them: each way to be protected, from the database into the lake; and
//! what is said to who is not let in.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::certificates::Certificates;
use integration_tests::identity::Identity;
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::registry::Registry;

const LIMIT: Duration = Duration::from_secs(60);

fn certificates() -> Certificates {
    let certificates = Certificates::new();
    for name in ["broker", "registry", "client"] {
        certificates.issue(name, "DNS:localhost");
    }
    certificates
}

/// `ca = …`, and our own certificate where one is asked for.
fn tls(certificates: &Certificates, ca: &str, own: bool) -> String {
    let file = |name: &str| certificates.path(name).display().to_string();
    let own = match own {
        true => format!(", certificate = \"{}\", key = \"{}\"", file("client.crt"), file("client.key")),
        false => String::new(),
    };
    format!("tls = {{ ca = \"{}\"{own} }}", file(ca))
}

fn password(mechanism: &str) -> String {
    format!("sasl = {{ mechanism = \"{mechanism}\", user = \"sooner\", password = {{ env = \"TEST_PASSWORD\" }} }}")
}

fn bearer(identity: &Identity) -> String {
    format!(
        "sasl = {{ mechanism = \"OAUTHBEARER\", token_url = \"{}/token\", client_id = \"sooner\", client_secret = {{ env = \
         \"TEST_PASSWORD\" }} }}",
        identity.url()
    )
}

/// Starts the pipeline, which must end by itself, and returns what it said.
fn refused(pipeline: &mut Pipeline) -> String {
    pipeline.start();
    pipeline.wait_for_end(LIMIT)
}

fn assert_says(text: &str, expected: &[&str]) {
    for part in expected {
        assert!(text.contains(part), "'{part}' not in:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_with_each_protection() {
    let certificates = certificates();
    let identity = Identity::start(&[("sooner", "secret", &[])]);
    let (postgres, registry) = (Postgres::start(Version::V15).await, Registry::start());
    let kafka = Kafka::start_protected(&certificates, &identity);
    postgres.sql("CREATE TABLE a (id serial PRIMARY KEY, way text)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.set("TEST_PASSWORD", "secret");
    let ways = [
        ("TLS", tls(&certificates, "root.crt", false)),
        ("MTLS", tls(&certificates, "root.crt", true)),
        ("SASL", password("PLAIN")),
        ("SASL", password("SCRAM-SHA-256")),
        ("SASL", bearer(&identity)),
        ("SASLTLS", format!("{}\n{}", tls(&certificates, "root.crt", false), password("SCRAM-SHA-512"))),
        ("SASLTLS", format!("{}\n{}", tls(&certificates, "root.crt", false), bearer(&identity))),
    ];
    let registry_at = format!("url = \"{}\"", registry.url());
    for (listener, settings) in &ways {
        let brokers = format!("brokers = \"{}\"\n{settings}", kafka.listener(listener));
        pipeline.reroute(&postgres, &brokers, &registry_at);
        pipeline.start();
        postgres.sql(&format!("INSERT INTO a (way) VALUES ('{listener}')")).await;
        pipeline.catch_up(&postgres).await;
        pipeline.stop();
    }
    pipeline.assert_equal(&postgres, &["public.a"]);
    assert_eq!(postgres.value("SELECT count(*) FROM a").await, ways.len().to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn brokers_that_let_nobody_in() {
    let certificates = certificates();
    let identity = Identity::start(&[("sooner", "secret", &[])]);
    let (postgres, registry) = (Postgres::start(Version::V15).await, Registry::start());
    let kafka = Kafka::start_protected(&certificates, &identity);
    postgres.sql("CREATE TABLE a (id serial PRIMARY KEY)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.set("TEST_PASSWORD", "wrong");
    let registry_at = format!("url = \"{}\"", registry.url());
    let login = "check user, password and mechanism in sasl of [kafka]";
    let trust = "check tls of [kafka]";
    let cases = [
        ("SASL", password("SCRAM-SHA-256"), login),
        ("SASL", password("PLAIN"), login),
        ("SASL", bearer(&identity), "check token_url, client_id and client_secret in sasl of [kafka]"),
        ("TLS", tls(&certificates, "other.crt", false), trust),
        ("MTLS", tls(&certificates, "root.crt", false), trust),
    ];
    for (listener, settings, expected) in &cases {
        let brokers = format!("brokers = \"{}\"\n{settings}", kafka.listener(listener));
        pipeline.reroute(&postgres, &brokers, &registry_at);
        let checked = pipeline.output("check", &[]);
        assert!(!checked.status.success(), "{settings}");
        let said = refused(&mut pipeline);
        assert_says(said.lines().last().unwrap(), &["cannot reach Kafka at", expected]);
        assert!(!said.contains("wrong\""), "the password is shown:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn registries_with_each_protection() {
    let certificates = certificates();
    let identity = Identity::start(&[
        ("admin", "secret", &["sr-admin"]),
        ("sooner", "secret", &["sr-developer"]),
        ("reader", "secret", &["sr-readonly"]),
    ]);
    let registry = Registry::start_protected(&identity, &certificates, "admin");
    let (postgres, kafka) = (Postgres::start(Version::V15).await, Kafka::start());
    postgres.sql("CREATE TABLE a (id serial PRIMARY KEY, way text)").await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.set("TEST_PASSWORD", "secret");
    pipeline.set("TEST_TOKEN", &identity.token("sooner"));
    pipeline.set("TEST_READER", &identity.token("reader"));
    let brokers = format!("brokers = \"{}\"", kafka.brokers());
    let (plain, secured) = (registry.url(), registry.tls_url());
    let ca = |name: &str| format!("ca = \"{}\"", certificates.path(name).display());
    let basic = "user = \"sooner\"\npassword = { env = \"TEST_PASSWORD\" }";
    let token = "token = { env = \"TEST_TOKEN\" }";

    // Those who are not let in, or may not register, are told so; and nothing has been lost once they may.
    let refusals = [
        (format!("url = \"{plain}\""), "answers 401"),
        (format!("url = \"{plain}\"\nuser = \"sooner\"\npassword = {{ env = \"PATH\" }}"), "answers 401"),
        (format!("url = \"{plain}\"\ntoken = {{ env = \"TEST_READER\" }}"), "answers 403"),
    ];
    for (settings, expected) in &refusals {
        pipeline.reroute(&postgres, &brokers, settings);
        let said = refused(&mut pipeline);
        let remedy = "a token, that may read and register";
        assert_says(said.lines().last().unwrap(), &["cannot register a schema", expected, remedy]);
    }
    pipeline.reroute(&postgres, &brokers, &format!("url = \"{secured}\"\n{}\n{token}", ca("other.crt")));
    let checked = pipeline.output("check", &[]);
    assert_says(&String::from_utf8_lossy(&checked.stdout), &["cannot reach the schema registry", "certificate"]);

    let ways = [
        format!("url = \"{plain}\"\n{basic}"),
        format!("url = \"{plain}\"\n{token}"),
        format!("url = \"{secured}\"\n{}\n{basic}", ca("root.crt")),
        format!("url = \"{secured}\"\n{}\n{token}", ca("root.crt")),
    ];
    for (number, settings) in ways.iter().enumerate() {
        pipeline.reroute(&postgres, &brokers, settings);
        pipeline.start();
        // Each way has a schema of its own to register.
        postgres
            .sql(&format!("ALTER TABLE a ADD COLUMN w{number} integer; INSERT INTO a (w{number}) VALUES (1)"))
            .await;
        pipeline.catch_up(&postgres).await;
        pipeline.stop();
    }
    pipeline.assert_equal(&postgres, &["public.a"]);
}

/// Output of a command that succeeds.
fn said(pipeline: &Pipeline, command: &str, arguments: &[&str]) -> String {
    let output = pipeline.output(command, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command of Kafka's tools as it was printed.
fn allow(kafka: &Kafka, command: &str) {
    let brokers = kafka.brokers();
    let words: Vec<_> = command.split_whitespace().map(|word| word.trim_matches('\'')).collect();
    assert_eq!(words[..2], ["kafka-acls.sh", "--bootstrap-server"]);
    let arguments = [&["--bootstrap-server", &brokers], &words[3..]].concat();
    kafka.java("org.apache.kafka.tools.AclCommand", &arguments);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_acls_prints_is_what_a_pipeline_needs_and_without_it_it_may_do_nothing() {
    let certificates = certificates();
    let identity = Identity::start(&[("sooner", "secret", &[])]);
    let (postgres, registry) = (Postgres::start(Version::V15).await, Registry::start());
    let kafka = Kafka::start_guarded(&certificates, &identity, false);
    let tables = "CREATE SCHEMA \"b%l\"; CREATE TABLE \"b%l\".\"A_1\" (id int PRIMARY KEY, v text);
                  CREATE TABLE public.t (id int PRIMARY KEY); CREATE TABLE public.no_key (v int);
                  CREATE TABLE public.not_ours (id int PRIMARY KEY)";
    postgres.sql(tables).await;
    let mut pipeline = Pipeline::kafka(&postgres, &kafka, &registry, "");
    pipeline.set("TEST_PASSWORD", "secret");
    let brokers = format!("brokers = \"{}\"\n{}", kafka.listener("SASL"), password("SCRAM-SHA-256"));
    pipeline.reroute(&postgres, &brokers, &format!("url = \"{}\"", registry.url()));
    pipeline.configure("[kafka]", "dead_letter_topic = \"dead\"");
    pipeline.configure_source("tables = [\"b%l.*\", \"public.*\"]\nexclude = [\"public.not_*\"]");
    pipeline.replace("postgres://postgres@", "postgres://app@");

    postgres.psql(&said(&pipeline, "acls", &["--of", "postgres"]));
    let published = "SELECT string_agg(schemaname || '.' || tablename, ' ' ORDER BY 1) FROM pg_publication_tables";
    assert_eq!(postgres.value(published).await, "b%l.A_1 public.t");
    assert_eq!(postgres.value("SELECT has_table_privilege('app', 'not_ours', 'SELECT')").await, "f");
    assert_says(&refused(&mut pipeline), &["TopicAuthorizationFailed", "sooner acls --of kafka"]);
    for command in said(&pipeline, "acls", &["--of", "kafka"]).lines() {
        allow(&kafka, command);
    }
    pipeline.start();
    postgres.sql("INSERT INTO \"b%l\".\"A_1\" VALUES (1, 'x'); INSERT INTO t VALUES (1)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.kill();
    pipeline.start();
    postgres.sql("INSERT INTO t VALUES (2)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["b%l.A_1", "public.t"]);
    assert!(kafka.topics(&["--list"]).contains("dead"), "it may make its own topics");
}

//! Login to brokers by AWS' IAM: every client of a pipeline has tokens that a broker verifies, again and again; and
//! what is said where there are no credentials, or wrong ones.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use integration_tests::certificates::Certificates;
use integration_tests::kafka::Kafka;
use integration_tests::msk::{self, KEY_ID, PodIdentity, REGION, SECRET, SESSION};
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::{Postgres, Version};
use integration_tests::registry::Registry;
use integration_tests::topics::read_topic;
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(60);

struct World {
    postgres: Postgres,
    kafka: Kafka,
    registry: Registry,
    certificates: Certificates,
}

async fn world() -> World {
    let certificates = Certificates::new();
    certificates.issue("broker", "DNS:localhost");
    let kafka = msk::start(&certificates);
    let (postgres, registry) = (Postgres::start(Version::V15).await, Registry::start());
    postgres.sql("CREATE TABLE a (id serial PRIMARY KEY, v text); INSERT INTO a (v) VALUES ('copied')").await;
    World { postgres, kafka, registry, certificates }
}

/// A pipeline that logs in by IAM, and finds no credentials but those that it is given.
fn pipeline(world: &World) -> Pipeline {
    let World { postgres, kafka, registry, certificates } = world;
    let mut pipeline = Pipeline::kafka(postgres, kafka, registry, "");
    let brokers = format!(
        "brokers = \"{}\"\ndead_letter_topic = \"dead\"\ntls = {{ ca = \"{}\" }}\n\
         sasl = {{ mechanism = \"AWS_MSK_IAM\", region = \"{REGION}\" }}",
        kafka.listener("SASLTLS"),
        certificates.path("root.crt").display()
    );
    pipeline.reroute(postgres, &brokers, &format!("url = \"{}\"", registry.url()));
    pipeline.set("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9");
    pipeline
}

fn check(pipeline: &Pipeline) -> String {
    String::from_utf8(pipeline.output("check", &[]).stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_logs_in_by_iam_and_logs_in_again() {
    let world = world().await;
    let World { postgres, kafka, .. } = &world;
    let mut pipeline = pipeline(&world);
    for (name, value) in
        [("AWS_ACCESS_KEY_ID", KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET), ("AWS_SESSION_TOKEN", SESSION)]
    {
        pipeline.set(name, value);
    }
    let found = check(&pipeline);
    assert!(found.contains(&format!("access key {KEY_ID}")) && found.contains("reached localhost"), "{found}");
    pipeline.start();
    pipeline.catch_up(postgres).await;
    // Through several logins, which the broker asks for every three seconds.
    for round in 0..8 {
        postgres.sql(&format!("INSERT INTO a (v) VALUES ('{round}')")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // The writer of dead letters has long been idle.
    kafka.produce("shop.public.a", b"no key", b"no event");
    postgres.sql("INSERT INTO a (v) VALUES ('behind it')").await;
    pipeline.catch_up(postgres).await;
    assert_eq!(read_topic(kafka, "dead").len(), 1);
    pipeline.kill();
    pipeline.start();
    postgres.sql("UPDATE a SET v = v || '!' WHERE id < 3").await;
    pipeline.catch_up(postgres).await;
    pipeline.assert_equal(postgres, &["public.a"]);
    assert!(!pipeline.log().contains(SECRET) && !pipeline.log().contains("X-Amz-Signature"), "a secret is logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_of_a_pod_is_enough() {
    let world = world().await;
    let mut pipeline = pipeline(&world);
    let identity = PodIdentity::start("the token of the pod");
    std::fs::write(pipeline.folder().join("pod-token"), "the token of the pod").unwrap();
    pipeline.set("AWS_CONTAINER_CREDENTIALS_FULL_URI", &identity.url());
    pipeline.set("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", &pipeline.folder().join("pod-token").display().to_string());
    pipeline.start();
    world.postgres.sql("INSERT INTO a (v) VALUES ('streamed')").await;
    pipeline.catch_up(&world.postgres).await;
    pipeline.assert_equal(&world.postgres, &["public.a"]);
    let asked = identity.asked();
    assert!((1..10).contains(&asked), "credentials are kept, not fetched for each of the clients: {asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_credentials_or_wrong_ones_is_told_so() {
    let world = world().await;
    let mut pipeline = pipeline(&world);
    let found = check(&pipeline);
    let remedy = "give the process a role";
    assert!(found.contains("cannot get credentials for AWS") && found.contains(remedy), "{found}");
    pipeline.start();
    pipeline.wait_for_log("cannot get credentials for AWS", LIMIT).await;
    assert!(pipeline.is_running(), "they may come yet:\n{}", pipeline.log());
    pipeline.kill();
    pipeline.set("AWS_ACCESS_KEY_ID", KEY_ID);
    pipeline.set("AWS_SECRET_ACCESS_KEY", "another");
    pipeline.start();
    let said = pipeline.wait_for_end(LIMIT);
    assert!(said.contains("cannot reach Kafka at") && said.contains("with AWS_MSK_IAM its region"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_role_has_to_be_allowed_is_printed_as_a_policy() {
    let world = world().await;
    let pipeline = pipeline(&world);
    let arn = "arn:aws:kafka:eu-west-1:123456789012:cluster/shop/0a1b-1";
    let printed = pipeline.output("acls", &["--of", "kafka", "--cluster", arn]);
    let policy: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let allows = |action: &str, resource: &str| {
        policy["Statement"].as_array().unwrap().iter().any(|statement| {
            let has = |part: &str, text: &str| match &statement[part] {
                Value::Array(items) => items.iter().any(|item| item == text),
                item => item == text,
            };
            statement["Effect"] == "Allow" && has("Action", action) && has("Resource", resource)
        })
    };
    let of = |kind: &str, name: &str| format!("arn:aws:kafka:eu-west-1:123456789012:{kind}/shop/0a1b-1/{name}");
    for (action, resource) in [
        ("Connect", arn.to_owned()),
        ("DescribeCluster", arn.to_owned()),
        ("WriteDataIdempotently", arn.to_owned()),
        ("WriteData", of("topic", "shop.*")),
        ("ReadData", of("topic", "sooner.shop.progress")),
        ("CreateTopic", of("topic", "dead")),
        ("AlterGroup", of("group", "sooner-shop")),
        ("DescribeGroup", of("group", "sooner-shop-progress")),
        ("AlterTransactionalId", of("transactional-id", "sooner-shop")),
    ] {
        assert!(allows(&format!("kafka-cluster:{action}"), &resource), "{action} on {resource} is not in {policy:#}");
    }
    let refused = pipeline.output("acls", &["--of", "kafka", "--cluster", "shop"]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("is not the ARN"));
}

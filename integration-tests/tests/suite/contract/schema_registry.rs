//! Registries of schemas: a real one, and the one inside the process.

use integration_tests::registry::Registry;
use sooner::direct::LocalSchemas;
use sooner_api::SchemaRegistry;
use sooner_kafka::registry::client::{Login, Registry as RegistryClient, RegistrySettings};

fn schema(name: &str) -> String {
    format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"id","type":"long"}}]}}"#)
}

/// The same schema of a subject has the same id, whoever asks and whenever; other schemas have others.
async fn keeps_the_contract<R: SchemaRegistry>(registry: &R, again: &R) {
    let first = registry.register("a-value", &schema("A")).await.unwrap();
    let other = registry.register("b-value", &schema("B")).await.unwrap();
    assert_ne!(first, other);
    assert_eq!(registry.register("a-value", &schema("A")).await.unwrap(), first);
    assert_eq!(again.register("a-value", &schema("A")).await.unwrap(), first);
    let subjects: Vec<_> = (0..8).map(|number| (format!("c{number}-value"), schema(&format!("C{number}")))).collect();
    let ask = || subjects.iter().map(|(subject, schema)| registry.register(subject, schema));
    let side_by_side = futures::future::try_join_all(ask()).await.unwrap();
    let mut distinct = side_by_side.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), subjects.len());
    assert_eq!(futures::future::try_join_all(ask()).await.unwrap(), side_by_side);
}

#[tokio::test]
async fn schemas_inside_the_process_keep_the_contract() {
    let registry = LocalSchemas::default();
    keeps_the_contract(&registry, &registry).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_keeps_the_contract() {
    let registry = Registry::start();
    let open = || {
        RegistryClient::new(RegistrySettings { url: registry.url(), login: Login::None, ca: None, register: true })
            .unwrap()
    };
    keeps_the_contract(&open(), &open()).await;
}

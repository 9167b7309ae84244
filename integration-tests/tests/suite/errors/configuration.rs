//! What stands in the configuration.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn typing_errors_in_the_configuration() {
    let pipeline = pipeline_with("postgres://me@db/shop", "slto = \"x\"", "freshnes = \"1s\"");
    let output = pipeline.output("check", &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_says(
        &said,
        &["source.slto: is not known; did you mean 'slot'?", "lake.freshnes: is not known; did you mean 'freshness'?"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_what_check_and_run_accept() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE keyless (a integer)").await;
    let folder = tempfile::tempdir().unwrap();
    let program = integration_tests::pipeline::program();
    let run = |arguments: &[&str]| {
        let output = Command::new(&program).args(arguments).current_dir(folder.path()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (ok, said) = run(&["init", "--from", &postgres.url(), "--to", "lake"]);
    assert!(ok, "{said}");
    assert_says(&said, &["public.items", "key (id)", "public.keyless", "NO KEY"]);
    let (ok, said) = run(&["check", "--json"]);
    assert!(ok, "{said}");
    assert!(said.contains("\"verdict\": \"ok\""));
    let (ok, said) = run(&["init", "--from", &postgres.url(), "--to", "lake"]);
    assert!(!ok && said.contains("exists already"), "{said}");
}

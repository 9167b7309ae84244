//! What is wrong with the database, its role or its tables.

use integration_tests::certificates::Certificates;
use integration_tests::readers::eventually_equal;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_and_none_at_all() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE ROLE reader LOGIN REPLICATION PASSWORD 'right'").await;
    let rules = format!("{}/pg_hba.conf", postgres.data());
    let trusted = std::fs::read_to_string(&rules).unwrap();
    std::fs::write(&rules, format!("host all reader all scram-sha-256\n{trusted}")).unwrap();
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let url = format!("postgres://reader@127.0.0.1:{}/shop", postgres.port);

    let mut pipeline = pipeline_with(&url, "password = { env = \"TEST_PASSWORD\" }", "");
    pipeline.set("TEST_PASSWORD", "wr0ng-secret");
    let said = refused(&mut pipeline);
    assert_says(&said, &["cannot log in", "password authentication failed", "check the user and the password"]);
    assert!(!said.contains("wr0ng-secret"));

    let said = refused(&mut pipeline_with(&url, "", ""));
    assert_says(&said, &["the server asks for a password and none is configured"]);

    let mut pipeline = pipeline_with(&url, "password = { env = \"TEST_PASSWORD\" }", "");
    pipeline.set("TEST_PASSWORD", "right");
    assert_says(&checked(&pipeline), &["ok       connection"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_in_every_mode() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let certificates = Certificates::new();
    certificates.issue("server", "DNS:localhost");
    for file in ["server.crt", "server.key"] {
        let target = format!("{}/{file}", postgres.data());
        std::fs::copy(certificates.path(file), &target).unwrap();
        Command::new("chmod").args(["600", &target]).status().unwrap();
        Command::new("chown").args(["postgres", &target]).status().unwrap();
    }
    let without = format!("{}?sslmode=require", postgres.url());
    assert_says(&refused(&mut pipeline_with(&without, "", "")), &["the server does not support TLS"]);
    postgres.sql("ALTER SYSTEM SET ssl = on").await;
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let url = |host: &str, mode: &str, root: &str| {
        let root = certificates.path(root);
        format!("postgres://postgres@{host}:{}/shop?sslmode={mode}&sslrootcert={}", postgres.port, root.display())
    };
    for (host, mode) in [("localhost", "verify-full"), ("127.0.0.1", "verify-ca"), ("127.0.0.1", "require")] {
        let said = pipeline_with(&url(host, mode, "root.crt"), "", "").output("check", &[]);
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        assert_says(&said, &["ok       connection"]);
    }
    let wrong_root = refused(&mut pipeline_with(&url("localhost", "verify-ca", "other.crt"), "", ""));
    assert_says(&wrong_root, &["TLS with Postgres", "UnknownIssuer", "set sslrootcert"]);
    let wrong_name = refused(&mut pipeline_with(&url("127.0.0.1", "verify-full", "root.crt"), "", ""));
    assert_says(&wrong_name, &["TLS with Postgres", "not valid for"]);
    let no_file = refused(&mut pipeline_with(&url("localhost", "verify-full", "absent.crt"), "", ""));
    assert_says(&no_file, &["cannot read the root certificate", "absent.crt"]);

    let mut pipeline = pipeline_with(&url("localhost", "verify-full", "root.crt"), "", "");
    pipeline.start();
    postgres.sql("UPDATE items SET a = 'over TLS' WHERE id = 1").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_level_is_not_logical() {
    let postgres = Postgres::start_with(Version::V15, &["wal_level=replica"]).await;
    postgres.sql(TABLE).await;
    let mut pipeline = Pipeline::local(&postgres);
    assert_says(&checked(&pipeline), &["FAILED   wal_level", "ALTER SYSTEM SET wal_level = logical"]);
    assert_says(&refused(&mut pipeline), &["wal_level", "ALTER SYSTEM SET wal_level = logical"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_replication() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres
        .sql("CREATE ROLE plain LOGIN; GRANT CREATE ON DATABASE shop TO plain; ALTER TABLE items OWNER TO plain")
        .await;
    let mut pipeline = pipeline_with(&format!("postgres://plain@127.0.0.1:{}/shop", postgres.port), "", "");
    assert_says(&checked(&pipeline), &["'plain' lacks REPLICATION", "ALTER ROLE \"plain\" REPLICATION"]);
    assert_says(&refused(&mut pipeline), &["REPLICATION"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_key_waits_alone() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE keyless (a integer); INSERT INTO keyless VALUES (1)").await;
    let mut pipeline = Pipeline::local(&postgres);
    assert_says(
        &checked(&pipeline),
        &["FAILED   public.keyless", "ALTER TABLE \"public\".\"keyless\" ADD PRIMARY KEY"],
    );
    pipeline.start();
    let reason = reason_of(&pipeline, "public.keyless").await;
    assert_says(&reason, &["no primary key that is valid", "refuses the application's UPDATE", "ADD PRIMARY KEY"]);
    postgres.sql("INSERT INTO items VALUES (1000, 'still here', 1)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_plugin_and_a_lost_slot() {
    let postgres = Postgres::start_with(
        Version::V15,
        &["wal_level=logical", "max_slot_wal_keep_size=1MB", "max_wal_size=32MB", "min_wal_size=32MB"],
    )
    .await;
    postgres.sql(TABLE).await;
    postgres.sql("SELECT pg_create_logical_replication_slot('sooner_shop', 'test_decoding')").await;
    let mut pipeline = Pipeline::local(&postgres);
    let expected = ["its output plugin is 'test_decoding', not 'pgoutput'", "pg_drop_replication_slot('sooner_shop')"];
    assert_says(&checked(&pipeline), &expected);
    assert_says(&refused(&mut pipeline), &expected);
    postgres.sql("SELECT pg_drop_replication_slot('sooner_shop')").await;

    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    for _ in 0..6 {
        postgres.sql("UPDATE items SET a = repeat(md5(random()::text), 2000)").await;
        postgres.sql("SELECT pg_switch_wal(); CHECKPOINT").await;
    }
    assert_says(
        &refused(&mut pipeline),
        &["the slot 'sooner_shop' cannot be used", "max_slot_wal_keep_size", "--recopy"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_the_publication_lacks_waits_alone_with_the_statement() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE more (id integer PRIMARY KEY); CREATE PUBLICATION sooner_shop FOR TABLE items").await;
    let mut pipeline = Pipeline::local(&postgres);
    let remedy = "ALTER PUBLICATION \"sooner_shop\" ADD TABLE \"public\".\"more\"";
    let why = "the publication 'sooner_shop' does not contain it, and sooner did not make the publication";
    assert_says(&checked(&pipeline), &["FAILED   public.more", why, remedy]);
    pipeline.start();
    assert_says(&reason_of(&pipeline, "public.more").await, &[why, remedy]);
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
    postgres.sql("INSERT INTO more VALUES (1); ALTER PUBLICATION sooner_shop ADD TABLE more").await;
    eventually_equal(&postgres, &pipeline.lake, &["public.items", "public.more"], || pipeline.log()).await;
    pipeline.stop();
    postgres.sql("ALTER PUBLICATION sooner_shop SET (publish = 'insert')").await;
    assert_says(&refused(&mut pipeline), &["it leaves out: update, delete, truncate", "SET (publish ="]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_dropped_while_running() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres.sql("CREATE TABLE doomed (id integer PRIMARY KEY); INSERT INTO doomed VALUES (1)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("DROP TABLE doomed").await;
    let is_gone = |status: &sooner::status::Status| of(status, "public.doomed").state.name() == "gone";
    pipeline.wait_for("doomed is gone", Duration::from_secs(30), is_gone).await;
    postgres.sql("INSERT INTO items VALUES (1000, 'still here', 1)").await;
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn teardown_removes_what_the_pipeline_made_and_nothing_else() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    let refused = pipeline.output("teardown", &[]);
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("stop it"), "{refused:?}");
    pipeline.stop();
    let done = pipeline.output("teardown", &[]);
    assert!(done.status.success(), "{done:?}");
    let left = "SELECT count(*) FROM (SELECT slot_name FROM pg_replication_slots UNION ALL \
                SELECT pubname FROM pg_publication) AS all_of_it";
    assert_eq!(postgres.value(left).await, "0");
    postgres.sql("CREATE PUBLICATION sooner_shop FOR TABLE t").await;
    let again = pipeline.output("teardown", &[]);
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(said.contains("there is no slot") && said.contains("did not create it"), "{said}");
    assert_eq!(postgres.value(left).await, "1");
}

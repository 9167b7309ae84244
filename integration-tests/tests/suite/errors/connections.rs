//! Ways to the database that hosts and their URLs offer: several servers, certificates, logins that are bound to their
//! connection, poolers.

use integration_tests::certificates::Certificates;
use integration_tests::free_port;
use integration_tests::postgres::as_postgres;
use integration_tests::server::Server;

use super::*;

/// Copies certificates and keys to where the server looks for them.
fn give(certificates: &Certificates, postgres: &Postgres, files: &[&str]) {
    for file in files {
        let target = format!("{}/{file}", postgres.data());
        std::fs::copy(certificates.path(file), &target).unwrap();
        Command::new("chmod").args(["600", &target]).status().unwrap();
        Command::new("chown").args(["postgres", &target]).status().unwrap();
    }
}

/// A database with TLS, whose roles `bound` and `certified` have to log in by password and by certificate.
async fn guarded(certificates: &Certificates) -> Postgres {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    for name in ["server", "certified"] {
        certificates.issue(name, "DNS:localhost");
    }
    give(certificates, &postgres, &["server.crt", "server.key", "root.crt"]);
    postgres
        .sql(
            "CREATE ROLE bound SUPERUSER LOGIN REPLICATION PASSWORD 'secret';
             CREATE ROLE certified SUPERUSER LOGIN REPLICATION",
        )
        .await;
    let rules = format!("{}/pg_hba.conf", postgres.data());
    let trusted = std::fs::read_to_string(&rules).unwrap();
    let guarding = "host all bound all scram-sha-256\nhostssl all certified all cert\nhost all certified all reject\n";
    std::fs::write(&rules, format!("{guarding}{trusted}")).unwrap();
    for setting in ["ssl = on", "ssl_ca_file = 'root.crt'"] {
        postgres.sql(&format!("ALTER SYSTEM SET {setting}")).await;
    }
    postgres.sql("SELECT pg_reload_conf()").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    postgres
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_bound_to_its_connection_where_the_url_requires_it() {
    let certificates = Certificates::new();
    let postgres = guarded(&certificates).await;
    let url = |rest: &str| format!("postgres://bound@localhost:{}/shop?channel_binding=require&{rest}", postgres.port);
    let with_password = |rest: &str| {
        let mut pipeline = pipeline_with(&url(rest), "password = { env = \"TEST_PASSWORD\" }", "");
        pipeline.set("TEST_PASSWORD", "secret");
        pipeline
    };
    assert_says(&refused(&mut with_password("sslmode=disable")), &["channel_binding=require", "connect by TLS"]);
    for hash in ["-sha384", "-sha512"] {
        certificates.issue_hashed("server", "DNS:localhost", hash);
        give(&certificates, &postgres, &["server.crt", "server.key"]);
        postgres.sql("SELECT pg_reload_conf()").await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let said = with_password("sslmode=require").output("check", &[]);
        assert_says(&String::from_utf8_lossy(&said.stdout), &["ok       connection"]);
    }
    let mut pipeline = with_password("sslmode=require&options=-c%20work_mem%3D8MB&keepalives=1");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
    let work_mem = "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE ssl AND usename = 'bound'";
    assert_ne!(postgres.value(work_mem).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_our_own_lets_us_in() {
    let certificates = Certificates::new();
    let postgres = guarded(&certificates).await;
    let url = |certificate: &str, key: &str| {
        let (certificate, key) = (certificates.path(certificate), certificates.path(key));
        format!(
            "postgres://certified@localhost:{}/shop?sslmode=require&sslcert={}&sslkey={}",
            postgres.port,
            certificate.display(),
            key.display()
        )
    };
    assert_says(&refused(&mut pipeline_with(&url("certified.crt", "absent.key"), "", "")), &["sslcert and sslkey"]);
    assert_says(&refused(&mut pipeline_with(&url("certified.crt", "server.key"), "", "")), &["sslcert and sslkey"]);
    let mut pipeline = pipeline_with(&url("certified.crt", "certified.key"), "", "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_the_primary_is_found() {
    let primary = Postgres::start(Version::V15).await;
    primary.sql(TABLE).await;
    primary.sql("SELECT pg_create_physical_replication_slot('standby', true)").await;
    let standby = primary.standby(&["hot_standby=on"]).await;
    let ports = format!("127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}", free_port(), standby.port, primary.port);
    let url = format!("postgres://postgres@{ports}/shop?target_session_attrs=read-write");
    let mut pipeline = pipeline_with(&url, "", "");
    pipeline.start();
    pipeline.catch_up(&primary).await;
    pipeline.assert_equal(&primary, &["public.items"]);
    let url = format!("postgres://postgres@127.0.0.1:{}/shop?target_session_attrs=primary", standby.port);
    assert_says(&checked(&pipeline_with(&url, "", "")), &["it is a standby", "name the primary in the URL"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_members_of_a_role_may_replicate_check_says_so() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres
        .sql(
            "CREATE ROLE rds_replication; CREATE ROLE reader LOGIN; GRANT CREATE ON DATABASE shop TO reader;
             ALTER TABLE items OWNER TO reader",
        )
        .await;
    let pipeline = pipeline_with(&format!("postgres://reader@127.0.0.1:{}/shop", postgres.port), "", "");
    assert_says(&checked(&pipeline), &["GRANT rds_replication TO \"reader\""]);
    postgres.sql("GRANT rds_replication TO reader").await;
    let said = pipeline.output("check", &[]);
    assert_says(&String::from_utf8_lossy(&said.stdout), &["ok       role"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_is_recognised_and_not_asked_again_and_again() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let (settings, users) = (folder.path().join("pgbouncer.ini"), folder.path().join("users"));
    std::fs::write(&users, "\"postgres\" \"\"\n").unwrap();
    let text = format!(
        "[databases]\nshop = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
         auth_type = trust\nauth_file = {}\nunix_socket_dir =\npool_mode = transaction\n\
         ignore_startup_parameters = extra_float_digits\n",
        postgres.port,
        users.display()
    );
    std::fs::write(&settings, text).unwrap();
    Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().unwrap();
    let mut pooler = Server::new(folder.path().join("log"));
    pooler.launch(as_postgres("/usr/sbin/pgbouncer".as_ref()).arg(&settings));
    pooler.wait_until(Duration::from_secs(10), || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    let mut pipeline = pipeline_with(&format!("postgres://postgres@127.0.0.1:{port}/shop?sslmode=disable"), "", "");
    assert_says(&refused(&mut pipeline), &["a pooler", "connect to Postgres itself"]);
    assert_says(&checked(&pipeline), &["a pooler", "connect to Postgres itself"]);
    let marked = format!("{}?pgbouncer=true", postgres.url());
    assert_says(&refused(&mut pipeline_with(&marked, "", "")), &["pgbouncer=true", "a pooler"]);
}

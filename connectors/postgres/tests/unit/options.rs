//! Connection URLs are read as libpq reads them, and what cannot be meant is refused.

use std::path::PathBuf;

use sooner_api::{Class, Code};
use sooner_postgres::options::{Binding, Host, Identity, WantedServer};
use sooner_postgres::{ConnectOptions, Secret, TlsMode};

fn parsed(text: &str) -> ConnectOptions {
    ConnectOptions::parse(text).expect("the URL can be used")
}

#[test]
fn what_a_url_leaves_out_has_libpqs_defaults() {
    let options = parsed("postgresql://me@db");
    assert_eq!((options.user.as_str(), options.database.as_str()), ("me", "me"), "the database is named by the user");
    assert_eq!((options.address().as_str(), options.tls), ("db:5432", TlsMode::Prefer));
    assert_eq!((options.password, options.tls_root), (None, None));
}

#[test]
fn addresses_are_read() {
    for (text, address) in [
        ("postgres://me@db.example:6432/shop", "db.example:6432"),
        ("postgres://me@10.0.0.1/shop", "10.0.0.1:5432"),
        ("postgres://me@[::1]:5433/shop", "::1:5433"),
        ("postgres://me@/shop", "localhost:5432"),
        ("postgres:///shop?user=me", "localhost:5432"),
        ("postgres://me@db/shop?host=other&port=7", "other:7"),
        ("postgres://me@/shop?host=/run/postgresql", "/run/postgresql/.s.PGSQL.5432"),
        ("postgres://me@db:5433/shop?host=%2Fvar%2Frun", "/var/run/.s.PGSQL.5433"),
    ] {
        assert_eq!(parsed(text).address(), address, "{text}");
    }
    assert_eq!(parsed("postgres://me@[::1]/shop").host, Host::Tcp("::1".to_owned()));
    assert_eq!(parsed("postgres://me@/shop?host=/tmp").host, Host::Unix(PathBuf::from("/tmp")));
}

#[test]
fn parameters_go_before_what_stands_in_the_address() {
    let options = parsed("postgres://me:old@db/x?user=you&password=p%26q&dbname=sh%20op&application_name=a");
    assert_eq!((options.user.as_str(), options.database.as_str()), ("you", "sh op"));
    assert_eq!(options.password.as_ref().map(Secret::reveal), Some("p&q"));
}

#[test]
fn names_in_the_address_are_decoded() {
    let options = parsed("postgres://m%C3%BCller:a%40b%3A+c@db/sh%2Fop?connect_timeout=3");
    assert_eq!((options.user.as_str(), options.database.as_str()), ("müller", "sh/op"));
    assert_eq!(options.password.as_ref().map(Secret::reveal), Some("a@b:+c"));
}

#[test]
fn tls_is_as_strict_as_it_says() {
    for (parameters, tls, root) in [
        ("sslmode=disable", TlsMode::Disable, None),
        ("sslmode=allow", TlsMode::Allow, None),
        ("sslmode=prefer", TlsMode::Prefer, None),
        ("sslmode=require&sslrootcert=/ca.pem", TlsMode::Require, Some("/ca.pem")),
        ("sslrootcert=/ca.pem&sslmode=verify-ca", TlsMode::VerifyCa, Some("/ca.pem")),
        ("sslmode=verify-full", TlsMode::VerifyFull, None),
        ("sslrootcert=system", TlsMode::VerifyFull, None),
        ("sslrootcert=/my%20ca.pem", TlsMode::Prefer, Some("/my ca.pem")),
    ] {
        let options = parsed(&format!("postgres://me@db/shop?{parameters}"));
        assert_eq!((options.tls, options.tls_root), (tls, root.map(PathBuf::from)), "{parameters}");
    }
}

#[test]
fn a_url_that_is_refused_does_not_show_its_password() {
    for (text, why) in [
        ("", ""),
        ("db.example", ""),
        ("postgres://me:hunter2@db:70000/shop", "port"),
        ("postgres://me:hunter2@db/shop?port=many", "port"),
        ("postgres://me:hunter2@db/shop?port=65536", "port"),
        ("postgres://me:hunter2@db/shop?sslmode=", "sslmode is ''"),
        ("postgres://me:hunter2@db/shop?sslmode=Require", "sslmode is 'Require'"),
        ("postgres://me:hunter2@db/shop?require_auth=md5", "'require_auth'"),
        ("https://me:hunter2@db/shop", "'https'"),
        ("postgres://:hunter2@db/shop", "no user"),
        ("postgres://me:hunter2@db/shop?user=", "no user"),
    ] {
        let error = ConnectOptions::parse(text).unwrap_err();
        assert_eq!((error.code, error.class), (Code::PostgresUrlInvalid, Class::Operator), "{text}");
        assert!(error.why.contains(why), "{text}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(error.remedy.contains("postgres://user@host:5432/database"), "{error}");
    }
}

#[test]
fn a_secret_is_revealed_only_when_asked() {
    let secret = Secret::new("hunter2");
    assert_eq!((format!("{secret:?}").as_str(), secret.reveal()), ("***", "hunter2"));
    assert_ne!(secret, Secret::new("hunter3"));
}

#[test]
fn urls_that_hosts_give() {
    let neon = "postgres://me:p@ep-cool-1.eu.example/shop?sslmode=require&channel_binding=require\
        &options=endpoint%3Dep-cool-1&keepalives=1&keepalives_idle=30&sslsni=1&gssencmode=disable";
    let options = ConnectOptions::parse(neon).unwrap();
    assert_eq!((options.tls, options.binding), (TlsMode::Require, Binding::Require));
    assert_eq!(options.options.as_deref(), Some("endpoint=ep-cool-1"));
    let own = ConnectOptions::parse("postgres://me@db/shop?sslcert=/c.pem&sslkey=/k.pem").unwrap();
    assert_eq!(own.identity, Some(Identity { certificate: "/c.pem".into(), key: "/k.pem".into() }));
}

#[test]
fn several_servers_are_tried_in_turn() {
    for text in [
        "postgres://me:p%40@a:1,[::1]:2,c/shop?target_session_attrs=read-write",
        "postgres://me:p%40@/shop?port=1,2,5432&host=a,::1,c&target_session_attrs=read-write",
    ] {
        let options = ConnectOptions::parse(text).unwrap();
        let servers: Vec<_> = options.for_each_server().map(|options| options.address()).collect();
        assert_eq!(servers, ["a:1", "::1:2", "c:5432"], "{text}");
        assert_eq!((options.wanted, options.password), (WantedServer::ReadWrite, Some(Secret::new("p@"))));
    }
    let all = ConnectOptions::parse("postgres://me@/shop?host=a,b&port=7").unwrap();
    assert_eq!(all.for_each_server().map(|options| options.port).collect::<Vec<_>>(), [7, 7]);
    assert_eq!(all.wanted, WantedServer::Primary, "a standby has no slot");
}

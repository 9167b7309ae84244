//! What the lake cannot hold, and stores that cannot be written to.

use std::path::Path;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn values_that_the_lake_cannot_hold() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    postgres
        .sql("CREATE TABLE times (id integer PRIMARY KEY, at timestamptz); CREATE TABLE calm (id integer PRIMARY KEY)")
        .await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    postgres.sql("INSERT INTO items VALUES (7777, 'x', 'NaN'); INSERT INTO times VALUES (5, 'infinity'); INSERT INTO calm VALUES (1)").await;
    assert_says(
        &reason_of(&pipeline, "public.items").await,
        &["id=7777", "column 'n'", "NaN has no place in a decimal"],
    );
    assert_says(&reason_of(&pipeline, "public.times").await, &["id=5", "column 'at'", "infinity has no place"]);
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.calm"]);
    // A parked table stays parked over a restart, and goes on once it is mended and resumed.
    pipeline.kill();
    postgres.sql("UPDATE items SET n = 0 WHERE id = 7777").await;
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    assert_says(&reason_of(&pipeline, "public.items").await, &["id=7777"]);
    resume_items(&pipeline, &postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_and_wrong_credentials_are_told_within_seconds() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql(TABLE).await;
    let folder = tempfile::tempdir().unwrap();
    let endpoint = format!("endpoint = \"{}\"", s3.endpoint());
    let mut pipeline = Pipeline::with(folder, &postgres.url(), "s3://absent/lake".into(), "", &endpoint);
    pipeline.set("AWS_ACCESS_KEY_ID", "test");
    pipeline.set("AWS_SECRET_ACCESS_KEY", "test");
    assert_says(&checked(&pipeline), &["NoSuchBucket", "create the bucket"]);
    assert_says(&refused(&mut pipeline), &["NoSuchBucket", "create the bucket, or correct url in [lake]"]);

    let folder = tempfile::tempdir().unwrap();
    let without = Pipeline::with(folder, &postgres.url(), "s3://lake/x".into(), "", &endpoint);
    let asked = Instant::now();
    let said = checked(&without);
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
    assert_says(&said, &["AWS_ACCESS_KEY_ID"]);

    let locked = S3::start_locked();
    let mut pipeline = Pipeline::s3(&postgres, &locked.endpoint());
    let asked = Instant::now();
    assert_says(&refused(&mut pipeline), &["cannot write to the lake", "check the credentials of [lake]"]);
    assert!(asked.elapsed() < Duration::from_secs(20), "it took {:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_ignores_conditions() {
    let (postgres, s3) = (Postgres::start(Version::V15).await, S3::start());
    postgres.sql(TABLE).await;
    let proxy = Proxy::start(s3.port);
    proxy.make_unconditional();
    let mut pipeline = Pipeline::s3(&postgres, &proxy.endpoint());
    let expected = ["does not honour conditional puts (If-None-Match: *)", "use a store that does"];
    assert_says(&checked(&pipeline), &expected);
    assert_says(&refused(&mut pipeline), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_table_of_somebody_else() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let mut pipeline = Pipeline::local(&postgres);
    let script = "import sys, pyarrow, deltalake; \
                  deltalake.write_deltalake(sys.argv[1], pyarrow.table({'other': [1, 2]}))";
    let path = format!("{}/public/items", pipeline.lake);
    let written = Command::new(integration_tests::python()).args(["-c", script, &path]).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    pipeline.start();
    let reason = reason_of(&pipeline, "public.items").await;
    assert_says(&reason, &["this pipeline did not make it", "move it away"]);
    assert!(!Path::new(&path).join("_delta_log/00000000000000000001.json").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_data_file() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let mut pipeline = Pipeline::local(&postgres);
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    pipeline.stop();
    let files = std::fs::read_dir(format!("{}/public/items", pipeline.lake)).unwrap().flatten();
    let file = files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "parquet")).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    pipeline.start();
    postgres.sql("UPDATE items SET a = 'needs the index' WHERE id = 1").await;
    let reason = reason_of(&pipeline, "public.items").await;
    assert_says(&reason, &["cannot read the data file", file.file_name().unwrap().to_str().unwrap(), "sooner resume"]);
    resume_items(&pipeline, &postgres).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() {
    let postgres = Postgres::start(Version::V15).await;
    postgres.sql(TABLE).await;
    let disk = SmallDisk::mount();
    let Some(disk) = disk else {
        // Only root may mount.
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let lake = disk.0.path().join("lake").display().to_string();
    let mut pipeline = Pipeline::with(folder, &postgres.url(), lake, "", "");
    pipeline.start();
    pipeline.catch_up(&postgres).await;
    std::fs::write(disk.0.path().join("ballast"), vec![1u8; 7 << 20]).unwrap();
    postgres.sql("INSERT INTO items SELECT i, md5(random()::text) || md5(random()::text), 1 FROM generate_series(1000, 60000) AS i").await;
    let full = |status: &sooner::status::Status| {
        status
            .trouble
            .as_ref()
            .is_some_and(|error| error.why.contains("No space left") && error.remedy.contains("make space"))
    };
    pipeline.wait_for("told that the disk is full", Duration::from_secs(60), full).await;
    std::fs::remove_file(disk.0.path().join("ballast")).unwrap();
    pipeline.catch_up(&postgres).await;
    pipeline.assert_equal(&postgres, &["public.items"]);
}

/// A file system of 10 MiB in memory.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<SmallDisk> {
        let folder = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=10m", "tmpfs"]).arg(folder.path()).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

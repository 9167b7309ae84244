//! What Debezium writes, with its schemas named as serializers of other registries do: a sink reads each form, and
//! builds the same table; and what is said where it cannot.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::collections::HashMap;
use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::ZlibEncoder;
use integration_tests::between::{self, LIMIT};
use integration_tests::debezium::Debezium;
use integration_tests::glue::{Glue, GuidRegistry};
use integration_tests::kafka::Kafka;
use integration_tests::pipeline::Pipeline;
use integration_tests::postgres::Postgres;
use integration_tests::readers::{Reader, compare};
use integration_tests::registry::Registry;
use integration_tests::topics::{Seen, find_topic};
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use uuid::Uuid;

const TABLE: &str = "public.a";

/// A key or a value as a serializer writes it, and the header that goes with it.
type Written = (Vec<u8>, Option<(&'static str, Vec<u8>)>);

struct World {
    postgres: Postgres,
    kafka: Kafka,
    registry: Registry,
    /// What Debezium wrote of the table.
    events: Vec<Seen>,
}

/// Has Debezium capture a table, of which rows and columns change.
async fn world() -> World {
    let (postgres, kafka, registry) = between::start().await;
    postgres.sql("CREATE TABLE a (id integer PRIMARY KEY, v text, n numeric(8, 2), at timestamptz)").await;
    postgres.sql("INSERT INTO a SELECT i, repeat('x', i), i / 3.0, now() FROM generate_series(1, 20) i").await;
    let settings = ["table.include.list=public.a", "poll.interval.ms=50"];
    let debezium = Debezium::start(&postgres, &kafka, &registry, "theirs", &settings);
    debezium.wait_until_streaming(&postgres, "theirs").await;
    postgres.sql("UPDATE a SET v = 'changed' WHERE id < 5; DELETE FROM a WHERE id = 9").await;
    postgres
        .sql("ALTER TABLE a ADD COLUMN w text; UPDATE a SET w = 'new' WHERE id = 3; INSERT INTO a VALUES (21)")
        .await;
    // 20 rows, 4 updates, a delete with its tombstone, an update and a row.
    let events = wait_for(&kafka, &format!("theirs.{TABLE}"), 28).await;
    World { postgres, kafka, registry, events }
}

/// Waits until a topic, which its writer may not have made yet, has so many messages, and returns them.
async fn wait_for(kafka: &Kafka, topic: &str, count: usize) -> Vec<Seen> {
    let asked = Instant::now();
    loop {
        let seen = find_topic(kafka, topic).unwrap_or_default();
        if seen.len() >= count {
            return seen;
        }
        assert!(asked.elapsed() < LIMIT, "{topic} has {} messages, not {count}", seen.len());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

impl World {
    /// Schemas that the events name, each under its id.
    fn schemas(&self) -> HashMap<u32, String> {
        let parts = self.events.iter().flat_map(|event| [Some(&event.key), event.value.as_ref()]).flatten();
        parts.map(|part| id_of(part)).map(|id| (id, self.registry.schema_text(id))).collect()
    }

    /// Writes Debezium's events again, to a topic of another prefix, in the form that `write` makes of a part. It is
    /// given the number of the event, whether the part is its key, the schema's id, and the datum.
    fn rewrite(&self, prefix: &str, write: impl Fn(usize, bool, u32, &[u8]) -> Written) {
        let topic = format!("{prefix}.{TABLE}");
        self.kafka.topics(&["--create", "--topic", &topic, "--partitions", "1"]);
        let producer: BaseProducer =
            ClientConfig::new().set("bootstrap.servers", self.kafka.brokers()).create().expect("a producer");
        for (number, event) in self.events.iter().enumerate() {
            let of = |is_key: bool, part: &Vec<u8>| write(number, is_key, id_of(part), &part[5..]);
            let (key, value) = (of(true, &event.key), event.value.as_ref().map(|value| of(false, value)));
            let named = [key.1.as_ref(), value.as_ref().and_then(|value| value.1.as_ref())];
            let headers = named
                .into_iter()
                .flatten()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let mut record = BaseRecord::<[u8], [u8]>::to(&topic).partition(0).key(&key.0).headers(headers);
            record.payload = value.as_ref().map(|value| value.0.as_slice());
            producer.send(record).map_err(|(error, _)| error).expect("sent");
        }
        producer.flush(LIMIT).expect("written");
    }

    /// A sink of the topics of a prefix, with these lines in `[registry]`.
    fn sink(&self, prefix: &str, registry: &str) -> Pipeline {
        let pipeline = Pipeline::kafka(&self.postgres, &self.kafka, &self.registry, "");
        let text = format!(
            "name = \"shop\"\n[lake]\nurl = \"{}\"\nfreshness = \"200ms\"\n[kafka]\nbrokers = \"{}\"\n\
             prefix = \"{prefix}\"\ngroup = \"{prefix}\"\nwritten_by = \"debezium\"\n[registry]\n{registry}\n",
            pipeline.lake,
            self.kafka.brokers()
        );
        std::fs::write(pipeline.folder().join("sooner.toml"), text).unwrap();
        pipeline
    }

    /// Waits until a sink has built the table that the database has.
    async fn assert_built(&self, sink: &mut Pipeline) {
        let asked = Instant::now();
        while let Err(difference) = compare(Reader::DuckDb, &self.postgres, &sink.lake, None, &[TABLE]) {
            assert!(asked.elapsed() < LIMIT, "{difference}\n{}", sink.log());
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(sink.is_running());
    }
}

fn id_of(part: &[u8]) -> u32 {
    assert_eq!(part[0], 0, "Debezium writes with Confluent's converter");
    u32::from_be_bytes(part[1..5].try_into().unwrap())
}

fn packed(datum: &[u8]) -> Vec<u8> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
    packer.write_all(datum).unwrap();
    packer.finish().unwrap()
}

fn glue_sink(world: &World, glue: &Glue) -> Pipeline {
    let mut sink = world.sink("glue", &format!("type = \"glue\"\nregion = \"eu-west-1\"\nurl = \"{}\"", glue.url()));
    sink.set("AWS_ACCESS_KEY_ID", &glue.keys.0);
    sink.set("AWS_SECRET_ACCESS_KEY", &glue.keys.1);
    sink
}

#[tokio::test(flavor = "multi_thread")]
async fn events_with_headers_of_aws_glue_are_read() {
    let (world, glue) = (world().await, Glue::start().await);
    let mut versions: HashMap<u32, Uuid> = HashMap::new();
    for (id, schema) in world.schemas() {
        versions.insert(id, glue.register(&format!("schema-{id}"), "AVRO", &schema).await);
    }
    let json = glue.register("json", "JSON", "{\"type\": \"object\"}").await;
    world.rewrite("glue", |number, is_key, id, datum| {
        let version = versions[&id].as_bytes().as_slice();
        let part = match number % 2 == 0 || is_key {
            true => [&[3, 0], version, datum].concat(),
            false => [&[3, 5], version, &packed(datum)].concat(),
        };
        (part, None)
    });
    let mut sink = glue_sink(&world, &glue);

    // Requests are verified from now on. Nobody may ask before the printed policy allows it.
    let checked = |sink: &Pipeline| String::from_utf8(sink.output("check", &[]).stdout).unwrap();
    let policy = sink.output("acls", &["--of", "registry"]);
    let policy = String::from_utf8(policy.stdout).unwrap();
    glue.lock().await;
    let refused = checked(&sink);
    assert!(refused.contains("AccessDenied") && refused.contains("allow the process' role glue:"), "{refused}");
    glue.unlock().await;
    glue.allow(&policy).await;
    glue.lock().await;
    let reached = checked(&sink);
    assert!(reached.contains("reached AWS Glue at"), "{reached}");

    sink.start_command("sink", &[]);
    world.assert_built(&mut sink).await;

    // What is no Avro, or unknown there, stops its table and says so.
    let of = |version: &Uuid| [&[3, 0], version.as_bytes().as_slice(), b"{}"].concat();
    world.kafka.produce("glue.public.a", &of(&versions.values().next().copied().unwrap()), &of(&json));
    let why = sink.wait_until_parked(TABLE).await.to_string();
    assert!(why.contains("AWS Glue has it as JSON") && why.contains("dead_letter_topic"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_whose_schemas_are_named_by_guids_or_in_record_headers_are_read() {
    let (world, guids) = (world().await, GuidRegistry::start());
    let known: HashMap<u32, Uuid> = world.schemas().iter().map(|(id, schema)| (*id, guids.register(schema))).collect();
    world.rewrite("guid", |number, is_key, id, datum| {
        let guid = [&[1], known[&id].as_bytes().as_slice()].concat();
        let name = if is_key { "__key_schema_id" } else { "__value_schema_id" };
        // Confluent's deserializers know GUIDs before a datum, too.
        if number % 3 == 0 { ([&guid, datum].concat(), None) } else { (datum.to_vec(), Some((name, guid))) }
    });
    // Apicurio's serializers write the id of a schema's content, which Confluent's API has as well.
    world.rewrite("apicurio", |_, is_key, id, datum| {
        let name = if is_key { "apicurio.key.contentId" } else { "apicurio.value.contentId" };
        (datum.to_vec(), Some((name, u64::from(id).to_be_bytes().to_vec())))
    });
    for (prefix, url) in [("guid", guids.url()), ("apicurio", world.registry.url())] {
        let mut sink = world.sink(prefix, &format!("url = \"{url}\""));
        sink.start_command("sink", &[]);
        world.assert_built(&mut sink).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_of_another_kind_is_told_with_what_to_set() {
    let world = world().await;
    let version = Uuid::new_v4();
    world.rewrite("glue", |_, _, _, datum| ([&[3, 0], version.as_bytes().as_slice(), datum].concat(), None));
    world.rewrite("guid", |_, is_key, _, datum| {
        let name = if is_key { "__key_schema_id" } else { "__value_schema_id" };
        (datum.to_vec(), Some((name, [&[1], version.as_bytes().as_slice()].concat())))
    });
    let url = format!("url = \"{}\"", world.registry.url());
    let glue = "type = \"glue\"\nregion = \"eu-west-1\"\nurl = \"http://127.0.0.1:9\"";
    for (prefix, registry, expected) in [
        ("glue", url.as_str(), "set type = \"glue\" and region in [registry]"),
        ("guid", url.as_str(), "know GUIDs, which older ones do not"),
        ("theirs", glue, "set type = \"confluent\" and url in [registry]"),
    ] {
        let mut sink = world.sink(prefix, registry);
        sink.start_command("sink", &[]);
        let why = sink.wait_until_parked(TABLE).await.to_string();
        assert!(why.contains(expected) && why.contains(&format!("{prefix}.public.a/0 offset 0")), "{why}");
    }
    // Set aside, such messages keep what names their schemas.
    let mut sink = world.sink("guid", &url);
    sink.configure("[kafka]", "dead_letter_topic = \"dead\"");
    sink.start_command("sink", &[]);
    let written = world.events.iter().filter(|event| event.value.is_some()).count();
    let letters = wait_for(&world.kafka, "dead", written).await;
    let guid = [&[1], version.as_bytes().as_slice()].concat();
    for (letter, event) in letters.iter().zip(world.events.iter().filter(|event| event.value.is_some())) {
        assert_eq!(letter.value.as_deref(), event.value.as_deref().map(|value| &value[5..]));
        let named = ["__key_schema_id", "__value_schema_id"].map(|name| letter.headers.get(name));
        assert_eq!(named, [Some(&guid); 2]);
    }
}

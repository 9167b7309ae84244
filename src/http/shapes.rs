//! What becomes of a table's columns on their way: each with its types of Postgres, Avro and Delta.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use sooner_delta::{DeltaLake, LakeStore, ShownColumn, TableShape, WaysToWrite, history_shape, table_shape};
use sooner_postgres::encoders::ValuePolicies;
use sooner_schemas::envelope::column_schema;
use sooner_schemas::mask::Mask;
use sooner_schemas::policy::{ValuePolicy, type_with_odd_values};
use sooner_schemas::type_name::postgres_type;
use sooner_schemas::{Column, Relation, TableName};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Logs of tables that are read at the same time.
const AT_ONCE: usize = 2;
/// How long the lake may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the kinds of columns come from. It follows a configuration that is read again.
#[derive(Clone)]
pub struct Shapes {
    origins: Arc<RwLock<Origins>>,
    reading: Arc<Semaphore>,
}

/// What of a configuration decides what becomes of columns.
#[derive(Clone, Default)]
pub struct Origins {
    /// What becomes of values that their target cannot hold; none where no source's side runs.
    pub policies: Option<ValuePolicies>,
    /// The lake; none where no sink's side runs.
    pub lake: Option<LakeStore>,
    /// Whether events go through topics.
    pub has_topics: bool,
    /// The lake's tables and cuts; none where no sink's side runs.
    pub tables: Option<DeltaLake>,
    /// In which ways tables are written, where a sink's side runs.
    pub ways: WaysToWrite,
}

/// A column, from its source to the lake. What is not known here is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Way {
    /// Name at the source.
    pub name: String,
    /// Place in the key, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<usize>,
    /// Type at the source, with its modifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_type: Option<String>,
    /// Whether it may be null at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nullable: Option<bool>,
    /// Whether its value is computed from other columns.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub generated: bool,
    /// Type in events, where these go through topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avro_type: Option<String>,
    /// Name in the lake, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lake_name: Option<String>,
    /// Type in the lake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta_type: Option<String>,
    /// Whether it may be null in the lake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta_nullable: Option<bool>,
    /// What becomes of values that their target cannot hold, where the type has such values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<ValuePolicy>,
    /// What becomes of all values before they leave the source's process, where they are masked: the rule, never a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
}

impl Shapes {
    /// Of a configuration.
    pub fn new(origins: Origins) -> Shapes {
        Shapes { origins: Arc::new(RwLock::new(origins)), reading: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// Another configuration counts from now on.
    pub fn follow(&self, origins: Origins) {
        *self.origins.write().unwrap_or_else(PoisonError::into_inner) = origins;
    }

    /// What counts now.
    pub fn origins(&self) -> Origins {
        self.origins.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The table in the lake; none if there is none yet, and what is in the way as the error.
    pub async fn of_lake(&self, lake: &LakeStore, table: &TableName) -> Result<Option<TableShape>, String> {
        self.patiently(table_shape(lake, table)).await
    }

    /// The table's history in the lake; none if there is none yet, and what is in the way as the error.
    pub async fn of_history(&self, lake: &LakeStore, table: &TableName) -> Result<Option<TableShape>, String> {
        self.patiently(history_shape(lake, table)).await
    }

    /// A few at a time, each in a time that somebody waits for.
    async fn patiently(
        &self,
        read: impl Future<Output = sooner_api::Result<Option<TableShape>>>,
    ) -> Result<Option<TableShape>, String> {
        let reading = async {
            let _permit = self.reading.acquire().await;
            read.await
        };
        match timeout(PATIENCE, reading).await {
            Ok(shape) => shape.map_err(|error| error.to_string()),
            Err(_) => Err(format!("the lake did not answer within {} seconds", PATIENCE.as_secs())),
        }
    }
}

/// Columns of a table: those of its source in their order, then those that the lake has besides.
pub fn ways(relation: Option<&Relation>, shape: Option<&TableShape>, origins: &Origins) -> Vec<Way> {
    let carried = relation.map(|relation| match &origins.policies {
        Some(policies) => relation.under_policies(|column| policies(&relation.name, column)),
        None => relation.clone(),
    });
    let in_lake = |column: &Column| shape?.columns.iter().find(|shown| is_same(column, shown));
    let mut ways = Vec::new();
    for (relation, carried) in relation.iter().zip(&carried) {
        let pairs = relation.columns.iter().zip(&carried.columns).enumerate();
        ways.extend(pairs.map(|(index, (column, carried))| {
            let at_source = Way {
                key: relation.key.iter().position(|key| *key == index).map(|place| place + 1),
                ..at_source(column, carried, origins)
            };
            with_lake(at_source, in_lake(column))
        }));
        let omitted = |name: &String| Way { name: name.clone(), mask: Some(Mask::Omit.to_string()), ..Way::default() };
        ways.extend(relation.omitted.iter().map(|column| omitted(&column.name)));
    }
    let shown = shape.map(|shape| shape.columns.as_slice()).unwrap_or_default();
    let is_new =
        |shown: &ShownColumn| !relation.is_some_and(|of| of.columns.iter().any(|column| is_same(column, shown)));
    ways.extend(shown.iter().filter(|shown| is_new(shown)).map(|shown| {
        let name = shown.source_name.clone().unwrap_or_else(|| shown.name.clone());
        let place = shape.and_then(|shape| shape.key.iter().position(|key| *key == name));
        with_lake(Way { name, key: place.map(|place| place + 1), ..Way::default() }, Some(shown))
    }));
    ways
}

/// What is known of a column by its source; `carried` is the column as events carry it.
fn at_source(column: &Column, carried: &Column, origins: &Origins) -> Way {
    Way {
        name: column.name.clone(),
        postgres_type: Some(postgres_type(column)),
        nullable: Some(column.nullable),
        generated: column.generated,
        avro_type: origins.has_topics.then(|| avro_text(&column_schema(carried))),
        policy: type_with_odd_values(&column.column_type).map(|_| carried.policy),
        mask: column.mask.as_ref().filter(|mask| mask.hides()).map(Mask::to_string),
        ..Way::default()
    }
}

fn with_lake(way: Way, shown: Option<&ShownColumn>) -> Way {
    let Some(shown) = shown else { return way };
    Way {
        lake_name: (shown.name != way.name).then(|| shown.name.clone()),
        delta_type: Some(shown.type_name.clone()),
        delta_nullable: Some(shown.nullable),
        ..way
    }
}

/// Whether a column of the lake is one of the source: by its number, and by its name where either number is not known.
fn is_same(column: &Column, shown: &ShownColumn) -> bool {
    match (column.number, shown.number) {
        (Some(number), Some(known)) => number == known,
        _ => column.name == *shown.source_name.as_ref().unwrap_or(&shown.name),
    }
}

/// An Avro type in a few words: the primitive type, and what Kafka Connect calls its meaning.
fn avro_text(schema: &Value) -> String {
    let property = |name: &str| schema.get(name).and_then(Value::as_str);
    let digits = |name: &str| schema.get(name).and_then(Value::as_u64).unwrap_or_default();
    match (schema.as_str(), property("type")) {
        (Some(name), _) => name.to_owned(),
        (_, Some("array")) => {
            let items = schema.get("items").and_then(Value::as_array).and_then(|items| items.last());
            format!("array of {}", items.map(avro_text).unwrap_or_default())
        }
        (_, Some(primitive)) if property("logicalType") == Some("decimal") => {
            format!("{primitive}, decimal({},{})", digits("precision"), digits("scale"))
        }
        (_, Some(primitive)) => match property("connect.name").or_else(|| property("connect.type")) {
            Some(meaning) => format!("{primitive}, {meaning}"),
            None => primitive.to_owned(),
        },
        _ => schema.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use sooner_schemas::{ColumnType, Scalar};

    use super::*;

    fn relation() -> Relation {
        let decimal = Column {
            type_oid: 1700,
            modifier: (10 << 16) + 2 + 4,
            ..Column::new("price", ColumnType::Scalar(Scalar::Decimal { precision: 10, scale: 2 })).numbered(2)
        };
        let id = Column { type_oid: 23, ..Column::new("id", ColumnType::Scalar(Scalar::Int4)).numbered(1) };
        let list = Column { type_oid: 1009, ..Column::new("tags", ColumnType::Array(Scalar::Text)).nullable() };
        Relation::new(TableName::new("public", "t"), vec![id, decimal, list], vec![0])
    }

    fn shown(name: &str, number: Option<i16>, type_name: &str) -> ShownColumn {
        let (name, type_name) = (name.to_owned(), type_name.to_owned());
        ShownColumn { name, source_name: None, number, type_name, nullable: true }
    }

    #[test]
    fn a_column_is_followed_from_its_source_to_the_lake() {
        let renamed =
            ShownColumn { source_name: Some("price".to_owned()), ..shown("PRICE_1", Some(2), "decimal(10,2)") };
        let columns = vec![shown("id", Some(1), "integer"), renamed, shown("added by hand", None, "string")];
        let shape = TableShape { columns, ..TableShape::default() };
        let policies: ValuePolicies = Arc::new(|_, _| ValuePolicy::Null);
        let origins = Origins { policies: Some(policies), has_topics: true, ..Origins::default() };
        let ways = ways(Some(&relation()), Some(&shape), &origins);
        let names: Vec<_> = ways.iter().map(|way| way.name.as_str()).collect();
        assert_eq!(names, ["id", "price", "tags", "added by hand"]);
        assert_eq!((ways[0].key, ways[0].nullable, ways[0].delta_nullable), (Some(1), Some(false), Some(true)));
        assert_eq!((ways[0].avro_type.as_deref(), ways[0].policy), (Some("int"), None));
        assert_eq!(ways[1].postgres_type.as_deref(), Some("numeric(10,2)"));
        assert_eq!(ways[1].avro_type.as_deref(), Some("bytes, decimal(10,2)"));
        assert_eq!((ways[1].lake_name.as_deref(), ways[1].policy), (Some("PRICE_1"), Some(ValuePolicy::Null)));
        assert_eq!((ways[2].avro_type.as_deref(), &ways[2].delta_type), (Some("array of string"), &None));
        assert_eq!((&ways[3].postgres_type, ways[3].delta_type.as_deref()), (&None, Some("string")));
    }

    #[test]
    fn without_a_source_the_lake_says_what_it_has() {
        let shape = TableShape {
            columns: vec![shown("id", Some(1), "integer"), shown("v", Some(2), "string")],
            key: vec!["id".to_owned()],
            ..TableShape::default()
        };
        let ways = ways(None, Some(&shape), &Origins::default());
        let told: Vec<_> = ways.iter().map(|way| (way.name.as_str(), way.key, way.delta_type.as_deref())).collect();
        assert_eq!(told, [("id", Some(1), Some("integer")), ("v", None, Some("string"))]);
        assert!(ways.iter().all(|way| way.postgres_type.is_none() && way.avro_type.is_none()));
    }
}

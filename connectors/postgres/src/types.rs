//! The types that have no fixed id: domains, enums, composite types, and the arrays of all types.
//!
//! <https://www.postgresql.org/docs/current/catalog-pg-type.html>

use std::collections::{BTreeMap, HashMap};

use sooner_api::Result;
use sooner_schemas::catalog_facts::TypeFacts;
use sooner_schemas::{ColumnType, Scalar};

use crate::client::Client;
use crate::pgoutput::RelationShape;
use crate::row::{number, text};

/// Types of columns, as the catalog has them at one moment.
#[derive(Debug, Default)]
pub struct Types {
    domains: HashMap<u32, (u32, i32)>,
    elements: HashMap<u32, u32>,
    /// Labels in order, each with the object id of its row.
    enums: HashMap<u32, Vec<(u32, String)>>,
    /// Numbers and types of attributes.
    composites: HashMap<u32, Vec<(i16, u32)>>,
}

impl Types {
    /// Loads the types that columns of any table use.
    pub async fn load(client: &mut Client) -> Result<Types> {
        Types::select(
            client,
            "SELECT DISTINCT a.atttypid FROM pg_catalog.pg_attribute a \
             JOIN pg_catalog.pg_class c ON c.oid = a.attrelid \
             WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND a.attnum > 0 AND NOT a.attisdropped \
               AND c.oid >= 16384",
        )
        .await
    }

    /// Loads those that a relation uses, in the message or in the catalog: each table has types of its own, so all of
    /// them are many where there are many tables.
    pub async fn load_used(client: &mut Client, shape: &RelationShape) -> Result<Types> {
        let named: Vec<_> = shape.columns.iter().map(|column| column.type_oid.to_string()).collect();
        let seed = format!(
            "SELECT unnest('{{{}}}'::oid[]) AS oid \
             UNION SELECT atttypid FROM pg_catalog.pg_attribute WHERE attrelid = {} AND attnum > 0",
            named.join(","),
            shape.oid
        );
        Types::select(client, &seed).await
    }

    /// Loads the types with the object ids that `seed` selects, and those that they are made of.
    async fn select(client: &mut Client, seed: &str) -> Result<Types> {
        let used = format!(
            "WITH RECURSIVE used (oid) AS ( \
                 ({seed}) UNION \
                 SELECT part.oid FROM used JOIN pg_catalog.pg_type t ON t.oid = used.oid CROSS JOIN LATERAL ( \
                     SELECT t.typbasetype UNION ALL SELECT t.typelem \
                     UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a \
                               WHERE t.typtype = 'c' AND a.attrelid = t.typrelid AND a.attnum > 0) AS part (oid) \
                 WHERE part.oid <> 0) "
        );
        let mut types = Types::default();
        let rows = client
            .query(&format!(
                "{used}SELECT oid, typtype, typelem, typbasetype, typtypmod FROM pg_catalog.pg_type \
                 WHERE oid IN (SELECT oid FROM used) AND \
                 (typtype = 'd' OR (typelem <> 0 AND typdelim = ',' AND typinput = 'pg_catalog.array_in'::pg_catalog.regproc))"
            ))
            .await?;
        for row in &rows {
            let oid = number(row, 0)?;
            if text(row, 1)? == "d" {
                types.domains.insert(oid, (number(row, 3)?, number(row, 4)?));
            } else {
                types.elements.insert(oid, number(row, 2)?);
            }
        }
        let labels = client
            .query(&format!(
                "{used}SELECT enumtypid, oid, enumlabel FROM pg_catalog.pg_enum \
                 WHERE enumtypid IN (SELECT oid FROM used) ORDER BY enumtypid, enumsortorder"
            ))
            .await?;
        for row in &labels {
            types.enums.entry(number(row, 0)?).or_default().push((number(row, 1)?, text(row, 2)?.to_owned()));
        }
        let attributes = client
            .query(&format!(
                "{used}SELECT t.oid, a.attnum, a.atttypid FROM pg_catalog.pg_type t \
                 JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid \
                 WHERE t.oid IN (SELECT oid FROM used) AND t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped \
                 ORDER BY t.oid, a.attnum"
            ))
            .await?;
        for row in &attributes {
            types.composites.entry(number(row, 0)?).or_default().push((number(row, 1)?, number(row, 2)?));
        }
        Ok(types)
    }

    /// Facts of a column's type, and of those that it is made of, added to `facts`.
    pub fn collect_facts(&self, oid: u32, facts: &mut BTreeMap<u32, TypeFacts>) {
        let (oid, _) = self.without_domain(oid, -1);
        if facts.contains_key(&oid) {
            return;
        }
        if let Some(&element) = self.elements.get(&oid) {
            self.collect_facts(element, facts);
        } else if let Some(labels) = self.enums.get(&oid) {
            facts.insert(oid, TypeFacts::Enum(labels.iter().cloned().collect()));
        } else if let Some(attributes) = self.composites.get(&oid) {
            facts.insert(oid, TypeFacts::Composite(attributes.clone()));
            for (_, attribute) in attributes {
                self.collect_facts(*attribute, facts);
            }
        }
    }

    /// Whether a type is one of those whose ids and meaning never change, so that nothing has to be looked up for it.
    pub fn is_fixed(oid: u32) -> bool {
        matches!(
            oid,
            16..=21 | 23 | 25 | 114 | 700 | 701 | 1042 | 1043 | 1082 | 1083 | 1114 | 1184 | 1700 | 2950 | 3802
        )
    }

    /// Column type for a type id and modifier. A domain counts as its base type.
    pub fn resolve(&self, oid: u32, modifier: i32) -> ColumnType {
        let (oid, modifier) = self.without_domain(oid, modifier);
        match self.elements.get(&oid) {
            Some(&element) => {
                let (element, modifier) = self.without_domain(element, modifier);
                ColumnType::Array(self.scalar(element, modifier))
            }
            None => ColumnType::Scalar(self.scalar(oid, modifier)),
        }
    }

    /// Whether the schemas declare defaults for columns of this type: as in Debezium, not for domains, `name` and
    /// `"char"`.
    pub fn tells_default(&self, oid: u32) -> bool {
        !self.domains.contains_key(&oid) && !matches!(oid, 18 | 19)
    }

    fn without_domain(&self, mut oid: u32, mut modifier: i32) -> (u32, i32) {
        while let Some(&(base, base_modifier)) = self.domains.get(&oid) {
            (oid, modifier) = (base, if base_modifier == -1 { modifier } else { base_modifier });
        }
        (oid, modifier)
    }

    /// Scalar for a type id and modifier; the ids are those of `pg_type.dat`.
    fn scalar(&self, oid: u32, modifier: i32) -> Scalar {
        match oid {
            16 => Scalar::Bool,
            21 => Scalar::Int2,
            23 => Scalar::Int4,
            20 => Scalar::Int8,
            700 => Scalar::Float4,
            701 => Scalar::Float8,
            1700 => numeric(modifier),
            18 | 19 | 25 | 1042 | 1043 => Scalar::Text,
            17 => Scalar::Bytea,
            1082 => Scalar::Date,
            1083 => Scalar::Time(fraction_digits(modifier)),
            1114 => Scalar::Timestamp(fraction_digits(modifier)),
            1184 => Scalar::Timestamptz(fraction_digits(modifier)),
            2950 => Scalar::Uuid,
            114 | 3802 => Scalar::Json,
            other => match self.enums.get(&other) {
                Some(labels) => Scalar::Enum(labels.iter().map(|(_, label)| label.clone()).collect()),
                None => Scalar::Other,
            },
        }
    }
}

/// Decodes a numeric's modifier: 4 more than a number with the precision in its upper and the scale in its lower
/// half; the scale has 11 bits, signed.
fn numeric(modifier: i32) -> Scalar {
    if modifier < 4 {
        return Scalar::Numeric;
    }
    let packed = modifier - 4;
    let precision = (packed >> 16) as u16;
    let scale = ((packed & 0x7FF) ^ 0x400) - 0x400;
    match u16::try_from(scale) {
        Ok(scale) if scale <= precision => Scalar::Decimal { precision, scale },
        _ => Scalar::Numeric,
    }
}

fn fraction_digits(modifier: i32) -> u8 {
    u8::try_from(modifier).ok().filter(|&digits| digits <= 6).unwrap_or(6)
}

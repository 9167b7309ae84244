//! `sooner erase`: removes rows of a subject from every place of the lake, and issues a certificate of it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sooner_delta::DeltaLake;
use sooner_delta::erase::{Erased, Erasures, Manner, Places};
use sooner_delta::erasure::subject::Subject;
use sooner_delta::erasures::{Begun, put_begun, put_erasure};
use sooner_delta::export::hexadecimal;
use sooner_delta::legal_holds::{HashedSubject, LEGAL, LegalHolds};
use sooner_schemas::TableName;

use super::erasing::beside::beside_tables;
use super::erasing::certificate::{Certificate, Search};
use super::erasing::dry_run::{dry_run, text_of};
use super::erasing::keeping::{check_holds, kept_in};
use super::erasing::known::{InLake, as_stored, check_known};
use super::erasing::local::in_state_folder;
use super::erasing::remains::{Ends, Remains, of_object, of_table};
use super::erasing::reports::in_reports;
use super::erasing::source::{SourceRows, ask, concerned, wait};
use super::erasing::topics::in_topics;
use super::print;
use super::upkeep::open_lake;
use crate::audit::certificates::erasures_of;
use crate::audit::trail::{Act, announced, recorded};
use crate::config::Config;
use crate::erasure_desk::ErasureOrder;

/// How long an erasure that a process is asked for waits until the lake has all that the source had.
const ORDER_TIMEOUT: Duration = Duration::from_secs(120);
/// Kind of the audit trail's entry that an erasure begins.
const BEGUN: &str = "erasure_begun";

/// Whose rows are erased, and how.
#[derive(Clone, Debug, clap::Args)]
pub struct Asked {
    /// Whose rows: COLUMN=VALUE in every table that has the column, or SCHEMA.TABLE.COLUMN=VALUE. May be given several
    /// times. Other users of the machine may see it in its list of processes: --keys keeps it from them.
    #[arg(long = "subject", value_name = "COLUMN=VALUE", required_unless_present = "keys")]
    subjects: Vec<Subject>,
    /// File that has one of these a line.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
    /// Only say what there is, and what keeps it.
    #[arg(long)]
    dry_run: bool,
    /// Erase although the source still has the subject: from histories, from tables that rows are only added to, and
    /// former states from mirrors. What changes at the source comes again.
    #[arg(long)]
    allow_source: bool,
    /// Drop the cuts that hold rows of the subject, unless a legal hold keeps them.
    #[arg(long)]
    drop_cuts: bool,
    /// Erase the results of reports' runs that hold rows of the subject. Such a run can be made again.
    #[arg(long)]
    drop_reports: bool,
    /// Do not wait until the lake has all that the source had committed before.
    #[arg(long)]
    no_wait: bool,
    /// How long it is waited for at most.
    #[arg(long, value_parser = humantime::parse_duration, default_value = "2m")]
    timeout: Duration,
    /// Print the certificate as JSON; with --dry-run, what was found.
    #[arg(long)]
    json: bool,
}

/// Runs `sooner erase`; false if something is left that was found.
pub async fn run(config: &Config, mut asked: Asked) -> anyhow::Result<bool> {
    if let Some(path) = &asked.keys {
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("cannot read {}: {error}. To do: see --keys", path.display()))?;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let subject = line.parse().map_err(|why| anyhow::anyhow!("line {} of --keys: {why}", number + 1))?;
            asked.subjects.push(subject);
        }
    }
    anyhow::ensure!(!asked.subjects.is_empty(), "there is nobody to erase. To do: give --subject, or lines in --keys");
    if asked.dry_run {
        let found = dry_run(config, &asked.subjects).await?;
        print(&if asked.json { format!("{}\n", serde_json::to_string_pretty(&found)?) } else { text_of(&found) });
        return Ok(true);
    }
    let name = format!("erase-{}-{:08x}", millis(SystemTime::now()), rand::random::<u32>());
    let subjects: Vec<_> = asked.subjects.iter().map(HashedSubject::of).collect();
    let told = json!({
        "name": name, "subjects": subjects, "drop_cuts": asked.drop_cuts, "drop_reports": asked.drop_reports
    });
    let act = Act::new("erasure", told);
    let begun = act.begun(BEGUN);
    let certificate = recorded(config, act, erase(config, &asked, name, subjects, begun)).await?;
    print(&match asked.json {
        true => format!("{}\n", serde_json::to_string_pretty(&certificate)?),
        false => certificate.text(),
    });
    Ok(certificate.clean)
}

/// Makes what a running process was asked for; returns what a dry run found. Others have their certificate in the lake.
pub async fn run_order(config: &Config, order: ErasureOrder) -> anyhow::Result<Option<Value>> {
    let ErasureOrder { name, subjects, dry_run: is_dry, allow_source, drop_cuts, drop_reports } = order;
    let asked = Asked {
        subjects,
        keys: None,
        dry_run: is_dry,
        allow_source,
        drop_cuts,
        drop_reports,
        no_wait: false,
        timeout: ORDER_TIMEOUT,
        json: true,
    };
    if is_dry {
        return Ok(Some(serde_json::to_value(dry_run(config, &asked.subjects).await?)?));
    }
    let subjects: Vec<_> = asked.subjects.iter().map(HashedSubject::of).collect();
    let told = json!({"name": name, "subjects": subjects, "drop_cuts": drop_cuts, "drop_reports": drop_reports});
    let act = Act::new("erasure", told).through_http();
    let begun = act.begun(BEGUN);
    recorded(config, act, erase(config, &asked, name, subjects, begun)).await?;
    Ok(None)
}

fn millis(at: SystemTime) -> i64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Returns the certificate, and what the audit trail is told.
async fn erase(
    config: &Config,
    asked: &Asked,
    name: String,
    subjects: Vec<HashedSubject>,
    begun: Act,
) -> anyhow::Result<(Certificate, Value)> {
    let (lake, begun_millis) = (open_lake(config)?, millis(SystemTime::now()));
    let (tables, holds) = (lake.tables().await?, LegalHolds::of(&lake).all().await?);
    check_holds(&holds, &asked.subjects, &[])?;
    let mut before = Erasures::of(&lake).store_time(&name).await?;
    let InLake { subjects: in_lake, masked } = as_stored(config, &tables, &asked.subjects).await?;
    let held = LegalHolds::of(&lake).subjects().await?;
    let places = Erasures::of(&lake).find_subjects(&tables, &in_lake, &held).await?;
    check_known(config, &lake, &tables, &asked.subjects).await?;
    let source = agreed_with_source(config, &lake, (&tables, &places), asked).await?;
    let asked = &Asked { subjects: in_lake, ..asked.clone() };
    if source.is_none() || asked.no_wait {
        // What lies there may belong to a commit to come, however old it is.
        before = UNIX_EPOCH;
    }
    // Again, since more has come from the source meanwhile.
    let places = Erasures::of(&lake).find_subjects(&tables, &asked.subjects, &held).await?;
    check_holds(&LegalHolds::of(&lake).all().await?, &asked.subjects, &places)?;
    let ends = Ends::of(&lake, &holds).await?;
    let unfinished = erasures_of(config, &lake).await?.unfinished(&asked.subjects);
    announced(config, begun).await?;
    let cuts_dropped = if asked.drop_cuts { drop_cuts(&lake, &places).await? } else { Vec::new() };
    begin(&lake, (&name, begun_millis), &subjects, &tables).await?;
    let (erased, mut remains) =
        erase_tables(config, &lake, (&tables, asked), source.as_ref(), (&name, before, &ends)).await?;
    let topics = in_topics(config, &lake, &asked.subjects, Some(&name)).await?;
    let reports = in_reports(config, &asked.subjects, Some(name.as_str()).filter(|_| asked.drop_reports)).await?;
    remains.extend(reports.remains());
    remains.extend(masked);
    let of_cuts = places.iter().filter(|place| place.of_cut.as_ref().is_some_and(|cut| !cuts_dropped.contains(cut)));
    remains.extend(of_cuts.flat_map(|place| kept_in(place, &ends)));
    remains.extend(beside_tables(&lake, &tables, &asked.subjects).await?);
    remains.extend(in_state_folder(&config.state_dir, &asked.subjects).await);
    let certificate = Certificate {
        name: name.clone(),
        pipeline: config.name.clone(),
        written_by: concat!("sooner ", env!("CARGO_PKG_VERSION")).to_owned(),
        begun_millis,
        ended_millis: 0,
        subjects,
        completes: unfinished,
        complete_lsn: source.as_ref().filter(|_| !asked.no_wait).map(|source| source.lsn),
        source_rows: source.map(|source| source.rows).unwrap_or_default(),
        cuts_dropped,
        search: search(&lake, asked, &name, &mut remains).await?,
        remains: Vec::new(),
        tables: erased,
        topics: topics.erased.topics,
        dead_letters: topics.erased.dead_letters,
        dead_letters_dropped: topics.letters_dropped,
        report_objects: reports.objects,
        reports: reports.runs,
        found_nothing: false,
        clean: false,
    };
    // They are no objects of the lake.
    remains.extend(topics.remains);
    issue(&lake, certificate.ended(remains)).await
}

/// Stores that the erasure begins.
async fn begin(
    lake: &DeltaLake,
    (name, begun_millis): (&str, i64),
    subjects: &[HashedSubject],
    tables: &[TableName],
) -> anyhow::Result<()> {
    let (name, pipeline) = (name.to_owned(), lake.pipeline().to_owned());
    let (subjects, tables) = (subjects.to_vec(), tables.to_vec());
    put_begun(lake, &Begun { name, pipeline, begun_millis, subjects, tables }).await?;
    Ok(())
}

/// Erases from tables and histories; returns what was done to them, and what is left.
async fn erase_tables(
    config: &Config,
    lake: &DeltaLake,
    (tables, asked): (&[TableName], &Asked),
    source: Option<&SourceRows>,
    (name, before, ends): (&str, SystemTime, &Ends),
) -> anyhow::Result<(Vec<Erased>, Vec<Remains>)> {
    let (mut erased, mut remains) = (Vec::new(), Vec::new());
    for table in tables {
        let has = source.is_none_or(|source| source.rows.contains_key(table) || source.unknown.contains(table));
        let spares_mirrors = has && config.tables.ways(table).append.is_none();
        for is_history in [false, true] {
            let manner = Manner { erasure: name, before, spares_mirrors };
            let done = Erasures::of(lake).erase_subjects(table, is_history, &asked.subjects, manner).await?;
            if let Some(done) = done {
                remains.extend(of_table(&folder(lake, table, is_history), &done, ends));
                erased.push(done);
            }
        }
    }
    Ok((erased, remains))
}

/// Asks the source, and waits until the lake has what the source had; none without a source in the configuration.
async fn agreed_with_source(
    config: &Config,
    lake: &DeltaLake,
    (tables, places): (&[TableName], &[Places]),
    asked: &Asked,
) -> anyhow::Result<Option<SourceRows>> {
    if config.source.is_none() {
        anyhow::ensure!(
            asked.allow_source,
            "this configuration has no [source], so nobody can tell whether the source still has the subject. To do: \
             run it where [source] is configured, or --allow-source"
        );
        return Ok(None);
    }
    let source = ask(config, lake, tables, &asked.subjects).await?;
    if let Some((table, rows)) = source.rows.iter().next().filter(|_| !asked.allow_source) {
        anyhow::bail!(
            "the source still has {rows} rows of the subject in {table}. To do: delete them at the source first, or \
             --allow-source, which erases from histories, and former states, nevertheless"
        );
    }
    let is_unknown = |place: &&Places| place.files > 0 && source.unknown.contains(&place.table);
    if let Some(place) = places.iter().find(is_unknown).filter(|_| !asked.allow_source) {
        anyhow::bail!(
            "the lake has rows of the subject in {}, and the source has that table without the column, so nobody can tell \
             whether it still has them. To do: name the column as the source has it now, or --allow-source",
            place.table
        );
    }
    if !asked.no_wait {
        let concerned = concerned(lake, tables, &asked.subjects).await?;
        wait(config, &concerned, source.lsn, asked.timeout).await?;
    }
    Ok(Some(source))
}

/// Searches all bytes, and tells what has values although no table's file is known to.
async fn search(lake: &DeltaLake, asked: &Asked, name: &str, remains: &mut Vec<Remains>) -> anyhow::Result<Search> {
    let values: Vec<_> = asked.subjects.iter().map(|subject| subject.value.as_str()).collect();
    let searched = Erasures::of(lake).search_bytes(values.iter().copied()).await?;
    let known: BTreeSet<_> = remains.iter().map(|left| left.place.clone()).collect();
    remains.extend(searched.holding.iter().filter(|path| !known.contains(*path)).map(|path| of_object(path)));
    let list = put_erasure(lake, &format!("{name}.files"), searched.list.clone().into_bytes()).await?;
    Ok(Search::of(&searched, &values, list.to_string()))
}

async fn issue(lake: &DeltaLake, certificate: Certificate) -> anyhow::Result<(Certificate, Value)> {
    let text = serde_json::to_string_pretty(&certificate)?;
    let sha256 = hexadecimal(&Sha256::digest(text.as_bytes()));
    put_erasure(lake, &format!("{}.json", certificate.name), text.into_bytes()).await?;
    let rows: u64 = certificate.tables.iter().map(|erased| erased.rows).sum();
    let files: usize = certificate.tables.iter().map(|erased| erased.files_deleted.len()).sum();
    let told = json!({
        "clean": certificate.clean, "rows": rows, "files_deleted": files, "search": certificate.search,
        "remains": certificate.remains.len(), "certificate_sha256": sha256,
    });
    Ok((certificate, told))
}

/// Drops cuts that hold files with rows of subjects; those that a legal hold keeps stay.
async fn drop_cuts(lake: &DeltaLake, places: &[Places]) -> anyhow::Result<Vec<String>> {
    let kept = places.iter().flat_map(|place| &place.held);
    let names: BTreeSet<_> = kept.flat_map(|kept| &kept.holds).filter(|name| !name.starts_with(LEGAL)).collect();
    let mut dropped = Vec::new();
    for name in names {
        match lake.drop_cut(name).await {
            Ok(_) => dropped.push(name.clone()),
            Err(error) if error.code == sooner_api::Code::Held => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(dropped)
}

/// Folder of a table, or of its history, below the lake.
fn folder(lake: &DeltaLake, table: &TableName, is_history: bool) -> String {
    let location = if is_history { lake.history_location(table) } else { lake.location(table) };
    let path = location.folder().to_string();
    path.strip_prefix(lake.store().prefix().as_ref()).unwrap_or(&path).trim_start_matches('/').to_owned()
}

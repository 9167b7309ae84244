//! Cuts at past positions, which are made of histories where no version is there.

use std::collections::BTreeMap;

use sooner_api::{Code, Feed, Lake, LakeTable};
use sooner_delta::cut_check::unlike_mirror;
use sooner_delta::cuts::Cut;
use sooner_delta::log::replay::replay;
use sooner_delta::maintenance::holds::holds_in_force;
use sooner_delta::past_cuts::{PastCut, PastCuts};
use sooner_delta::{Deletes, DeltaLake, OnChange, Ways, WaysToWrite};
use sooner_schemas::Lsn;
use sooner_schemas::encode::{Origin, TupleValue};
use sooner_schemas::event::Watermark;

use crate::append::{copy, read, start};
use crate::support::{World, mark, name, origin, rows_at, text};

/// A table with a history, and the past cut at its first transaction, which one commit has together with the second.
async fn spanned(world: &World) -> (DeltaLake, PastCut) {
    let ways = Ways { mirror: true, history: true, ..Ways::default() };
    let lake = world.lake().with_ways(WaysToWrite::new(move |_| ways));
    let mut table = lake.open(&name(), &Feed::Slot("s".to_owned())).await.unwrap();
    copy(world, &mut table, 5, &[1], "copied").await;
    table.stage(world.inserted(10, 2..=3, "first")).await.unwrap();
    table.stage(world.inserted(20, 4..=5, "second")).await.unwrap();
    table.commit(mark(20)).await.unwrap();
    let past = PastCuts::of(&lake).past_cut(Lsn(10), &[(name(), true)]).await.unwrap();
    assert!(past.rebuilt.contains_key(&name()), "{past:?}");
    (lake, past)
}

fn cut(made_micros: i64) -> Cut {
    let (name, tables) = ("q3".to_owned(), BTreeMap::new());
    Cut { name, lsn: Lsn(10), commit_micros: 0, made_micros, until_millis: None, tables }
}

/// Attempts to make the cut whose tables are there.
fn attempts_left(world: &World) -> usize {
    let folders = std::fs::read_dir(world.cut_tables("q3")).unwrap().flatten();
    let logs = folders.map(|folder| folder.path().join("public/t/_delta_log"));
    logs.filter(|log| std::fs::read_dir(log).is_ok_and(|mut files| files.next().is_some())).count()
}

#[tokio::test]
async fn of_processes_that_make_a_past_cut_of_one_name_at_once_one_does_and_its_tables_stay() {
    for _ in 0..10 {
        let world = World::new(1 << 20);
        let (lake, past) = spanned(&world).await;
        let cuts = PastCuts::of(&lake);
        let attempts = (1..=4).map(|made_micros| cuts.make_past_cut(cut(made_micros), &past));
        let made = futures::future::join_all(attempts).await;
        let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
        let refused = refused.into_iter().map(Result::unwrap_err).collect::<Vec<_>>();
        assert!(made.len() == 1 && refused.iter().all(|error| error.code == Code::CutExists), "{refused:?}");
        let stored = lake.cut("q3").await.unwrap().unwrap();
        assert_eq!(made[0].as_ref().unwrap(), &stored);
        cuts.check_held(&stored).await.unwrap();
        let found = stored.tables[&name()].mirror.as_ref().unwrap();
        assert_eq!(rows_at(&lake.mirror_in_cut(&name(), found)).await.len(), 3);
        assert_eq!(attempts_left(&world), 1, "what the others made is gone");
    }
}

#[tokio::test]
async fn what_an_attempt_has_left_goes_after_a_day_and_what_a_cut_names_stays() {
    let world = World::new(1 << 20);
    let (lake, past) = spanned(&world).await;
    let made = PastCuts::of(&lake).make_past_cut(cut(1), &past).await.unwrap();
    for (id, days) in [("recent", 0), ("old", 2)] {
        let left = world.cut_tables("q3").join(id).join("public/t/part-1.parquet");
        std::fs::create_dir_all(left.parent().unwrap()).unwrap();
        let written = std::time::SystemTime::now() - std::time::Duration::from_secs(days * 86_400);
        std::fs::File::create(&left).unwrap().set_modified(written).unwrap();
    }
    PastCuts::of(&lake).sweep().await.unwrap();
    let (recent, old) = (world.cut_tables("q3").join("recent"), world.cut_tables("q3").join("old"));
    assert!(recent.join("public/t/part-1.parquet").exists() && !old.join("public/t/part-1.parquet").exists());
    let found = made.tables[&name()].mirror.as_ref().unwrap();
    assert!(replay(&lake.mirror_in_cut(&name(), found), &[]).await.unwrap().exists());
}

#[tokio::test]
async fn a_cut_stays_held_whose_name_a_failed_past_cut_had_whenever_that_gives_up() {
    let world = World::new(1 << 20);
    let (lake, past) = spanned(&world).await;
    // Without files of the history, every attempt at the past cut fails once it holds what it needs.
    let history = lake.history_location(&name());
    for file in std::fs::read_dir(history.url.to_file_path().unwrap()).unwrap().flatten() {
        if file.path().extension().is_some_and(|ending| ending == "parquet") {
            std::fs::remove_file(file.path()).unwrap();
        }
    }
    let (table, versions) = (lake.location(&name()), BTreeMap::from([(name(), (Some(1), Some(0)))]));
    let cuts = PastCuts::of(&lake);
    for attempt in 1..=60 {
        let of_now = Cut { name: format!("now-{attempt}"), ..cut(attempt) };
        let failing = Cut { name: of_now.name.clone(), ..cut(-attempt) };
        let later = async {
            tokio::time::sleep(std::time::Duration::from_micros(attempt as u64 * 250)).await;
            lake.make_cut(of_now, versions.clone()).await
        };
        let (stored, failed) = tokio::join!(later, cuts.make_past_cut(failing, &past));
        failed.unwrap_err();
        let stored = stored.unwrap();
        for (location, version) in [(&table, 1), (&history, 0)] {
            let held = holds_in_force(location, std::time::SystemTime::now()).await.unwrap();
            assert_eq!(held.get(&stored.name).map(|hold| hold.version), Some(version), "{}", stored.name);
        }
    }
}

#[tokio::test]
async fn a_moment_before_what_the_logs_know_is_told_by_the_history() {
    let world = World::new(1 << 20);
    let ways = Ways { mirror: true, history: true, ..Ways::default() };
    let lake = world.lake().with_ways(WaysToWrite::new(move |_| ways));
    let mut table = lake.open(&name(), &Feed::Slot("s".to_owned())).await.unwrap();
    let late = |lsn| Watermark { commit_micros: 100_000_000, ..mark(lsn) };
    table.begin_copy(start(&world, 5)).await.unwrap();
    table.stage(read(&world, 5, &[1], "copied")).await.unwrap();
    table.end_copy(late(5)).await.unwrap();
    for lsn in [10, 20, 30] {
        let inserted = world.events(|encoder, out| {
            let at = Origin { source_micros: lsn as i64 * 1_000_000, ..origin(lsn, 0) };
            encoder.insert(out, &at, &[text(&lsn.to_string()), TupleValue::Null, text("b")]).unwrap();
        });
        table.stage(inserted).await.unwrap();
        table.commit(late(lsn)).await.unwrap();
    }
    for (seconds, lsn) in [(19, 10), (20, 20), (99, 30), (100, 30)] {
        let found = PastCuts::of(&lake).position_at(&[name()], seconds * 1_000_000).await.unwrap();
        assert_eq!(found, Some(Lsn(lsn)), "{seconds}");
    }
}

#[tokio::test]
async fn a_history_that_tells_another_table_than_the_lake_has_is_known_to() {
    let both = Ways { mirror: true, history: true, ..Ways::default() };
    for (ways, doubt) in [
        (both, None),
        (Ways { deletes: Deletes::Soft, ..both }, Some("deleted are kept")),
        (Ways { mirror: false, append: Some(OnChange::Ignore), ..both }, Some("are ignored in the lake")),
    ] {
        let world = World::new(1 << 20);
        let lake = world.lake().with_ways(WaysToWrite::new(move |_| ways));
        let mut table = lake.open(&name(), &Feed::Slot("s".to_owned())).await.unwrap();
        copy(&world, &mut table, 5, &[1, 2], "copied").await;
        let told = unlike_mirror(&lake, &name()).await.unwrap();
        assert_eq!(told.is_some(), doubt.is_some(), "{told:?}");
        assert!(told.unwrap_or_default().contains(doubt.unwrap_or_default()), "{told:?}");
    }
}

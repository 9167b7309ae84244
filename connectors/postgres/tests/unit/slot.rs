//! A slot is used only if the stream can go on from it; otherwise the error says what to do about it.

use sooner_api::{Class, Code, SlotStanding};
use sooner_postgres::slot::{Slot, check};
use sooner_schemas::Lsn;

fn sound() -> Slot {
    Slot {
        plugin: Some("pgoutput".to_owned()),
        database: Some("shop".to_owned()),
        active_pid: None,
        confirmed_flush_lsn: Some(Lsn(500)),
        standing: standing("reserved"),
        invalidation: None,
        survives_failover: false,
    }
}

fn standing(status: &str) -> SlotStanding {
    SlotStanding { retained_bytes: 16 << 20, wal_status: Some(status.to_owned()), ..SlotStanding::default() }
}

#[test]
fn a_sound_slot_goes_on_where_it_was_confirmed() {
    let with_status = |status: &str| Slot { standing: standing(status), ..sound() };
    for slot in [
        sound(),
        with_status("extended"),
        with_status("unreserved"),
        Slot { standing: SlotStanding::default(), ..sound() },
        Slot { active_pid: Some(42), ..sound() },
    ] {
        assert_eq!(check("sooner", &slot, "shop"), Ok(Lsn(500)), "{slot:?}");
    }
}

#[test]
fn a_slot_that_cannot_go_on_says_why_and_what_to_do() {
    for (slot, why, remedy) in [
        (Slot { plugin: Some("wal2json".to_owned()), ..sound() }, "'wal2json'", "another slot name"),
        (Slot { plugin: None, database: None, ..sound() }, "physical", "another slot name"),
        (Slot { database: Some("other".to_owned()), ..sound() }, "'other'", "another slot name"),
        (Slot { database: None, ..sound() }, "'?'", "another slot name"),
        (Slot { standing: standing("lost"), ..sound() }, "max_slot_wal_keep_size", "--recopy"),
        (
            Slot { invalidation: Some("idle_timeout".to_owned()), ..sound() },
            "idle_replication_slot_timeout",
            "--recopy",
        ),
        (Slot { invalidation: Some("another".to_owned()), ..sound() }, "invalidated it (another)", "--recopy"),
        (Slot { confirmed_flush_lsn: None, ..sound() }, "did not finish", "then start again"),
    ] {
        let error = check("sooner", &slot, "shop").unwrap_err();
        assert_eq!((error.code, error.class), (Code::SlotUnusable, Class::Operator));
        assert!(error.what.contains("'sooner'"), "{error}");
        assert!(error.why.contains(why) && error.remedy.contains(remedy), "{error}");
    }
}

#[test]
fn the_statement_that_drops_a_slot_quotes_its_name() {
    let error = check("o'clock", &Slot { standing: standing("lost"), ..sound() }, "shop").unwrap_err();
    assert!(error.remedy.contains("SELECT pg_drop_replication_slot('o''clock')"), "{error}");
}

//! What keeps rows of subjects: legal holds, which refuse an erasure, and cuts.

use sooner_delta::erase::{Erased, Places};
use sooner_delta::erasure::subject::Subject;
use sooner_delta::legal_holds::LegalHold;

use super::remains::{Ends, Remains, of_table};

/// Legal holds that keep subjects, or tables that hold rows of them.
pub fn refusing<'a>(
    holds: &'a [LegalHold],
    subjects: &'a [Subject],
    places: &'a [Places],
) -> impl Iterator<Item = &'a LegalHold> {
    holds.iter().filter(|hold| hold.is_in_force()).filter(|hold| {
        let keeps_subject = hold.subject.iter().any(|held| subjects.iter().any(|subject| held.may_be(subject)));
        let keeps = |place: &Places| hold.tables.contains(&place.table) || place.kept_for.contains(&hold.name);
        keeps_subject || places.iter().any(keeps)
    })
}

/// An error if a legal hold keeps subjects, or rows that were found of them.
pub fn check_holds(holds: &[LegalHold], subjects: &[Subject], places: &[Places]) -> anyhow::Result<()> {
    match refusing(holds, subjects, places).next() {
        Some(hold) => Err(hold.refusal("cannot erase the subject").into()),
        None => Ok(()),
    }
}

/// A legal hold, for a person.
pub fn told_of(hold: &LegalHold) -> String {
    let end = crate::commands::hold::end(hold);
    format!("the legal hold '{}' keeps {}, {end}: {}", hold.name, crate::commands::hold::kept(hold), hold.reason)
}

/// What cuts and legal holds keep of a table.
pub fn kept_in(place: &Places, ends: &Ends) -> Vec<Remains> {
    let erased = Erased { held: place.held.clone(), ..Erased::default() };
    of_table(&place.folder, &erased, ends)
}
